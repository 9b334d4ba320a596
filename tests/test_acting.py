"""Calls become deeds: what a policy lets run, what comes back, what the audit says."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from functools import partial

import pytest
from function_parts import add_tokens, make_tokenizer

from omnivision.acting.audit import Audit
from omnivision.acting.executor import BEGUN, Executor
from omnivision.acting.policy import ASK, NEVER, READ_ONLY, Policy, Rule
from omnivision.acting.program import Failed, Program, TimedOut
from omnivision.errors import ConfigError, OmniError, ResumableError
from omnivision.functions import Action, CallError, Calls, Function, FunctionSet, parse_calls, target_ids

FIND = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
SEND = {"type": "object", "properties": {"to": {"type": "string", "maxLength": 9}, "text": {"type": "string"}}, "required": ["to", "text"]}
FUNCTIONS = FunctionSet((Function("find", "Find an address.", FIND), Function("send", "Send a text.", SEND), Function("wipe", "Wipe the disk.")))
FIND_ANN = Action("find", {"name": "Ann"}, (3, 9))
SEND_ANN = Action("send", {"text": "hi"}, (0, 12), {"to": FIND_ANN})


class Recorded:
    """Stands for a program; remembers what it was called with."""

    def __init__(self, result: object = None) -> None:
        self.result, self.calls = result, []

    def __call__(self, arguments: dict, seconds: float) -> object:
        self.calls.append(arguments)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def audit_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]


@pytest.fixture
def executor(tmp_path):
    def make(rules: dict, execute: bool = True, ask=None) -> Executor:
        return Executor(FUNCTIONS, Policy(rules, FUNCTIONS), execute=execute, ask=ask, audit=Audit(tmp_path / "audit.jsonl", {"request": "Write to Ann."}))

    return make


# ---- the executor ----


def test_nothing_runs_unless_told(executor, tmp_path):
    find, send = Recorded("a@b"), Recorded()
    dry = executor({"find": Rule(READ_ONLY, find), "send": Rule(ASK, send)}, execute=False, ask=lambda *_: pytest.fail("asked"))
    deed = dry.act(SEND_ANN)
    assert (deed.outcome, deed.nested["to"].outcome) == ("dry run", "dry run") and find.calls == send.calls == []
    assert [line["outcome"] for line in audit_of(tmp_path)] == ["dry run", "dry run"]
    assert dry.act(Action("find", {"name": 3}, (0, 1))).outcome == "invalid"
    with pytest.raises(ValueError, match="audit"):
        Executor(FUNCTIONS, Policy({}, FUNCTIONS), execute=True)
    with pytest.raises(ValueError, match="policy"):
        Executor(FUNCTIONS, None, execute=True, audit=dry.audit)
    unruled = Executor(FUNCTIONS, None)
    assert [unruled.act(one).outcome for one in (SEND_ANN, Action("wipe", {}, (0, 1)), Action("find", {}, (0, 1)))] == ["dry run", "dry run", "invalid"]
    assert dry.act(Action("wipe", {}, (0, 1))).outcome == "not allowed"


def test_inner_calls_give_their_results_to_outer_ones(executor, tmp_path):
    find, send, asked = Recorded("ann@b.de"), Recorded({"sent": True}), []
    acting = executor({"find": Rule(READ_ONLY, find), "send": Rule(ASK, send)}, ask=lambda action, arguments: asked.append(arguments) or True)
    deed = acting.act(SEND_ANN)
    assert deed.outcome == "done" and deed.result == {"sent": True}
    assert find.calls == [{"name": "Ann"}] and send.calls == asked == [{"text": "hi", "to": "ann@b.de"}]
    lines = audit_of(tmp_path)
    assert [(line["name"], line["outcome"]) for line in lines] == [("find", BEGUN), ("find", "done"), ("send", BEGUN), ("send", "done")]
    assert all(line["request"] == "Write to Ann." and line["time"].endswith("+00:00") for line in lines)
    assert lines[3]["result"] == {"sent": True} and lines[3]["nested"]["to"]["result"] == "ann@b.de" and lines[3]["policy"] == ASK


@pytest.mark.parametrize(("rules", "action", "outcome", "reason"), [
    ({}, FIND_ANN, "not allowed", "no rule"),
    ({"find": Rule(NEVER, Recorded())}, FIND_ANN, "not allowed", "never"),
    ({"find": Rule(READ_ONLY)}, FIND_ANN, "not allowed", "nothing to run"),
    ({"find": Rule(ASK, Recorded())}, FIND_ANN, "declined", "nobody"),
    ({"find": Rule(READ_ONLY, Recorded())}, Action("find", {"name": 3}, (0, 1)), "invalid", "not of type"),
    ({"find": Rule(READ_ONLY, Recorded())}, Action("find", {"name": "a", "x": 1}, (0, 1)), "invalid", "no argument 'x'"),
    ({}, Action("reboot", {}, (0, 1)), "invalid", "no such function"),
    ({}, Action("irrelevant", {}, (0, 1)), "nothing to do", ""),
    ({"find": Rule(READ_ONLY, Recorded(Failed("no network")))}, FIND_ANN, "failed", "no network"),
    ({"find": Rule(READ_ONLY, Recorded(KeyError("k")))}, FIND_ANN, "failed", "KeyError"),
    ({"find": Rule(READ_ONLY, Recorded(TimedOut("1 s")))}, FIND_ANN, "timed out", "1 s"),
    ({"find": Rule(NEVER), "send": Rule(READ_ONLY, Recorded())}, SEND_ANN, "not reached", "'to'"),
    ({"find": Rule(READ_ONLY, Recorded("a long address")), "send": Rule(READ_ONLY, Recorded())}, SEND_ANN, "invalid", "too long"),
    ({"find": Rule(READ_ONLY, Recorded(5)), "send": Rule(READ_ONLY, Recorded())}, SEND_ANN, "invalid", "results of the calls inside"),
])
def test_every_way_not_to_be_done_has_its_name(executor, tmp_path, rules, action, outcome, reason):
    deed = executor(rules).act(action)
    assert deed.outcome == outcome and reason in deed.reason
    ran = outcome in ("failed", "timed out")
    assert [len(rule.run.calls) for name, rule in rules.items() if rule.run and name == action.name] in ([], [int(ran)])
    assert audit_of(tmp_path)[-1]["outcome"] == outcome and audit_of(tmp_path)[-1]["name"] == action.name


@pytest.mark.parametrize("outer", [SEND_ANN, Action("send", {"text": 3}, (0, 12), {"to": SEND_ANN}), Action("none", {}, (0, 12), {"x": FIND_ANN})])
def test_calls_inside_one_that_cannot_run_do_not_run_either(executor, tmp_path, outer):
    find = Recorded("a")
    rules = {"find": Rule(READ_ONLY, find)} | ({"send": Rule(READ_ONLY, Recorded())} if outer is not SEND_ANN else {})
    deed = executor(rules).act(outer)
    assert deed.outcome in ("not allowed", "invalid") and find.calls == []
    assert {line["outcome"] for line in audit_of(tmp_path)} == {deed.outcome, "not reached"}


def test_once_an_inner_call_is_not_done_the_others_are_not_begun(executor, tmp_path):
    wipe = Recorded("b")
    outer = Action("send", {}, (0, 12), {"to": FIND_ANN, "text": Action("wipe", {}, (9, 11))})
    deed = executor({"find": Rule(READ_ONLY, Recorded(Failed("down"))), "wipe": Rule(READ_ONLY, wipe), "send": Rule(READ_ONLY, Recorded())}).act(outer)
    assert (deed.outcome, deed.nested["to"].outcome, deed.nested["text"].outcome) == ("not reached", "failed", "not reached") and wipe.calls == []


CUT = CallError("unclosed", "no end token after the arguments", (9, 12), "find")


@pytest.mark.parametrize("execute", [True, False])
def test_of_an_answer_with_a_malformed_part_nothing_runs(executor, tmp_path, execute):
    find = Recorded("a")
    acting = executor({"find": Rule(READ_ONLY, find)}, execute=execute)
    assert [deed.outcome for deed in acting.act_all(Calls([FIND_ANN], [CUT]))] == ["not reached"] and find.calls == []
    assert list(acting.act_all(Calls([], [CUT]))) == []
    malformed, unreached, again = audit_of(tmp_path)
    assert malformed["outcome"] == again["outcome"] == "malformed" and malformed["reason"].startswith("unclosed: no end") and malformed["name"] == "find"
    assert malformed["request"] == "Write to Ann." and unreached["reason"] == "a part of the answer is malformed"


def test_once_a_call_is_not_done_those_behind_it_are_not_begun(executor, tmp_path):
    find, wipe, nothing = Recorded("a"), Recorded(Failed("down")), Action("irrelevant", {}, (0, 1))
    calls = Calls([FIND_ANN, nothing, FIND_ANN, Action("wipe", {}, (0, 1)), SEND_ANN, nothing])
    rules = {"find": Rule(READ_ONLY, find), "wipe": Rule(READ_ONLY, wipe), "send": Rule(READ_ONLY, Recorded())}
    deeds = list(executor(rules).act_all(calls))
    assert [deed.outcome for deed in deeds] == ["done", "nothing to do", "done", "failed", "not reached", "not reached"] and len(find.calls) == 2
    assert deeds[4].reason == "a call before it was not done" and deeds[4].nested["to"].outcome == "not reached"
    assert [deed.outcome for deed in executor(rules, execute=False).act_all(calls)].count("dry run") == 4


def test_a_dry_run_judges_every_call_and_says_what_would_not_be_reached(executor):
    rules = {"find": Rule(READ_ONLY, Recorded("a")), "wipe": Rule(NEVER), "send": Rule(READ_ONLY, Recorded())}
    wipe = Action("wipe", {}, (0, 1))
    deeds = list(executor(rules, execute=False).act_all(Calls([FIND_ANN, wipe, SEND_ANN, wipe])))
    assert [deed.outcome for deed in deeds] == ["dry run", "not allowed", "not reached", "not allowed"]
    assert deeds[2].reason == "a call before it would not be done" and deeds[2].nested["to"].outcome == "not reached"
    deed = executor(rules | {"find": Rule(NEVER)}, execute=False).act(SEND_ANN)
    assert (deed.outcome, deed.reason, deed.nested["to"].outcome) == ("not reached", "the call in argument 'to' would not be done", "not allowed")


@pytest.mark.parametrize("added", [2, object()])
def test_what_a_function_does_to_its_arguments_is_its_own_affair(tmp_path, added):
    """The audit tells the call that was made, and has its last line."""
    functions = FunctionSet((Function("add", "Add.", {"type": "object", "properties": {"x": {"type": "array"}, "y": {"type": "array"}}}), Function("list", "List.")))
    acting = Executor(functions, Policy({"add": Rule(READ_ONLY, lambda arguments, seconds: [one.append(added) for one in arguments.values()]),
                                         "list": Rule(READ_ONLY, lambda arguments, seconds: [7])}, functions), execute=True, audit=Audit(tmp_path / "audit.jsonl", {}))
    deed = acting.act(Action("add", {"x": [1]}, (0, 1), {"y": Action("list", {}, (0, 1))}))
    assert deed.outcome == "done" and deed.action.arguments == {"x": [1]} and deed.nested["y"].result == [7]
    assert [line["arguments"] for line in audit_of(tmp_path)[2:]] == [{"x": [1]}] * 2


def test_with_nobody_to_ask_what_is_inside_does_not_run_either(executor):
    find = Recorded("a")
    deed = executor({"find": Rule(READ_ONLY, find), "send": Rule(ASK, Recorded())}).act(SEND_ANN)
    assert (deed.outcome, deed.nested["to"].outcome) == ("declined", "not reached") and find.calls == []


def test_a_dry_run_says_what_a_rule_without_a_program_means(executor):
    assert [executor({"find": Rule(READ_ONLY)}, execute=execute).act(FIND_ANN).outcome for execute in (False, True)] == ["not allowed"] * 2


def test_a_result_that_json_cannot_hold_is_a_failure_that_the_audit_has(executor, tmp_path):
    deed = executor({"find": Rule(READ_ONLY, Recorded({1, 2}))}).act(FIND_ANN)
    assert deed.outcome == "failed" and "DataError" in deed.reason and [line["outcome"] for line in audit_of(tmp_path)] == [BEGUN, "failed"]


def test_a_full_disk_leaves_no_half_line(executor, tmp_path, monkeypatch):
    find, acting, write = Recorded("a"), None, os.write
    acting = executor({"find": Rule(READ_ONLY, find)})
    acting.act(FIND_ANN)
    before = (tmp_path / "audit.jsonl").read_bytes()
    room = [10]

    def full(handle, line):
        if not room:
            raise OSError(28, "No space left on device")
        return write(handle, line[: room.pop()])

    monkeypatch.setattr("omnivision.acting.audit.os.write", full)
    with pytest.raises(OmniError, match="find HAS run.*No space left"):
        acting.act(FIND_ANN)
    assert (tmp_path / "audit.jsonl").read_bytes() == before and len(find.calls) == 1


def test_what_has_run_and_could_not_be_noted_is_not_to_be_started_again(executor, tmp_path):
    find = Recorded("a")
    acting = executor({"find": Rule(READ_ONLY, lambda *given: (tmp_path / "audit.jsonl").unlink() or (tmp_path / "audit.jsonl").mkdir() or find(*given))})
    with pytest.raises(OmniError, match=r"find HAS run.*Do not start") as refused:
        acting.act(FIND_ANN)
    assert len(find.calls) == 1 and refused.value.exit_code == 1  # 6 would say: start it again
    with pytest.raises(OmniError, match="find HAS run"):
        acting.act(FIND_ANN)
    assert len(find.calls) == 1


def test_a_policy_with_a_name_twice_is_refused(tmp_path):
    (tmp_path / "policy.json").write_text('{"wipe": {"policy": "never"}, "wipe": {"policy": "read-only", "run": ["./wipe"]}}')
    with pytest.raises(ConfigError, match="'wipe' stands twice"):
        Policy.read(tmp_path / "policy.json", FUNCTIONS)


def test_a_no_is_a_no(executor):
    send = Recorded()
    assert executor({"send": Rule(ASK, send)}, ask=lambda *_: False).act(Action("send", {"to": "a", "text": "b"}, (0, 1))).outcome == "declined"
    assert send.calls == []


def test_without_an_audit_that_can_be_written_nothing_runs(tmp_path):
    find = Recorded()
    acting = Executor(FUNCTIONS, Policy({"find": Rule(READ_ONLY, find)}, FUNCTIONS), execute=True, audit=Audit(tmp_path / "none" / "audit.jsonl", {}))
    with pytest.raises(ResumableError, match="audit cannot be written"):
        acting.act(FIND_ANN)
    assert find.calls == []


def test_1000_damaged_answers_run_nothing_outside_the_allow_list(executor):
    tokenizer, rng = add_tokens(make_tokenizer(), FUNCTIONS), random.Random(0)
    find, wipe = Recorded("x"), Recorded()
    acting = executor({"find": Rule(READ_ONLY, find), "wipe": Rule(NEVER, wipe), "send": Rule(ASK, wipe)})
    calls = [{"name": "send", "arguments": {"text": "wipe()"}, "nested": {"to": {"name": "find", "arguments": {"name": "it's"}}}}, {"name": "wipe"},
             {"name": "find", "arguments": {"name": "<nexa_2>()"}}]
    answer, seen = target_ids(calls, tokenizer, FUNCTIONS), set()
    for _ in range(1000):
        ids = list(answer)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(ids))
            ids[at : at + rng.choice([0, 1, 1, 4])] = rng.choice([[], [rng.randrange(len(tokenizer) + 3)], [ids[at]] * 2, answer[: rng.randrange(20)]])
            ids = ids or [0]
        seen |= {acting.act(action).outcome for action in parse_calls(ids, tokenizer, FUNCTIONS)}
    assert wipe.calls == [] and find.calls and all(FUNCTIONS["find"].faults(arguments) == [] for arguments in find.calls)
    assert seen == {"done", "not allowed", "declined"}


# ---- programs ----


def python(code: str, tmp_path) -> Program:
    return Program([sys.executable, "-c", code], tmp_path)


def test_a_program_reads_arguments_and_gives_a_value(tmp_path):
    arguments = {"a": "it's; `rm` $HOME 猫", "b": [1, None]}
    assert python("import sys, json; print(json.dumps({'got': json.load(sys.stdin)}))", tmp_path)(arguments, 20) == {"got": arguments}
    assert python("import os; print(os.getcwd())", tmp_path)({}, 20) == str(tmp_path.resolve())
    for code, text in (("print('red cat')", "red cat"), ("print('NaN')", "NaN"), ("print('[' * 9000)", "[" * 9000), ("print('\"\\\\ud800\"')", '"\\ud800"'),
                       ("import sys; sys.stdout.buffer.write(b'\\xff')", "\ufffd"), ("pass", "")):
        assert python(code, tmp_path)({}, 20) == text


@pytest.mark.parametrize(("code", "word"), [("import sys; sys.exit('no money')", "code 1: no money"), ("print('x' * 70000)", "more than 65536 bytes")])
def test_a_program_that_fails_says_why(tmp_path, code, word):
    with pytest.raises(Failed, match=word):
        python(code, tmp_path)({}, 20)
    with pytest.raises(Failed, match="cannot be started"):
        Program(["./none"], tmp_path)({}, 20)


@pytest.mark.parametrize("to", ["", ">&2"])
def test_a_program_that_talks_without_end_is_stopped_at_once(tmp_path, to):
    started = time.monotonic()
    with pytest.raises(Failed, match="has said more than"):
        Program(["sh", "-c", f"yes {to}"], tmp_path)({}, 60)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_who_stops_us_in_the_middle_of_a_call_is_in_the_audit(executor, tmp_path, stop):
    acting = executor({"find": Rule(READ_ONLY, Recorded(stop()))})
    with pytest.raises(stop):
        acting.act(FIND_ANN)
    begun, ended = audit_of(tmp_path)
    assert (begun["outcome"], ended["outcome"]) == ("begun", "failed") and "in part" in ended["reason"] and acting.ran == ["find"]


def test_the_time_limit_ends_a_program_and_what_it_started(tmp_path):
    code = ("import os, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
            "open('pid', 'w').write(str(child.pid)); os.rename('pid', 'child'); time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(TimedOut, match="more than 3 s"):
        python(code, tmp_path)({}, 3)
    assert time.monotonic() - started < 30
    assert _has_died(int((tmp_path / "child").read_text()))


def test_what_a_program_leaves_running_ends_with_it(tmp_path):
    """It would write past every limit, after the call is told to be done."""
    started = time.monotonic()
    assert Program(["sh", "-c", "(sleep 60; head -c 3000000 /dev/zero) & echo $! > child; echo ok"], tmp_path)({}, 20) == "ok"
    assert time.monotonic() - started < 15 and _has_died(int((tmp_path / "child").read_text()))


def test_a_program_is_done_where_nobody_waits_for_processes(tmp_path, request):
    """Some supervisors start what they watch with SIGCHLD ignored."""
    request.addfinalizer(partial(signal.signal, signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_IGN)))
    assert Program(["echo", "ok"], tmp_path)({}, 20) == "ok"
    with pytest.raises(TimedOut):
        Program(["sleep", "30"], tmp_path)({}, 0.2)


def _has_died(pid: int) -> bool:
    for _ in range(100):
        if not _lives(pid):
            return True
        time.sleep(0.1)
    return False


def _lives(pid: int) -> bool:
    """Whether a process runs still; one that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- policy files ----


