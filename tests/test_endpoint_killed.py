"""A worker that is killed again and again, against a server that misbehaves: in the end every question has its answer, paid once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from endpoint_server import Server, at_random

from omnivision.endpoint import Kind, Ledger

# Without the package's own __init__, which takes five seconds for torch and transformers: this room needs neither.
BARE = """
import sys, types
package = types.ModuleType("omnivision")
package.__path__ = [sys.argv[1]]
sys.modules["omnivision"] = package
"""
WORKER = BARE + """
from omnivision.endpoint import Client, Endpoint, Ledger, message

_, _, path, url, questions = sys.argv
endpoint = Endpoint(url, "teacher", concurrency=4, backoff=0.002, timeout=5, attempts=6)
with Ledger(path) as ledger, Client(endpoint, ledger) as client:
    outcomes = list(client.ask_all((f"key {n}", [message("user", f"question {n}")]) for n in range(int(questions))))
sys.exit(0 if all(outcome.final for outcome in outcomes) else 9)
"""
CHANCES = {"status:429": 0.04, "retry_after:0": 0.02, "status:500": 0.04, "status:502": 0.02, "status:503": 0.03, "status:504": 0.02, "reset": 0.03,
           "hang_up": 0.02, "reset_midway": 0.03, "truncated": 0.03, "short_body": 0.02, "empty": 0.03, "error_inside": 0.02, "late:0.02": 0.05,
           "refusal": 0.01, "length": 0.01, "status:400": 0.01, "huge": 0.01, "raw:<html>": 0.01, "hang": 0.002, "drip": 0.002}


def test_the_room_needs_nothing_heavy(root):
    code = BARE + "import omnivision.endpoint\nprint(sorted({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code, str(root / "omnivision")], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 11))])
def test_a_worker_killed_twenty_times_loses_nothing_and_pays_once(tmp_path, root, seed, questions=500, kills=20):
    dice = random.Random(seed)
    points = sorted(dice.sample(range(1, int(1.2 * questions)), kills))  # counted in requests that the server received
    with Server(at_random(seed, CHANCES)) as server:
        command = [sys.executable, "-c", WORKER, str(root / "omnivision"), str(tmp_path / "ledger"), server.url, str(questions)]
        for point in points:
            kill_at(command, server, point, dice.uniform(0, 0.005))
        for _ in range(5):  # a run ends with 9 if a question failed six times in a row
            code = subprocess.run(command, timeout=120, check=False).returncode
            if code != 9:
                break
        assert code == 0
        check(server, tmp_path / "ledger", questions, kills)


def kill_at(command, server, point, later):
    """Starts a worker, and kills it a little after the server has received so many requests in all."""
    worker = subprocess.Popen(command)
    end = time.monotonic() + 60
    while len(server.received) < point and worker.poll() is None:
        assert time.monotonic() < end, "the worker does not ask"
        time.sleep(0.001)
    time.sleep(later)
    worker.kill()
    assert worker.wait() == -signal.SIGKILL, "the worker had ended before its kill: there are too few questions for so many kills"


def check(server, path, questions, kills):
    with Ledger(path) as ledger:
        final = {f"question {n}": ledger.answered(f"key {n}") for n in range(questions)}
        killed = Counter(one.key.replace("key", "question") for one in ledger.possibly_billed() if one.kind is None)
        assert all(final.values())
    for question, outcome in final.items():
        if outcome.kind is Kind.ANSWERED:
            assert outcome.text == f"re: {question}"
        assert server.usable[question] <= 1 + killed[question], question
    assert sum(server.usable.values()) <= questions + sum(killed.values()) <= questions + 4 * kills
    assert killed, "no kill hit a request"
    assert {outcome.kind for outcome in final.values()} >= {Kind.ANSWERED, Kind.REFUSED}
