"""How a global batch is split over processes and accumulation changes nothing; nor do rows without pictures on some of them."""

from __future__ import annotations

import pytest
import torch
import train_world
import workers

FIFTY = {"max_steps": 50, "log_steps": 1, "save_steps": 1000, "lr": 1e-4, "schedule": "constant"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


def ran(world, folder, ranks=1, stage="sft", **changes):
    return workers.run(train_world.settings(world, folder / "out", stage, **{**FIFTY, **changes}), stage, ranks)


def test_eight_rows_at_once_one_by_one_or_on_two_processes_are_the_same_step(world, tmp_path):
    """Rows differ in length and in how much of them is supervised: a mean of means would differ in the first step."""
    whole = ran(world, tmp_path / "whole", batch_size=8)
    for name, split in (("accumulated", {"batch_size": 1, "accumulation": 8}), ("parted", {"ranks": 2, "batch_size": 4})):
        final = ran(world, tmp_path / name, **split)
        assert train_world.losses(final) == pytest.approx(train_world.losses(whole), abs=1e-5)
        one, other = train_world.weights(whole), train_world.weights(final)
        assert all(torch.allclose(one[key], other[key], atol=1e-4) for key in one)


@pytest.mark.parametrize("zero_stage", [pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 1])
def test_batches_of_any_share_of_pictures_do_not_hang_two_processes(world, tmp_path, share, zero_stage):
    rows = train_world.read_lines(world.file("sft"))
    text = [{**row, "id": f"t{number}", "images": []} for number, row in enumerate(rows * 9)]
    pictured = [{**row, "id": f"p{number}"} for number, row in enumerate(rows[:8] * 13)]
    mixed = (pictured[: round(100 * share)] + text)[:100]
    assert sum(bool(row["images"]) for row in mixed) == round(100 * share)
    data = str(train_world.write_lines(tmp_path / "mixed.jsonl", mixed))
    final = ran(world, tmp_path, 2, batch_size=2, zero_stage=zero_stage, data=[data], max_steps=25, group_by_length=False)
    assert len(train_world.losses(final)) == 25