def test_a_policy_file_names_programs_beside_it(tmp_path):
    script = tmp_path / "find.py"
    script.write_text(f"#!{sys.executable}\nimport sys, json\nprint(json.dumps(json.load(sys.stdin)['name'] + '@b'))\n")
    os.chmod(script, 0o700)
    file = tmp_path / "policy.json"
    file.write_text(json.dumps({"find": {"policy": "read-only", "run": ["./find.py"], "seconds": 20}, "wipe": {"policy": "never"}}), encoding="utf-8-sig")  # as Windows does
    policy = Policy.read(file, FUNCTIONS)
    assert policy["find"].run({"name": "ann"}, policy["find"].seconds) == "ann@b" and policy["wipe"].run is None and "send" not in policy


def test_a_program_that_is_not_there_is_told_before_anything_is_asked(tmp_path, monkeypatch):
    (tmp_path / "here").write_text("#!/bin/sh\n")
    file = tmp_path / "policy.json"
    monkeypatch.chdir(tmp_path)

    def read(name: str, policy: str = "ask", file=file) -> Policy:
        file.write_text(json.dumps({"find": {"policy": policy, "run": [name]}}))
        return Policy.read(file, FUNCTIONS)

    for name in ("./here", "here", "./none", "no-such-program", str(tmp_path), "/none/sh"):  # not to be executed; not on the PATH; not there; a folder
        with pytest.raises(ConfigError, match=rf"there is no program '{name}'.*'find'.*\./NAME"):
            read(name)
    os.chmod("here", 0o700)
    assert read("./here")["find"].run and read("sh")["find"].run and read("/bin/sh")["find"].run and read("./none", "never")["find"].run
    (tmp_path / "below").mkdir()
    assert read("./here", file=file.relative_to(tmp_path))["find"].run
    with pytest.raises(ConfigError, match="no program './here'"):
        read("./here", file=tmp_path / "below" / "policy.json")


