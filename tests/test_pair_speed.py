"""The benchmark of dpo beside TRL: what it compares, counts and refuses, without its processes."""

from __future__ import annotations

import argparse
import io
import json

import pytest
from omnivision_train import pair_speed
from omnivision_train.pair_speed import AGREE, gate, interval, report, timed
from omnivision_train.pair_speed_arm import Arm, Paced

OPTIONS = argparse.Namespace(preset="tiny", batch_size=8, pairs=160, words=40, epochs=3, rounds=2, steps=4, without=[])
ARMS = [Arm(name, "f", "s", "p", "i", 8, "fp32", {}) for name in ("stock", "ours")]


class Fake:
    """An arm that took these seconds and logged these numbers."""

    def __init__(self, arm: Arm, logged=(), seconds=(2.0, 1.0)) -> None:
        self.logged, self.seconds, self.preparation = list(logged), seconds[arm.name == "ours"], 10.0

    def steps(self, number: int) -> dict:
        return {"logged": self.logged, "seconds": self.seconds, "cpu": self.seconds}

    def end(self) -> dict:
        return {"peak_gib": 1.0}


@pytest.mark.parametrize("off, step, agrees", [(0.5 * AGREE, 0, True), (2 * AGREE, 0, False), (2 * AGREE, 1, True)])
def test_arms_that_do_not_train_the_same_are_not_timed(monkeypatch, off, step, agrees):
    logged = {"stock": [{"loss": 0.7}] * 3, "ours": [{"loss": 0.7 + (off if number == step else 0)} for number in range(3)]}
    monkeypatch.setattr(pair_speed, "Process", lambda arm: Fake(arm, logged[arm.name]))
    if agrees:
        assert gate(ARMS) == logged
    else:
        with pytest.raises(SystemExit, match="step 1, loss 0.7 and"):
            gate(ARMS)


def test_the_interval_holds_the_median():
    assert interval([2.0] * 5) == (2.0, 2.0, 2.0)
    median, low, high = interval([1.0, 2.0, 3.0, 4.0, 9.0])
    assert median == 3.0 and 1.0 <= low < median < high <= 9.0


@pytest.mark.parametrize("others, told", [((0.0, 0.9), "2.00 times as fast (2.00 to 2.00; by CPU time 2.00). 3 epochs of 160 pairs with all preparation: 1.75 times. 1 of 2"),
                                          ((0.9, 0.9), "0 of 2 rounds were quiet; none, so all count")])
def test_only_quiet_rounds_count(others, told):
    rounds = [{"seconds": [8.0, 4.0], "cpu": [8.0, 4.0], "others": others[0]}, {"seconds": [8.0, 1.0], "cpu": [8.0, 1.0], "others": others[1]}]
    said = report({"rounds": rounds, "preparation": [10.0, 10.0], "peak_gib": [2.0, 1.0]}, OPTIONS)
    assert told in said and "| stock TRL | 8.00 | 10.0 | 2.00 |" in said


def test_a_machine_that_does_not_tell_its_load_is_not_called_quiet(monkeypatch):
    monkeypatch.setattr(pair_speed, "Process", Fake)
    monkeypatch.setattr(pair_speed.Path, "read_text", lambda self: (_ for _ in ()).throw(OSError()))
    found = timed(ARMS, OPTIONS)
    assert [one["seconds"] for one in found["rounds"]] == [[4.0, 2.0]] * 2
    assert "0 of 2 rounds were quiet" in report(found, OPTIONS)


def test_an_arm_steps_when_it_is_told_to(monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO("2\n"))
    paced = Paced(said)
    paced.on_step_begin(None, None, None)
    for loss in (0.7, 0.6):
        paced.on_step_begin(None, None, None)
        if loss == 0.6:
            with pytest.raises(SystemExit):  # its input ends
                paced.on_log(None, None, None, {"loss": loss, "epoch": 1.0})
        else:
            paced.on_log(None, None, None, {"loss": loss, "epoch": 1.0})
    ready, steps, end = map(json.loads, said.getvalue().splitlines())
    assert ready == {"ready": True} and steps["logged"] == [{"loss": 0.7}, {"loss": 0.6}] and end["peak_gib"] > 0
