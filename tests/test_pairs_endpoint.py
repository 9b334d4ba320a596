"""The pair factory with a teacher behind HTTP: what it writes badly is caught, what it answers is paid once."""

from __future__ import annotations

import base64
import json
import random
import signal
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import train_world
import workers
from pairs_world import built, folder, mirrored, model, serve, taught  # noqa: F401 - fixtures

from omnivision.data.rows import read_rows
from omnivision.endpoint import Client, Endpoint, Ledger
from omnivision.errors import ResumableError
from omnivision.pairs import prompts
from omnivision.pairs.endpoint_teacher import EndpointTeacher
from omnivision.pairs.factory import correct_all
from omnivision.pairs.gates import Limits
from omnivision.pairs.teacher import Oracle, Task


def test_what_a_sloppy_teacher_writes_is_minimal_and_true_behind_the_gates(folder, model):
    """At least 95 % of the pairs change nothing but the words that the oracle calls wrong, and all chosen answers are true."""
    with serve(folder) as server:
        report = taught(folder, model, server, "--most-edited", "0.6")
    assert server.sloppy.told and sum(report["outcomes"].values()) == report["answers"]
    assert sum(report["outcomes"].get(gate, 0) for gate in ("too_much_edited", "length", "format", "order", "second_look_disagrees")) > 5
    rows = {one.id: one for one in read_rows(folder / "world" / "dpo.jsonl")}
    oracle, minimal, pairs = Oracle(folder / "world", rows.values()), 0, train_world.read_lines(folder / "pairs.jsonl")
    for pair in pairs:
        one = rows[pair["id"].removesuffix("-pair")]
        tasks = [Task(side, one, "", pair["prompt"], pair[side], one.turns[1]["text"]) for side in ("rejected", "chosen")]
        (_, before), (_, after) = oracle.correct(tasks)
        assert after.kind == "right", pair
        minimal += before.kind == "corrected" and before.text == pair["chosen"]
    assert len(pairs) > 12 and minimal >= 0.95 * len(pairs)


def test_pictures_go_to_the_teacher_as_they_are(folder, model):
    with serve(folder) as server:
        taught(folder, model, server, "--limit", "3")
    sent = [request["body"]["messages"][1]["content"][1]["image_url"]["url"] for request in server.received]
    assert all(base64.b64decode(url.partition(",")[2]).startswith(b"\x89PNG") and url.startswith("data:image/png;base64,") for url in sent)


def test_failures_are_outcomes_and_the_next_start_asks_only_what_is_open(folder, model, monkeypatch):
    """An answer that the server refuses is final; an outage is not."""
    monkeypatch.setattr("omnivision.endpoint.pace.delay", lambda *given: 0.0)
    broken = {"status:400": "failed: rejected", "refusal": "failed: refused", "empty": "failed: empty"}
    down = {"is": False}
    with serve(folder, lambda question, number: "status:503" if down["is"] else random.Random(question).choice([*broken, *["good"] * 5])) as server:
        def start(limit: int) -> tuple[Counter, set[str]]:
            before = len(server.received)
            with pytest.raises(ResumableError, match="4 of 44 questions have no answer") if down["is"] else nullcontext():
                taught(folder, model, server, "--limit", str(limit), "--concurrency", "1")
            report = json.loads((folder / "pairs.report.json").read_text())
            assert sum(report["outcomes"].values()) == report["answers"] == limit
            return Counter(report["outcomes"]), {json.dumps(request["body"]["messages"]) for request in server.received[before:]}

        first, asked = start(40)
        assert set(broken.values()) < set(first) and first["right"] + first["pairs"] > 0 and len(asked) > 40  # second looks too
        assert start(40) == (first, set())
        down["is"] = True
        hit, open_ = start(44)
        assert len(open_) == 4 and hit - first == Counter({"failed: server_error": 4})
        down["is"] = False
        last, again = start(44)
        assert open_ <= again and not again & asked and not any("server" in kind for kind in last)
        assert start(44) == (last, set())


def asked_of(folder, count: int) -> list[Task]:
    """Mirrored answers to the first questions."""
    rows = read_rows(folder / "world" / "dpo.jsonl")[:count]
    return [Task(f"{number}/0", one, str(folder / "world" / one.images[0]), one.turns[0]["text"], mirrored(one.turns[1]["text"]), one.turns[1]["text"])
            for number, one in enumerate(rows)]