@pytest.mark.parametrize(("content", "word"), [
    ("[", "not a readable policy"), ("[]", "no JSON object"), ('{"find": "ask"}', "names no policy"), ('{"find": {"policy": "always"}}', "no policy 'always'"),
    ('{"fnd": {"policy": "ask"}}', "Did you mean 'find'"), ('{"irrelevant": {"policy": "ask"}}', "no function of the set"),
    ('{"find": {"policy": "ask", "cmd": []}}', "unknown key 'cmd'"), ('{"find": {"policy": "ask", "run": "rm -r"}}', "there is no shell"),
    ('{"find": {"policy": "ask", "run": []}}', "there is no shell"), ('{"find": {"policy": "ask", "seconds": 0}}', "time limit of 0"),
    ('{"find": {"policy": "ask", "seconds": NaN}}', "NaN is no JSON number"), ('{"find": {"policy": "ask", "seconds": "9"}}', "time limit of '9'"),
    ('{"find": {"policy": "ask", "seconds": 1e9}}', "at most 1000000"), ('{"find": {"policy": "ask", "seconds": true}}', "time limit of True"),
])
def test_a_policy_that_is_none_is_refused(tmp_path, content, word):
    (tmp_path / "policy.json").write_text(content)
    with pytest.raises(ConfigError, match=word):
        Policy.read(tmp_path / "policy.json", FUNCTIONS)
    with pytest.raises(ConfigError, match="not a readable policy"):
        Policy.read(tmp_path / "none.json", FUNCTIONS)
