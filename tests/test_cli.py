"""The console command: light to start, every error one paragraph and its exit code."""

from __future__ import annotations

import ast
import errno
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from omnivision.errors import ConfigError, DataError, DivergedError, PlanError, ResumableError
from omnivision_cli import main as command
from omnivision_cli.doctor import examine
from omnivision_cli.doctor import main as doctor
from omnivision_cli.verbs import VERBS, Verb, flat_verbs


def module_path(root, module: str):
    package, _, rest = module.partition(".")
    folder = {"omnivision": "omnivision", "omnivision_cli": "omnivision/cli", "omnivision_train": "train", "omnivision_eval": "eval"}[package]
    return root / folder / (rest.replace(".", "/") + ".py")


@pytest.mark.parametrize("words", [["--help"], ["version"], ["version", "--json"], ["data", "--help"], ["doctor", "--help"], ["nonsense"]])
def test_answers_without_importing_torch(words):
    code = ("import sys; from omnivision_cli.main import main; code = main(sys.argv[1:]); "
            "sys.exit(99 if {'torch', 'transformers', 'numpy'} & set(sys.modules) else code)")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == (2 if words == ["nonsense"] else 0), done.stderr


@pytest.mark.parametrize("name", list(flat_verbs()))
def test_help_and_a_wrong_flag_are_answered_before_torch_is_loaded(name):
    code = ("import sys; from omnivision_cli.main import main\n"
            "for end, expected in (('--help', 0), ('--nonsense', 2)):\n"
            "    assert main([*sys.argv[1:], end]) == expected\n"
            "print(*sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code, *name.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr.endswith("\n\n"), done.stderr


def test_help_names_every_verb(capsys):
    assert command.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in flat_verbs())


@pytest.mark.parametrize("name", list(flat_verbs()))
def test_every_verb_is_there(root, name):
    module, function = flat_verbs()[name].target.split(":")
    path = module_path(root, module)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    found |= {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert function in found


@pytest.fixture
def verb(monkeypatch):
    """Lets a test say what the verb `broken` does."""
    module = types.ModuleType("broken_verb")
    monkeypatch.setitem(sys.modules, "broken_verb", module)
    monkeypatch.setitem(VERBS, "broken", Verb("for a test", "broken_verb:main"))
    before = signal.getsignal(signal.SIGTERM)

    def does(action):
        module.main = action

    yield does
    signal.signal(signal.SIGTERM, before)


def raising(error):
    def main(argv):
        raise error
    return main


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", "runs/a/metrics.jsonl")


CASES = [
    (ConfigError("bad key", "a.yaml", "Fix it."), 2, "bad key (a.yaml). Fix it."),
    (DataError("bad row", "rows.jsonl:3"), 3, "bad row (rows.jsonl:3)."),
    (PlanError("too big"), 4, "too big."),
    (DivergedError("nan"), 5, "nan."),
    (ResumableError("worker died"), 6, "worker died."),
    (ResumableError("a server: \x1b]0;title\x07\x1b[2J"), 6, "a server: \\x1b]0;title\\x07\\x1b[2J."),
    (MemoryError(), 4, "Out of memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried to"), 4, "Out of memory"),
    (disk_full(), 6, "The disk is full (runs/a/metrics.jsonl)"),
    (RuntimeError("Error while serializing: IoError(Os { code: 28, message: \"No space left on device\" })"), 6, "The disk is full"),
    (KeyboardInterrupt(), 130, "Interrupted"),
    (ZeroDivisionError("division\nby zero"), 1, "ZeroDivisionError: division by zero. Run the same command with --debug"),
]


@pytest.mark.parametrize(("error", "code", "said"), CASES)
def test_every_error_ends_in_one_paragraph(verb, capsys, error, code, said):
    verb(raising(error))
    assert command.main(["broken"]) == code
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and captured.out == ""


