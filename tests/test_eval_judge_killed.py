"""A judging that is killed again and again asks nothing twice and ends with the grades of one that was not."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from endpoint_server import Server
from omnivision_eval.judge_endpoint import EndpointJudge
from omnivision_eval.judge_grades import grade_rows
from omnivision_eval.judge_key import Key
from omnivision_eval.judge_prompt import NUDGE, read_prompt
from test_endpoint_killed import BARE
from test_eval_judge import SETTINGS, number_of, vet_rows

from omnivision.endpoint import Endpoint, Kind, Ledger
from omnivision.endpoint.lines import Request, parse

QUESTIONS, RUNS, KILLS = 60, 2, 6
REQUESTS = RUNS * (QUESTIONS + 10 + 2 * 4)  # every sixth question needs a second try, two of them all five
WORKER = BARE + """
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_eval_judge_killed import judge_all
judge_all(Path(sys.argv[3]), sys.argv[4])
"""


def judge_all(folder, url):
    """A whole judging."""
    with Ledger(folder / "judge.ledger.jsonl") as ledger:
        grade_rows(vet_rows(QUESTIONS), [f"It is {at}." for at in range(QUESTIONS)], EndpointJudge(Endpoint(url, "judge", **SETTINGS), ledger),
                   read_prompt(None), RUNS, folder)


def choose(text, number):
    """A grade that the question alone decides; some need a nudge, two are never given."""
    at = number_of(text)
    if at in (13, 31) or (at % 6 == 0 and not text.endswith(NUDGE)):
        return "good:great!"
    return f"good:{at % 11 / 10}"


def test_a_judging_killed_six_times_asks_nothing_twice_and_ends_the_same(tmp_path, root):
    dice, killed, straight = random.Random(1), tmp_path / "killed", tmp_path / "straight"
    killed.mkdir()
    straight.mkdir()
    with Server(choose) as server:
        judge_all(straight, server.url)
        assert len(server.received) == REQUESTS
    with Server(choose) as server:
        command = [sys.executable, "-c", WORKER, str(root / "omnivision"), str(Path(__file__).parent), str(killed), server.url]
        for point in sorted(dice.sample(range(1, REQUESTS - 10), KILLS)):
            kill_at(command, server, point, dice.uniform(0, 0.005))
            assert not (killed / "grades.json").exists()
        subprocess.run(command, timeout=120, check=True)
        asked = len(server.received)
    assert (killed / "grades.json").read_bytes() == (straight / "grades.json").read_bytes()
    check_ledger(killed / "judge.ledger.jsonl", asked)


def kill_at(command, server, point, later):
    """Starts a judging, and kills it a little after the server has received so many requests in all."""
    worker = subprocess.Popen(command)
    end = time.monotonic() + 60
    while len(server.received) < point and worker.poll() is None:
        assert time.monotonic() < end, "the worker does not ask"
        time.sleep(0.001)
    time.sleep(later)
    worker.kill()
    assert worker.wait() == -signal.SIGKILL, "the worker had ended before its kill"


def check_ledger(path, asked):
    """A question was sent again only where the kill left it open."""
    records = [parse(line) for line in path.read_bytes().splitlines()]
    requests = Counter(one.key for one in records if isinstance(one, Request))
    answered = Counter(one.key for one in records if not isinstance(one, Request) and one.kind is Kind.ANSWERED)
    with Ledger(path) as ledger:
        open_requests = Counter(one.key for one in ledger.possibly_billed())
    assert set(answered.values()) == {1} and len(answered) == REQUESTS and open_requests
    assert all(requests[key] == 1 + open_requests[key] for key in answered) and asked <= sum(requests.values()) == REQUESTS + open_requests.total()
    assert {Key.parse(key).run for key in answered} == {1, 2} and max(Key.parse(key).trial for key in answered) == 5
