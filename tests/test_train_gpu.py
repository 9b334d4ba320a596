"""Every stage on a GPU, at every ZeRO stage, in bf16: that it starts, learns the same and goes on. `pytest -m gpu` runs them; on a CPU they run in its bf16."""

from __future__ import annotations

import math

import pytest
import train_world
from test_train_resume import Killed, die, interrupt

pytestmark = pytest.mark.gpu
BF16 = {"precision": "bf16", "max_steps": 4, "save_steps": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


def losses(world, out, stage: str, **changes) -> list[float]:
    return train_world.losses(train_world.train(train_world.settings(world, out, stage, **{**BF16, **changes}), stage))


@pytest.mark.parametrize("stage, changes", [
    ("align", {}), ("sft", {"vision_lr": 1e-5}), ("sft", {"gradient_checkpointing": True}), ("sft", {"workers": 2}),
    ("dpo", {"precompute_reference": False}), ("functions", {"lora_rank": 4}), ("functions", {"train_table": False}), ("functions", {"token_weight": 2.0})])
def test_a_stage_with_this_setting_trains(world, tmp_path, stage, changes):
    found = losses(world, tmp_path, stage, **changes)
    assert len(found) == 4 and all(map(math.isfinite, found))


@pytest.mark.parametrize("stage", train_world.STAGES)
def test_every_zero_stage_has_the_losses_of_the_first(world, tmp_path, stage):
    found = [losses(world, tmp_path / str(zero), stage, zero_stage=zero) for zero in (1, 2, 3)]
    assert found[1] == pytest.approx(found[0], abs=0.05) and found[2] == pytest.approx(found[0], abs=0.05)


@pytest.mark.parametrize("zero", [1, 3])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(world, tmp_path, monkeypatch, zero):
    whole = losses(world, tmp_path / "whole", "sft", zero_stage=zero)
    with monkeypatch.context() as patch:
        interrupt(patch, 3, die)
        with pytest.raises(Killed):
            losses(world, tmp_path / "killed", "sft", zero_stage=zero)
    assert losses(world, tmp_path / "killed", "sft", zero_stage=zero) == pytest.approx(whole, abs=0.02)  # a GPU's attention may add in another order


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_feature_cache_with_a_part_of_the_pictures_trains_as_none(world, tmp_path, stage):
    plain = losses(world, tmp_path / "plain", stage)
    cached = losses(world, tmp_path / "cached", stage, feature_cache=str(tmp_path / "features"), cache_gib=1e-6)
    assert cached == pytest.approx(plain, abs=0.05)


def test_held_out_rows_are_told(world, tmp_path):
    others = [{**row, "id": f"held-{row['id']}"} for row in train_world.read_lines(world.file("sft"))[:4]]
    losses(world, tmp_path, "sft", held_out=[str(train_world.write_lines(tmp_path / "others.jsonl", others))])
    assert (tmp_path / "sft" / "held_out.json").is_file()


@pytest.mark.parametrize("stage", ["sft", "dpo", "functions"])
def test_compiled_layers_have_the_plain_losses(world, tmp_path, stage):
    assert losses(world, tmp_path / "compiled", stage, compile=True) == pytest.approx(losses(world, tmp_path / "plain", stage), abs=0.05)
