"""A recorded judge gives the same grades without network; the command's arguments; the real GPT-4 replies give the published score."""

from __future__ import annotations

import argparse
import json

import pytest
from endpoint_server import Server
from omnivision_eval import mmvet, results
from omnivision_eval.judge import add_judge_arguments, check_judge, judge_rows
from omnivision_eval.judge_prompt import read_prompt
from test_eval_judge import number_of, vet_rows

from omnivision.errors import ConfigError, DataError, ResumableError

ANSWERS = [f"It is {at}." for at in range(3)] + [None]


def options(*words):
    parser = argparse.ArgumentParser()
    add_judge_arguments(parser)
    return parser.parse_args(list(words))


def graded(folder, *words, answers=ANSWERS):
    rows = vet_rows()
    return judge_rows(rows, answers, options(*words), folder), [row["grades"] for row in rows]


@pytest.fixture
def earlier(tmp_path):
    """A judging of two runs: one question is never graded, one in the third try."""
    def choose(text, number):
        return ("good:great!", "good:great!" if text.count("\n") == read_prompt(None).text.count("\n") + 1 else "good:0.3", "good:0.8")[number_of(text)]

    with Server(choose) as server:
        notes, grades = graded(tmp_path / "earlier", "--judge", server.url, "--judge-model", "org/judge", "--judge-runs", "2")
    assert grades == [[None, None], [0.3, 0.3], [0.8, 0.8], [None, None]] and notes["judge failures"] == {"unreadable": 12}
    return tmp_path / "earlier"


def test_a_recorded_judge_gives_the_same_grades(earlier, tmp_path):
    ledger = earlier / "judge.ledger.jsonl"
    content = ledger.read_bytes()
    ledger.chmod(0o400)
    notes, grades = graded(tmp_path / "later", "--judge", str(ledger), "--judge-runs", "2")
    assert (tmp_path / "later" / "grades.json").read_bytes() == (earlier / "grades.json").read_bytes()
    assert grades == [[None, None], [0.3, 0.3], [0.8, 0.8], [None, None]] and notes["judge failures"] == {"unreadable": 12}
    assert notes["judge asked"] == "org/judge, recorded in judge.ledger.jsonl, 3 tokens" and notes["judge possibly billed"] == 0
    assert ledger.read_bytes() == content and [one.name for one in (tmp_path / "later").iterdir()] == ["grades.json"]


def test_a_reply_that_is_not_recorded_is_missing(earlier, tmp_path):
    notes, grades = graded(tmp_path / "later", "--judge", str(earlier / "judge.ledger.jsonl"), "--judge-runs", "3", answers=[None, "x", *ANSWERS[2:]])
    assert grades == [[None] * 3, [None] * 3, [0.8, 0.8, None], [None] * 3] and notes["judge failures"] == {"not recorded": 4}


def test_the_half_line_of_a_killed_run(earlier, tmp_path):
    content = (earlier / "judge.ledger.jsonl").read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(content[:-30])
    notes, _ = graded(tmp_path / "later", "--judge", str(tmp_path / "cut.jsonl"), "--judge-runs", "2")
    assert notes["judge failures"] == {"unreadable": 11, "not recorded": 1} and notes["judge possibly billed"] == 1


def test_recordings_of_several_judges_are_told_apart(earlier, tmp_path):
    with Server(lambda text, number: "good:0.1") as server:
        graded(earlier, "--judge", server.url, "--judge-model", "another")
    ledger = str(earlier / "judge.ledger.jsonl")
    with pytest.raises(ConfigError, match=r"2 recorded judges fit.*another \(3 tokens\), org/judge \(3 tokens\)"):
        graded(tmp_path, "--judge", ledger)
    with pytest.raises(ConfigError, match="0 recorded judges fit"):
        graded(tmp_path, "--judge", ledger, "--judge-model", "a third")
    assert graded(tmp_path, "--judge", ledger, "--judge-model", "another")[1][:3] == [[0.1]] * 3


def test_a_recording_with_another_prompt_is_refused(earlier, tmp_path):
    (tmp_path / "prompt.txt").write_text("Grade it.")
    with pytest.raises(ConfigError, match=f"hashes are {read_prompt(None).hash}, not "):
        graded(tmp_path, "--judge", str(earlier / "judge.ledger.jsonl"), "--judge-prompt", str(tmp_path / "prompt.txt"))


@pytest.mark.parametrize(("content", "said"), [
    (None, "No such file"), (b"", "is empty"), (b"{}\n", ":1"), (b'{"event": "request", "key": "key 1"}\n', "not of a judge's ledger"),
    (b'{"event": "request", "key": "key 1", "attempt": 1, "time": 0, "body_hash": "", "url": "", "bound": [0, 0]}\n', "none of a judge")])
