"""dpo on two processes: every ZeRO stage, pairs without a picture on one of them, and the reference's log-probs shared out."""

from __future__ import annotations

import json

import pytest
import train_world
import workers

STEPS = {"max_steps": 4, "batch_size": 2, "log_steps": 1, "edit_weight": 2.0, "schedule": "constant"}
ENGINES = {
    "ZeRO 2": (False, {"zero_stage": 2}), "bf16, ZeRO 3": (True, {"zero_stage": 3}),
    "ZeRO 1": (False, {"zero_stage": 1}), "ZeRO 3": (False, {"zero_stage": 3}),
    "a second model, ZeRO 3": (False, {"zero_stage": 3, "precompute_reference": False}), "two rows a pair, ZeRO 2": (False, {"zero_stage": 2, "share": "none"}),
}  # fmt: skip
QUICK = ("bf16, ZeRO 3",)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def mixed(world, tmp_path_factory):
    """Pairs of which two thirds have no picture, so that some batches are texts alone; four of them stand there twice."""
    rows = train_world.read_lines(world.file("dpo"))
    return str(train_world.write_lines(tmp_path_factory.mktemp("mixed") / "pairs.jsonl", [{**row, "images": row["images"] if at % 3 == 0 else []}
                                                                                         for at, row in enumerate(rows)]))


@pytest.fixture(scope="module")
def plain(world, mixed, tmp_path_factory):
    """One process, fp32, no ZeRO, the same global batch."""
    config = train_world.settings(world, tmp_path_factory.mktemp("plain"), "dpo", **{**STEPS, "batch_size": 4, "zero_stage": 0}, data=[mixed])
    return train_world.train(config, "dpo")


@pytest.mark.parametrize("engine", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in ENGINES if name not in QUICK)])
def test_two_processes_learn_what_one_does(world, mixed, plain, tmp_path, engine):
    bf16, changes = ENGINES[engine]
    final = workers.run(train_world.settings(world, tmp_path / "out", "dpo", **STEPS, data=[mixed], **changes), "dpo", 2, bf16=bf16)
    assert train_world.losses(final) == pytest.approx(train_world.losses(plain), abs=0.15 if bf16 else 1e-4)
    first = train_world.read_lines(final.parent / "metrics.jsonl")[0]
    assert first["rewards/margins"] == pytest.approx(0, abs=0.05 if bf16 else 1e-5)  # the start is its own reference, in the arithmetic of the run
    if changes.get("precompute_reference", True):
        assert "reference: log-probs of 8 of 8 pairs computed" in (tmp_path / "workers.log").read_text()
        (kept,) = (final.parent / "reference").glob("*.jsonl")
        assert len(kept.read_text().splitlines()) == 8


def test_a_short_last_batch_of_held_out_pairs(world, tmp_path):
    """Three pairs in batches of two: one process has two pairs where the other has one."""
    rows = [{**row, "id": f"h{number}"} for number, row in enumerate(train_world.read_lines(world.file("dpo"))[:3])]
    three = str(train_world.write_lines(tmp_path / "three.jsonl", rows))
    steps = {"max_steps": 1, "schedule": "constant", "held_out": [three], "zero_stage": 2}
    final = workers.run(train_world.settings(world, tmp_path / "out", "dpo", batch_size=2, **steps), "dpo", 2)
    told = json.loads((final.parent / "held_out.json").read_text())
    assert told["rows"] == 3 and told["before"] == pytest.approx(0.6931, abs=1e-4) and told["after"] < told["before"]  # ln 2: the start is its own reference
