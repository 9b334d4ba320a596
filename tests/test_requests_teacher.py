"""Requests by a teacher behind HTTP: what it writes badly is refused by kind, what it answers is paid once, a killed run goes on."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
import workers
from requests_teacher import TOOLS, Writer, serve, write

from omnivision.endpoint import Kind
from omnivision.errors import ConfigError, ResumableError
from omnivision.functions import FunctionSet
from omnivision.requests.checks import Checks
from omnivision.requests.main import parser, run

NAMES = [tool["name"] for tool in TOOLS]
WANTED = {(name, language): 8 for name in (*NAMES, "irrelevant") for language in ("en", "zh")}


def test_a_good_teacher_fills_every_function_in_both_languages(tmp_path):
    with serve(Writer()) as server:
        sieve, teacher = write(tmp_path, server.url, WANTED, second_look=True)
    rows = sieve.kept["train"]
    assert {key: sum((row["calls"][0]["name"], row["language"]) == key for row in rows) for key in WANTED} == WANTED
    assert Checks(FunctionSet.from_json(TOOLS)).faults(rows) == [None] * len(rows)
    assert set(teacher.tally.endings) == {Kind.ANSWERED} and set(sieve.refused) <= {"duplicate"}


def test_no_two_questions_are_the_same_for_a_server_that_answers_them_equally(tmp_path):
    wanted = {("current_volume", "en"): 80, ("irrelevant", "en"): 80}  # more batches than there are manners, and no arguments that differ
    with serve(Writer()) as server:
        for split in ("held_out", "train"):
            write(tmp_path, server.url, wanted, split)
        bodies = [json.dumps(request["body"]) for request in server.received]
    assert len(bodies) == len(set(bodies)) > 40


def test_a_sloppy_teacher_is_refused_by_kind(tmp_path):
    writer = Writer(spoil=0.6)
    with serve(writer) as server:
        sieve, _ = write(tmp_path, server.url, WANTED)
    assert {"value_not_said", "schema", "language", "duplicate", "malformed"} <= set(sieve.refused)
    assert all(writer.spoilt[kind] for kind in ("unsaid", "schema", "wrong_language", "twice", "malformed", "extra_argument"))
    assert Checks(FunctionSet.from_json(TOOLS)).faults(sieve.kept["train"]) == [None] * len(sieve.kept["train"])
    assert all(0 < len(sieve.examples[reason]) <= 3 for reason in sieve.refused)


def test_a_second_look_that_disagrees_refuses(tmp_path):
    with serve(Writer(stubborn=True)) as server:
        sieve, _ = write(tmp_path, server.url, {("find_contact", "en"): 5, ("set_volume", "en"): 5}, second_look=True)
    assert {row["calls"][0]["name"] for row in sieve.kept["train"]} == {"set_volume"}
    assert sieve.refused["second_look_disagrees"] >= 5


def test_requests_for_none_of_more_functions_than_are_shown_are_looked_at_again(tmp_path, monkeypatch):
    monkeypatch.setattr("omnivision.requests.teacher.SHOWN", len(TOOLS) - 1)
    with serve(Writer(stubborn=True)) as server:  # each of them is served after all, by a function that was not shown
        sieve, _ = write(tmp_path, server.url, {("irrelevant", "en"): 3, ("find_contact", "en"): 3})
    assert {row["calls"][0]["name"] for row in sieve.kept["train"]} == {"find_contact"}
    assert sieve.refused["second_look_disagrees"] >= 3


@pytest.mark.parametrize(("behaviour", "ending"), [("refusal", "refused"), ("good:{}", "wrong_schema"), ("good:no JSON", "wrong_schema"), ("status:400", "rejected"),
                                                   ("empty", "empty"), ("length", "cut_off")])
def test_replies_that_are_none_are_counted_by_kind_and_final(tmp_path, behaviour, ending):
    with serve(Writer(), lambda question, number: behaviour) as server:
        sieve, teacher = write(tmp_path, server.url, {("find_contact", "en"): 5})
        asked = len(server.received)
        _, again = write(tmp_path, server.url, {("find_contact", "en"): 5})
        assert len(server.received) == asked or behaviour == "status:400"
    assert not sieve.kept["train"] and {kind.value for kind in teacher.tally.endings} == {ending} == {kind.value for kind in again.tally.endings}
    with pytest.raises(ConfigError, match="answered none of"):
        teacher.tally.check()


@pytest.mark.parametrize("behaviour", ["status:404", "status:500", "redirect", "raw:<html>back soon</html>"])
def test_a_teacher_that_is_not_there_ends_the_run_and_leaves_the_rows_of_an_earlier_one(tmp_path, monkeypatch, behaviour):
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    words = ["--functions", str(tmp_path / "tools.json"), "--out", str(tmp_path / "rows.jsonl"), "--per-function", "3", "--teacher-model", "m"]
    monkeypatch.setattr("omnivision.endpoint.pace.delay", lambda *given: 0)
    (tmp_path / "rows.jsonl").write_text("kept\n")
    with serve(Writer(), lambda question, number: behaviour) as server, pytest.raises(ResumableError, match="have no answer"):
        run(parser().parse_args([*words, "--teacher", server.url]))
    assert (tmp_path / "rows.jsonl").read_text() == "kept\n"
    with serve(Writer(), port=server.server_port) as fixed:
        report = run(parser().parse_args([*words, "--teacher", fixed.url]))
    assert report["rows"]["train"] == 3 * len(TOOLS) and report["questions_failed"] == {}


def test_half_a_character_in_a_reply_is_a_wrong_schema(tmp_path):
    half = json.dumps({"requests": [{"request": "Call \ud83d", "arguments": {}}]})
    with serve(Writer(), lambda question, number: "raw:" + json.dumps({"choices": [{"message": {"content": half}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})) as server:
        sieve, teacher = write(tmp_path, server.url, {("find_contact", "en"): 5})
    assert set(teacher.tally.endings) == {Kind.WRONG_SCHEMA} and not sieve.kept["train"]


def test_a_budget_ends_the_run_and_a_larger_one_goes_on(tmp_path):
    prices = {"price_in": 0.0, "price_out": 1000.0, "concurrency": 1}  # at most 4.096 a question, in fact 0.01
    with serve(Writer()) as server:
        with pytest.raises(ResumableError, match="max_cost"):
            write(tmp_path, server.url, WANTED, max_cost=4.15, **prices)
        asked = len(server.received)
        sieve, _ = write(tmp_path, server.url, WANTED, max_cost=1e9, **prices)
        bodies = [json.dumps(request["body"]) for request in server.received]
    assert 0 < asked < len(bodies) == len(set(bodies)) and len(sieve.kept["train"]) == sum(WANTED.values())


CHANCES = ("status:429", "status:500", "status:503", "reset", "truncated", "short_body", "error_inside", "hang_up")


def factory(folder, url) -> None:
    """A process that has rows written, and says which."""
    sieve, _ = write(Path(folder), url, WANTED, second_look=True, attempts=8, backoff=0.002)
    (Path(folder) / "rows.json").write_text(json.dumps(sieve.kept["train"]))


def ledger(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def answered(folder) -> list[str]:
    """Keys of the answers in a ledger, as they came."""
    return [line["key"] for line in ledger(folder) if line["event"] == "response"]


def test_killed_again_and_again_it_pays_once_and_gives_the_same_rows(tmp_path):
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
    with serve(Writer(spoil=0.3)) as server:
        factory(tmp_path / "calm", server.url)
    asked = answered(tmp_path / "calm")
    whole = len(asked)
    kills = 2
    points = sorted(random.Random(1).sample(range(2, whole), kills))
    with serve(Writer(spoil=0.3), lambda question, number: random.Random(number).choice(CHANCES) if random.Random(f"{number}").random() < 0.1 else "good") as server:
        for point in [*points, None]:
            process = workers.CONTEXT.Process(target=factory, args=(tmp_path / "killed", server.url))
            process.start()
            while point is not None and len(server.received) < point and process.is_alive():
                time.sleep(0.001)
            if point is not None:
                process.kill()
            process.join(120)
            assert process.exitcode == (0 if point is None else -signal.SIGKILL)
    assert json.loads((tmp_path / "killed" / "rows.json").read_text()) == json.loads((tmp_path / "calm" / "rows.json").read_text())
    assert sorted(answered(tmp_path / "killed")) == sorted(set(asked))  # what the calm run asked, each answered once
    cut_off = sum(1 if line["event"] == "request" else -1 for line in ledger(tmp_path / "killed"))
    assert sum(server.usable.values()) <= whole + cut_off and cut_off <= 4 * kills