def test_a_file_that_is_no_recorded_judge(tmp_path, content, said):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=said):
        check_judge(options("--judge", str(tmp_path / "file")))


@pytest.mark.parametrize(("words", "said"), [
    (["http://x/v1"], "--judge-model NAME"), (["http://x/v1", "--judge-model", "m", "--judge-runs", "0"], "--judge-runs is 0"),
    (["http://x/v1", "--judge-model", "m", "--judge-key-variable", "NO_SUCH_KEY"], "NO_SUCH_KEY is not set"),
    (["http://x/v1", "--judge-model", "m", "--judge-max-cost", "1"], "needs the prices"),
    (["http://x/v1?key=1", "--judge-model", "m"], "would be logged"), (["http://x/v1", "--judge-model", "m", "--judge-timeout", "0"], "timeout is 0"),
    (["http://x/v1", "--judge-model", "m", "--judge-max-tokens", "0"], "max_tokens is 0")])
def test_arguments_that_cannot_be_are_found_before_anything_is_asked(tmp_path, monkeypatch, words, said):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match=said):
        check_judge(options("--judge", *words))


def test_the_arguments_reach_the_endpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-0123456789")
    (tmp_path / "prompt.txt").write_text("Grade it.")
    words = ["--judge-model", "m", "--judge-key-variable", "JUDGE_KEY", "--judge-prompt", str(tmp_path / "prompt.txt"), "--judge-max-tokens", "7",
             "--judge-concurrency", "1", "--judge-requests-per-minute", "600", "--judge-timeout", "9"]
    with Server(lambda text, number: "good:0.5") as server:
        notes, grades = graded(tmp_path / "out", "--judge", server.url, *words)
        sent, apart = server.received[0], server.times[2] - server.times[0]
        assert server.most_under_way == 1 and apart > 0.15
    assert grades[0] == [0.5] and sent["headers"]["Authorization"] == "Bearer sk-0123456789" and sent["body"]["max_tokens"] == 7
    assert sent["body"]["messages"][0]["content"].startswith("Grade it.\nWhat is ") and sent["body"].keys() == {"model", "messages", "max_tokens", "temperature"}
    assert notes["judge prompt"].startswith("prompt.txt (SHA-256 ") and notes["judge asked"].endswith("7 tokens")


def test_the_budget_stops_the_run(tmp_path):
    words = ["--judge-model", "m", "--judge-price-in", "0", "--judge-price-out", "1000", "--judge-max-cost", "0.012", "--judge-concurrency", "1"]
    with Server(lambda text, number: "good:0.5") as server:  # each reply counts 10 tokens, each request 3 at most
        with pytest.raises(ResumableError, match="max_cost 0.012"):
            graded(tmp_path / "out", "--judge", server.url, *words)
        assert len(server.received) == 1 and not (tmp_path / "out" / "grades.json").exists()


@pytest.mark.official_data
def test_the_real_gpt_4_replies_give_36_1_36_5_36_3_again(official_data, tmp_path):
    """The 654 replies of the published grades file, sent by a server, and then from its ledger."""
    folder = official_data / "mmvet"
    said = json.loads((folder / "results" / "llava-v1.5-13b_gpt-4-grade-3runs.json").read_text())
    answers = json.loads((folder / "results" / "llava-v1.5-13b.json").read_text())
    rows = mmvet.load(folder).rows
    answers = [answers[row["question_id"]] for row in rows]
    script = [f"good:{said[row['question_id']]['content'][run]}" for run in range(3) for row in rows]
    with Server(script) as server:
        words = ("--judge-runs", "3", "--judge-concurrency", "1")
        judge_rows(rows, answers, options("--judge", server.url, "--judge-model", "gpt-4", *words), tmp_path)
        assert len(server.received) == 654
    check_published(rows, answers)
    rows = mmvet.load(folder).rows
    judge_rows(rows, answers, options("--judge", str(tmp_path / "judge.ledger.jsonl"), "--judge-runs", "3"), tmp_path / "later")
    check_published(rows, answers)
    assert (tmp_path / "grades.json").read_bytes() == (tmp_path / "later" / "grades.json").read_bytes()
    written = json.loads((tmp_path / "grades.json").read_text())
    assert {key: one["score"] for key, one in written.items()} == {key: one["score"] for key, one in said.items()}


def check_published(rows, answers):
    one = results.summary(mmvet, results.samples_of(mmvet, rows, answers), "official")
    assert [round(one["metrics"][f"run {number}"], 1) for number in (1, 2, 3)] == [36.1, 36.5, 36.3]
    assert round(one["score"], 1) == 36.3 and round(one["metrics"]["std"], 1) == 0.2 and one["missing"] == 0