@pytest.mark.parametrize(("error", "code", "said"), CASES)
def test_json_errors_are_one_object_on_stdout(verb, capsys, error, code, said):
    verb(raising(error))
    assert command.main(["broken", "--json"]) == code
    body = json.loads(capsys.readouterr().out)["error"]
    assert body["exit_code"] == code and body["type"] == type(error).__name__ and body["what"]


def test_the_cause_of_an_error_counts(verb, capsys):
    def main(argv):
        try:
            raise disk_full()
        except OSError as error:
            raise RuntimeError("writing failed") from error
    verb(main)
    assert command.main(["broken"]) == 6


def test_torch_out_of_memory(verb, capsys):
    import torch

    verb(raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")))
    assert command.main(["broken"]) == 4


def test_debug_shows_the_traceback_and_is_not_passed_on(verb, capsys):
    seen = []

    def main(argv):
        seen.extend(argv)
        raise ValueError("x")
    verb(main)
    assert command.main(["broken", "--debug", "a", "--", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert seen == ["a", "--", "--debug"]


def test_terminated_unwinds(verb, capsys):
    put_away = []

    def main(argv):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            put_away.append(True)
    verb(main)
    assert command.main(["broken"]) == 143 and put_away == [True]
    assert command.main(["broken", "--json"]) == 143 and json.loads(capsys.readouterr().out)["error"]["exit_code"] == 143


def test_closed_streams_and_a_full_disk_before_anything_is_loaded():
    for closed in ("<&-", ">&-", "2>&-"):
        assert subprocess.run(f"exec {sys.executable} -m omnivision_cli version --json {closed}", shell=True, stderr=subprocess.DEVNULL, check=False).returncode == 0, closed
    if not os.path.exists("/dev/full"):
        return
    full = subprocess.run(f"exec {sys.executable} -m omnivision_cli version > /dev/full", shell=True, capture_output=True, text=True, check=False)
    assert full.returncode == 6 and "The disk is full" in full.stderr


def test_return_codes_pass_through(verb, capsys):
    verb(lambda argv: None)
    assert command.main(["broken"]) == 0
    verb(lambda argv: 1)
    assert command.main(["broken"]) == 1


def test_usage_mistakes(capsys):
    assert command.main([]) == 2
    assert command.main(["evil"]) == 2
    assert "Did you mean `eval`?" in capsys.readouterr().err
    assert command.main(["data"]) == 2
    assert command.main(["data", "wrold"]) == 2
    assert "Did you mean `data world`?" in capsys.readouterr().err
    assert command.main(["doctor", "--jsno"]) == 2


def test_usage_mistakes_as_json(capsys):
    assert command.main(["doctor", "--json", "--wrong"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


def test_doctor_names_what_is_wrong(monkeypatch, capsys):
    from omnivision_cli import doctor as module

    monkeypatch.setattr(module, "_child", lambda code: (1, "RuntimeError: operator torchvision::nms does not exist"))
    monkeypatch.setattr(module.metadata, "version", lambda name: "0.0.1")
    monkeypatch.setitem(module.ART, "no_such_package", ("a.png", "drawings"))

    def broken():
        raise OSError("unreadable")
        yield
    monkeypatch.setattr(module, "memory", broken)
    checks = {check.name: check for check in examine()}
    for name in ("torchvision", "deepspeed", "package torch", "art no_such_package", "broken"):
        assert checks[name].status == "problem" and checks[name].remedy, name
    assert doctor(["--json"]) == 1
    assert json.loads(capsys.readouterr().out)["fine"] is False


def test_doctor_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    from omnivision_cli.doctor import torch_build

    (check,) = torch_build()
    assert check.status == "problem" and "setup.sh" in check.remedy


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    from omnivision.data.flags import output_file

    (tmp_path / "file").write_text("")
    for name in (tmp_path, tmp_path / "file" / "x.png", "/proc/x.png"):
        with pytest.raises(ConfigError, match="The file cannot be written"):
            output_file(str(name))
    assert output_file(str(tmp_path / "new" / "x.png")).parent.is_dir() and output_file(os.devnull) == Path(os.devnull)
    assert not list((tmp_path / "new").iterdir())