def test_a_question_that_comes_again_much_later_is_paid_once(folder, tmp_path):
    tasks = asked_of(folder, 30)
    tasks += [task._replace(key=f"{30 + number}/0") for number, task in enumerate(tasks[:3])]
    with serve(folder) as server:
        for _ in range(2):
            with Ledger(tmp_path / "l") as ledger, Client(Endpoint(server.url, "sloppy", concurrency=1), ledger) as client:
                outcomes = correct_all(tasks, EndpointTeacher(client), Limits(0.6), second_look=True)
            assert [one.task.key for one in outcomes] == [task.key for task in tasks] and [one.kind for one in outcomes[:3]] == [one.kind for one in outcomes[30:]]
        bodies = [json.dumps(one["body"]["messages"]) for one in server.received]
    assert len(bodies) == len(set(bodies))


def test_a_teacher_that_is_dead_ends_the_run(folder, tmp_path):
    with serve(folder, lambda question, number: "status:503") as server, Ledger(tmp_path / "l") as ledger:
        with Client(Endpoint(server.url, "sloppy", concurrency=1, attempts=1), ledger) as client, pytest.raises(ResumableError, match="10 questions in a row have no answer"):
            correct_all(asked_of(folder, 30), EndpointTeacher(client), Limits(0.6), second_look=True)
        assert len(server.received) < 15


def test_a_budget_ends_the_run_and_a_larger_one_goes_on(folder, model):
    prices = ["--price-in", "1000", "--price-out", "1000"]
    with serve(folder) as server:
        with pytest.raises(ResumableError, match="max_cost"):
            taught(folder, model, server, "--limit", "40", "--max-cost", "5", "--concurrency", "1", *prices)
        asked = len(server.received)
        taught(folder, model, server, "--limit", "40", "--max-cost", "1e9", *prices)
    assert 0 < asked < 80


CHANCES = ("status:429", "status:500", "status:503", "reset", "truncated", "short_body", "error_inside", "empty", "hang_up")


def factory(tasks, path, url, done) -> None:
    """A process that corrects all tasks and says what became of them."""
    endpoint = Endpoint(url, "sloppy", concurrency=4, backoff=0.002, timeout=5, attempts=8)
    with Ledger(path) as ledger, Client(endpoint, ledger) as client:
        outcomes = correct_all(tasks, EndpointTeacher(client), Limits(0.6), second_look=True)
    Path(done).write_text(json.dumps([[outcome.task.key, outcome.kind] for outcome in outcomes]))


@pytest.mark.parametrize("items, kills", [(120, 5), pytest.param(500, 20, marks=pytest.mark.slow)])
def test_a_factory_killed_again_and_again_pays_once_and_loses_nothing(folder, tmp_path, items, kills):
    rows = read_rows(folder / "world" / "dpo.jsonl")
    tasks = []
    for number in range(items):
        one = rows[number % len(rows)]
        tasks.append(Task(f"{number}/0", one, str(folder / "world" / one.images[0]), one.turns[0]["text"], mirrored(one.turns[1]["text"]), one.turns[1]["text"]))
    dice = random.Random(items)
    points = sorted(dice.sample(range(2, int(1.1 * min(items, len(rows)))), kills))  # a row that comes again asks nothing
    with serve(folder, lambda question, number: random.Random(number).choice(CHANCES) if random.Random(f"{number}").random() < 0.2 else "good") as server:
        for point in [*points, None]:
            process = workers.CONTEXT.Process(target=factory, args=(tasks, tmp_path / "ledger.jsonl", server.url, tmp_path / "done.json"))
            process.start()
            while point is not None and len(server.received) < point and process.is_alive():
                time.sleep(0.001)
            if point is not None:
                process.kill()
            process.join(120)
            assert process.exitcode == (0 if point is None else -signal.SIGKILL)
        outcomes = json.loads((tmp_path / "done.json").read_text())
    assert [key for key, _ in outcomes] == [task.key for task in tasks] and len({kind for _, kind in outcomes}) > 3
    ledger = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    answered = [line["key"] for line in ledger if line["event"] == "response"]
    assert len(answered) == len(set(answered))  # no question has two answers
    cut_off = sum(1 if line["event"] == "request" else -1 for line in ledger)
    assert 0 < cut_off <= 4 * kills
    assert server.given[prompts.CORRECT] + server.given[prompts.LOOK_AGAIN] <= len(answered) + cut_off  # paid once, but for what a kill cut off
    assert server.given[prompts.CORRECT] <= items + cut_off
