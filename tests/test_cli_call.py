"""`omnivision call`: a random model under the grammar makes calls; what is printed, what runs, what is refused."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from functools import partial

import pytest
from model_parts import make_image, make_model, make_processor
from transformers import AutoTokenizer

from omnivision.functions import Function, FunctionSet, install_tokens, target_ids
from omnivision_cli.main import main

SIDE = {"type": "object", "properties": {"side": {"enum": ["left\u202e", "right\u202e"]}}, "required": ["side"]}
TURN = FunctionSet((Function("turn", "Turn around.", SIDE), Function("rest", "Rest a while.", SIDE)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "final"
    model = make_model()
    processor = make_processor(model)
    install_tokens(model, processor.tokenizer, TURN)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    TURN.save(folder)
    make_image(0).save(folder.parent / "photo.png")
    return folder


@pytest.fixture
def run(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words: str, request: str = "Turn.") -> tuple[int, str, str]:
        code = main(["call", "--model", str(folder), "--image", str(folder.parent / "photo.png"), request, *words])
        return (code, *capsys.readouterr())

    return run


def policy(tmp_path, rule: str = "read-only", code: str = "print(json.load(sys.stdin)['side'] + '\\x1b[2J')") -> str:
    program = [sys.executable, "-c", f"import sys, json; {code}"]
    rules = {name: {"policy": rule, "run": program, "seconds": 60} for name in ("turn", "rest")}
    (tmp_path / "policy.json").write_text(json.dumps(rules))
    return str(tmp_path / "policy.json")


def test_a_dry_run_prints_calls_that_fit_and_leaves_nothing_behind(run, tmp_path):
    code, out, _ = run("--max-new-tokens", "200", "--json")
    told = json.loads(out)
    assert told["request"] == "Turn."
    assert told["calls"] or told["errors"]
    for one in told["calls"]:
        assert one["outcome"] in (("not reached",) if told["errors"] else ("dry run", "nothing to do"))
        assert one["name"] == "irrelevant" or one["arguments"]["side"] in SIDE["properties"]["side"]["enum"]
    assert code == (1 if told["errors"] else 0) and list(tmp_path.iterdir()) == []


def test_lines_are_fit_for_a_terminal(run, tmp_path):
    _, out, _ = run()
    assert "(side='" in out and "[dry run]" in out and "\\u202e" in out and "\u202e" not in out
    _, out, _ = run("--execute", "--policy", policy(tmp_path))
    assert "[done]" in out and "\\x1b[2J" in out and "\x1b" not in out
    code, out, _ = run("--execute", "--policy", policy(tmp_path, code="sys.exit('no \\x1b[2J')"))
    assert code == 1 and "[failed: it ended with code 1: no \\x1b[2J]" in out and "\x1b" not in out


def test_what_runs_is_in_the_audit(run, tmp_path):
    _, out, _ = run("--execute", "--policy", policy(tmp_path), "--json")
    told = json.loads(out)
    lines = [json.loads(line) for line in (tmp_path / "call-audit.jsonl").read_text().splitlines()]
    done = [one for one in told["calls"] if one["outcome"] == "done"]
    assert done and all(one["result"].startswith(one["arguments"]["side"]) for one in done)
    assert [line["outcome"] for line in lines if line["name"] != "irrelevant"] == ["begun", "done"] * len(done)
    assert {line["request"] for line in lines} == {"Turn."}


def test_an_answer_that_was_cut_runs_nothing_and_is_in_the_audit(run, folder, tmp_path, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = target_ids({"name": "turn", "arguments": {"side": "left\u202e"}}, tokenizer, TURN)
    monkeypatch.setattr("omnivision_cli.call.call_ids", lambda *given: whole + whole[:-2])
    code, out, told = run("--execute", "--policy", policy(tmp_path))
    assert code == 1 and "[not reached: a part of the answer is malformed]" in out and "malformed (unclosed)" in told
    assert [json.loads(line)["outcome"] for line in (tmp_path / "call-audit.jsonl").read_text().splitlines()] == ["malformed", "not reached"]


def test_nobody_at_the_terminal_says_no(run, tmp_path, monkeypatch):
    code, out, _ = run("--execute", "--policy", policy(tmp_path, "ask"))
    assert code == 1 and "[declined: there is nobody to ask]" in out and "[done" not in out


@pytest.mark.parametrize(("answer", "outcome"), [("y\n", "done"), ("YES\n", "done"), ("n\n", "declined"), ("\n", "declined"), ("", "declined")])
def test_a_person_at_the_terminal_is_shown_the_call(run, tmp_path, monkeypatch, answer, outcome):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer * 99))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    _, out, told = run("--execute", "--policy", policy(tmp_path, "ask"))
    assert f"[{outcome}" in out and "Run it? [y/N]" in told and "(side='" in told and "\u202e" not in told


@pytest.mark.parametrize(("words", "code", "word"), [
    (["--execute"], 2, "--execute needs --policy"), (["--max-new-tokens", "0"], 2, "at least 1"),
    (["--most-calls", "0"], 2, "at least 1"), (["--policy", "none.json"], 2, "not a readable policy"),
    (["--functions", "none.json"], 2, "not a readable function file"), (["--image", "none.png"], 3, "none.png"),
    (["--audit", "file/below/a.jsonl"], 2, "file/below/a.jsonl"), (["--audit", "."], 2, "it is a folder")])
def test_wrong_input_is_told_before_anything_loads(run, tmp_path, monkeypatch, words, code, word):
    monkeypatch.setattr("omnivision.model.checkpoints.load_checkpoint", lambda *given: pytest.fail("it loaded the model"))
    (tmp_path / "file").touch()
    found, _, told = run(*words)
    assert found == code and word in told


@pytest.mark.parametrize("request_", ["", " \n", "\u200b\ufeff"])
def test_an_empty_request_never_runs_anything(run, tmp_path, monkeypatch, request_):
    monkeypatch.setattr("omnivision.model.checkpoints.load_checkpoint", lambda *given: pytest.fail("it loaded the model"))
    code, _, told = run("--policy", policy(tmp_path), "--execute", request=request_)
    assert code == 2 and "the request is empty" in told and [one.name for one in tmp_path.iterdir()] == ["policy.json"]


def test_an_audit_that_cannot_be_written_is_told_before_anything_loads(run, tmp_path, monkeypatch):
    monkeypatch.setattr("omnivision.model.checkpoints.load_checkpoint", lambda *given: pytest.fail("it loaded the model"))
    monkeypatch.setattr(os, "access", lambda *given: False)
    for words, name in ((["--audit", "a.jsonl"], "a.jsonl"), (["--execute", "--policy", policy(tmp_path)], "call-audit.jsonl")):
        code, _, told = run(*words)
        assert code == 2 and f"audit cannot be written ({name})" in told


def test_an_audits_folder_is_made(run, tmp_path):
    run("--audit", "new/dir/a.jsonl")
    assert (tmp_path / "new" / "dir" / "a.jsonl").read_text().count("\n") >= 1


def test_a_table_that_moves_functions_is_refused(run, tmp_path):
    (tmp_path / "moved.json").write_text(json.dumps([function.to_tool() for function in reversed(TURN.functions[:2])]))
    code, _, told = run("--functions", "moved.json")
    assert code == 2 and "<nexa_0> was 'turn' and is now 'rest'" in told


def test_a_model_without_functions_says_so(folder, tmp_path, capsys):
    import shutil

    plain = shutil.copytree(folder, tmp_path / "plain")
    (plain / "functions.json").unlink()
    assert main(["call", "--model", str(plain), "Turn."]) == 2 and "has no functions" in capsys.readouterr().err
    assert main(["call", "--model", str(plain), "--functions", str(folder / "functions.json"), "Turn.", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["image"] is None


@pytest.mark.parametrize(("name", "code"), [("SIGHUP", 143), ("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_in_the_middle_of_a_call_ends_the_program_and_says_what_has_run(run, tmp_path, request, name, code):
    number = getattr(signal, name)
    request.addfinalizer(partial(signal.signal, number, signal.getsignal(number)))
    signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)  # who runs the tests may ignore it, as nohup does
    kill = f"import os, signal, time; os.kill(os.getppid(), signal.{name}); time.sleep(9); open('late', 'w')"
    ended, out, err = run("--policy", policy(tmp_path, code=kill), "--execute", "--max-new-tokens", "200")
    assert ended == code and "HAS run, the last perhaps in part" in err and "last checkpoint" not in err
    lines = [json.loads(line) for line in (tmp_path / "call-audit.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines[-2:]] == ["begun", "failed"] and "this program was stopped" in lines[-1]["reason"] and not (tmp_path / "late").exists()


def test_a_request_that_is_no_text_is_refused(run):
    code, _, err = run(request=os.fsdecode(b"M\xfcll"))
    assert code == 2 and "the request is not UTF-8" in err
