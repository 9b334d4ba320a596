"""A judge of MM-Vet that misbehaves makes missing grades and never a 0; what it once said is not asked again."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from endpoint_server import QUICK, Server, completion
from omnivision_eval import mmvet, results
from omnivision_eval.judge_endpoint import EndpointJudge
from omnivision_eval.judge_grades import grade_rows, read_grade
from omnivision_eval.judge_key import Key
from omnivision_eval.judge_prompt import NUDGE, Prompt, read_prompt

from omnivision.endpoint import Endpoint, Kind, Ledger, Outcome
from omnivision.endpoint.settings import PATIENCE
from omnivision.errors import ConfigError, ResumableError

SETTINGS = {**QUICK, "max_tokens": 3, "seed": None}


def vet_rows(count=4):
    """Questions as `mmvet.load` gives them."""
    return [{"question_id": f"v1_{at}", "unit": f"v1_{at}", "image": f"{at}.png", "text": f"What is {at}?", "question": f"What is {at}?",
             "label": f"{at}<OR>the number {at}", "capability": ["rec"], "capability_set": "rec"} for at in range(count)]


def number_of(text):
    """Which question a judge was asked about."""
    return int(re.findall(r"What is (\d+)\? \|", text)[-1])


@pytest.fixture
def judged(tmp_path):
    """Grades rows against a server's behaviour; returns notes, entries, the rows' grades, what was received, and the score."""
    port = 0

    def run(choose, count=4, runs=1, answers=None, prompt=None, model="judge", folder=tmp_path, **changes):
        nonlocal port
        rows = vet_rows(count)
        answers = answers or [f"It is {at}." for at in range(count)]
        with Server(choose, port) as server, Ledger(folder / "judge.ledger.jsonl") as ledger:
            port = server.server_port
            judge = EndpointJudge(Endpoint(server.url, model, **{**SETTINGS, **changes}), ledger)
            notes = grade_rows(rows, answers, judge, prompt or read_prompt(None), runs, folder)
        grades = {row["question_id"]: row["grades"] for row in rows}
        entries = json.loads((folder / "grades.json").read_text())
        if entries:
            again = vet_rows(count)
            assert mmvet.attach_grades(again, folder / "grades.json").items() <= notes.items()
            assert [row["grades"] for row in again] == list(grades.values()), "the file does not say what was scored"
        summary = results.summary(mmvet, results.samples_of(mmvet, rows, answers), "official")
        return SimpleNamespace(notes=notes, entries=entries, grades=grades, sent=[one["body"] for one in server.received],
                               failures=notes["judge failures"], summary=summary)

    return run


def only(number, behaviour, other="good:0.5"):
    """One question is answered in one way for ever, the others in another."""
    return lambda text, _: behaviour if number_of(text) == number else other


def cut(text):
    """A reply that ends because of max_tokens."""
    return "raw:" + json.dumps(completion(text, finish="length"))


@pytest.mark.parametrize(("behaviour", "failures"), [
    ("status:429", {"rate_limited": 1}), ("retry_after:0", {"rate_limited": 1}), ("status:500", {"server_error": 1}), ("hang", {"timed_out": 1}),
    ("drip", {"slow": 1}), ("reset", {"reset": 1}), ("truncated", {"truncated": 1}), ("nothing", {"truncated": 1}), ("short_body", {"truncated": 1}),
    ("error_inside", {"error_inside": 1}), ("status:400", {"rejected": 1}), ("redirect", {"misdirected": 1}), ("status:404", {"misdirected": 1}),
    ("good:great!", {"unreadable": 5}), ("good:1.5", {"unreadable": 5}), ("good:-0.1", {"unreadable": 5}), ("good:nan", {"unreadable": 5}),
    ("good:inf", {"unreadable": 5}), ("good:Grade: 0.0", {"unreadable": 5}), ("good:0,5", {"unreadable": 5}), ("good:[0.0]", {"unreadable": 5}),
    ("length", {"unreadable": 5}), (cut("0."), {"cut_off": 5}), (cut("0"), {"cut_off": 5}), (cut("1"), {"cut_off": 5}),
    ("empty", {"empty": 5}), ("null", {"empty": 5}), ("refusal", {"refused": 5}), ("filtered", {"refused": 5}),
    ("raw:<html>0.0</html>", {"misdirected": 1}), ("raw:0.0", {"misdirected": 1}), ("not_utf8", {"misdirected": 1}), ("huge", {"too_large": 5})])
def test_what_is_no_grade_is_missing_and_never_0(judged, behaviour, failures):
    run = judged(only(2, behaviour), timeout=0.3, attempts=2)
    assert run.grades == {"v1_0": [0.5], "v1_1": [0.5], "v1_2": [None], "v1_3": [0.5]} and run.failures == failures
    assert run.entries["v1_2"]["score"] == [None] and run.entries["v1_0"] == {"model": ["teacher-2024-01-01"], "content": ["0.5"], "score": [0.5]}
    assert run.summary["missing"] == 1 and run.summary["score"] is None
    assert next(iter(failures)) in run.notes["judge first failure"] and "v1_2, run 1" in run.notes["judge first failure"]


@pytest.mark.parametrize(("behaviour", "score"), [
    ("good:0.7", 0.7), ("good:0.7 because", 0.7), ("good:0.0", 0.0), ("good:0", 0.0), ("good:1", 1.0), ("good:1.0\n", 1.0), (cut("0.7"), 0.7),
    (cut("0.0"), 0.0), (cut("\n1.0"), 1.0), (cut("1 is"), 1.0)])
def test_what_is_a_grade(judged, behaviour, score):
    run = judged(only(2, behaviour))
    assert run.grades["v1_2"] == [score] and len(run.sent) == 4 and not run.failures and "judge first failure" not in run.notes


def test_only_an_answer_gives_a_grade():
    assert {kind for kind in Kind if read_grade(Outcome(kind, text="0.5")) is not None} == {Kind.ANSWERED, Kind.CUT_OFF}


def test_two_of_218_missing_give_a_score_three_none(judged, tmp_path):
    def choose(missing):
        return lambda text, _: "good:great!" if number_of(text) in (7, 100, 217)[:missing] else "good:0.5"

    run = judged(choose(2), 218, folder=tmp_path / "two")
    assert run.summary["missing"] == 2 and run.summary["score"] == 50 and run.summary["n"] == 218
    run = judged(choose(3), 218, folder=tmp_path / "three")
    assert run.summary["missing"] == 3 and run.summary["score"] is None and run.summary["metrics"]["judged"] is None


def test_tries_are_those_of_the_official_script(judged):
    run = judged(["good:great!", "good:1.5", "good:nan", "good:well", "good:0.4"], 1)
    assert run.grades == {"v1_0": [0.4]} and run.failures == {"unreadable": 4}
    assert [one["temperature"] for one in run.sent] == [0.0, 0.0, 0.5, 1.0, 1.5]
    row = read_prompt(None).text + "\nWhat is 0? | 0 <OR> the number 0 | It is 0. | "
    assert [one["messages"] for one in run.sent] == [[{"role": "user", "content": row}]] + 4 * [[{"role": "user", "content": row + NUDGE}]]
    assert all(one.keys() == {"model", "messages", "max_tokens", "temperature"} and one["max_tokens"] == 3 for one in run.sent)


def test_every_run_is_asked_and_kept_apart(judged):
    run = judged(["good:0.1", "good:0.2", "good:0.3", "good:0.4", "good:great!", "good:0.6"] + 5 * ["good:great!"], 2, runs=3, concurrency=1)
    assert run.grades == {"v1_0": [0.1, 0.3, None], "v1_1": [0.2, 0.4, 0.6]} and run.summary["missing"] == 1
    assert run.entries["v1_0"]["content"] == ["0.1", "0.3", "great!"] and run.notes["grades"] == "grades.json, 3 runs"


def test_started_again_nobody_is_asked(judged, tmp_path):
    first = judged(only(1, "good:great!"), runs=2)
    file = (tmp_path / "grades.json").read_bytes()
    again = judged(lambda text, number: "status:500", runs=2)
    assert len(first.sent) == 16 and not again.sent and again.notes == first.notes and (tmp_path / "grades.json").read_bytes() == file
    assert len(judged(only(1, "good:great!"), runs=3).sent) == 8  # the third run only


def test_what_failed_is_asked_at_the_next_start(judged):
    assert judged(only(1, "status:503")).failures == {"server_error": 1}
    run = judged(only(1, "good:0.9"))
    assert len(run.sent) == 1 and run.grades["v1_1"] == [0.9] and not run.failures


def test_the_tries_go_on_where_they_were(judged):
    run = judged(["good:great!"] + 9 * ["status:500"], 1)
    assert run.failures == {"unreadable": 1, "server_error": 1}
    assert run.entries["v1_0"] == {"model": ["teacher-2024-01-01"], "content": ["great!"], "score": [None]}  # as a recorded judge would say
    run = judged(["good:0.2"], 1)
    assert len(run.sent) == 1 and run.sent[0]["messages"][0]["content"].endswith(NUDGE) and run.grades == {"v1_0": [0.2]}


@pytest.mark.parametrize("change", [{"answers": ["It is 0.", "something else"]}, {"model": "another"}, {"prompt": Prompt("mine", "Grade it.")},
                                    {"prompt": Prompt("mine", read_prompt(None).text, "Again: ")}, {"max_tokens": 8}])
def test_what_is_something_else_is_asked_anew(judged, change):
    judged(["good:0.5"] * 2, 2)
    run = judged(["good:0.8"] * 2, 2, **change)
    assert len(run.sent) == (1 if "answers" in change else 2) and run.grades["v1_1"] == [0.8]
    assert judged(["good:0.1"] * 2, 2).grades == {"v1_0": [0.5], "v1_1": [0.5]}


def test_a_missing_answer_has_no_entry_and_an_empty_one_is_graded(judged):
    run = judged(only(9, ""), answers=["", None, "x", None])
    assert list(run.entries) == ["v1_0", "v1_2"] and run.grades == {"v1_0": [0.5], "v1_1": [None], "v1_2": [0.5], "v1_3": [None]}
    assert len(run.sent) == 2 and run.summary["missing"] == 2


def test_no_answer_at_all(judged):
    run = judged([], answers=[None] * 4, runs=2)
    assert run.entries == {} and set(map(tuple, run.grades.values())) == {(None, None)} and run.notes["judge"].startswith("not asked")


def test_half_a_surrogate_pair_in_an_answer(judged):
    assert judged([], 1, answers=["caf\udce9"]).failures == {"unreadable": 5}  # the server's own echo


def test_a_refused_key_stops_the_run(judged):
    with pytest.raises(ConfigError, match="401"):
        judged(only(1, "status:401"))


@pytest.mark.parametrize("behaviour", ["quota", "status:402"])
def test_no_credit_stops_the_run_and_keeps_what_was_said(judged, behaviour):
    with pytest.raises(ResumableError, match="credit"):
        judged(["good:0.5", "good:0.5", behaviour], concurrency=1)
    assert len(judged(only(9, "")).sent) == 2


def test_a_dead_endpoint_is_not_asked_to_the_end(judged):
    run = judged(lambda text, number: "status:500" if number else "good:great!", 100, attempts=1, concurrency=1)
    assert run.failures["server_error"] == PATIENCE and sum(run.failures.values()) == 101 and len(run.sent) <= 1 + PATIENCE + 2
    assert run.failures["not asked"] == 90  # 89 whose first try, and one whose second was not sent
    assert judged(only(-1, ""), 100).summary["score"] == 50


def test_a_judge_that_passes_over_a_question_is_not_asked_its_second_try(tmp_path):
    class Silent:
        name, model, max_tokens, absent = "silent", "silent", 3, "passed over"
        asked = ()

        def ask(self, questions, temperature):
            self.asked = (*self.asked, *(key for key, _ in questions))
            return iter(())

        def possibly_billed(self):
            return 0

    judge = Silent()
    notes = grade_rows(vet_rows(2), ["a", "b"], judge, read_prompt(None), 1, tmp_path)
    assert [Key.parse(key).trial for key in judge.asked] == [1, 1] and notes["judge failures"] == {"passed over": 2}


def test_failures_between_answers_are_no_dead_endpoint(judged):
    run = judged(lambda text, _: "status:500" if number_of(text) % 2 else "good:0.5", 60, attempts=1, concurrency=1)
    assert run.failures == {"server_error": 30}


def test_what_must_be_said_beside_the_score(judged):
    run = judged(only(1, "hang"), timeout=0.2, attempts=2)
    assert run.notes["judge"] == "teacher-2024-01-01 (3)" and run.notes["judge asked"].startswith("judge at http://127.0.0.1")
    assert run.notes["judge prompt"] == f"omnivision-1, hash {read_prompt(None).hash}" and run.notes["judge possibly billed"] == 2
    assert run.notes["judge first failure"] == "v1_1, run 1: timed_out: 'no response after 0.2 s'"


def test_a_judge_that_does_not_name_itself(judged):
    body = completion("0.5")
    del body["model"]
    run = judged(lambda text, number: "raw:" + json.dumps(body))
    assert run.notes["judge"] == "not named" and run.entries["v1_0"]["model"] == [None]


def test_a_key_is_read_back():
    key = Key("org/model: 1 %2F", 3, "0a1b", "v1/0", "ff", 2, 5)
    assert Key.parse(str(key)) == key and str(key).count("/") == 6
    for text in ("key 5", "a/b/c/d/e/f/g"):
        with pytest.raises(ValueError):
            Key.parse(text)
