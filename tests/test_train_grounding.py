"""Grounding: the projector learns from regions which patches a word means."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch
from omnivision_train.config import AlignConfig
from omnivision_train.grounding import ground, plan_loss, plan_targets, row_plan, shuffled
from omnivision_train.language_text import STRIPS, plan

from omnivision.data.features import FeatureCache
from omnivision.data.rows import read_rows
from omnivision.errors import ConfigError, DataError
from omnivision.model.build import build_model
from omnivision.presets import preset_config
from omnivision.world.build import build_world
from omnivision.world.recipes import draw, truth_from_row

PICTURES = 6


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grounding") / "world"
    build_world(folder, 5, {"align": PICTURES}, workers=1, progress=False)
    return folder


@pytest.fixture
def parts(world, tmp_path):
    torch.manual_seed(0)
    model, processor = build_model("tiny", vision="tiny", language="tiny")
    rows = read_rows(world / "align.jsonl")
    cache = FeatureCache(tmp_path / "features", model, processor)
    cache.fill([world / row.images[0] for row in rows])
    config = AlignConfig(image_root=str(world), data=["align.jsonl"], grounding_steps=60, grounding_batch=PICTURES)
    return model, processor, rows, config, cache


def words_of(processor):
    return lambda text: processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_rows_carry_the_regions_that_were_drawn(world, parts):
    _, processor, rows, _, _ = parts
    truths = [truth_from_row(json.loads(line)) for line in (world / "truth/align.jsonl").read_text().splitlines()]
    for row, truth in zip(rows, truths, strict=True):
        drawn = plan(draw(truth, 216)[1], words_of(processor), random.Random(0))
        carried = row_plan(row, words_of(processor))
        assert drawn.weights_SK.any() and (drawn.ids_SK == carried.ids_SK).all() and (drawn.weights_SK == carried.weights_SK).all()


def test_the_projector_alone_learns_to_say_the_plans(parts, tmp_path):
    model, processor, rows, config, cache = parts
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ground(model, processor, rows, config, cache, tmp_path / "grounding.jsonl")
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"model.projector.linear_{n}.{part}" for n in (1, 2) for part in ("weight", "bias")}
    log = [json.loads(line) for line in (tmp_path / "grounding.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [0, 50, 59] and log[-1]["loss"] < 0.6 < 1 < log[0]["loss"]
    features = cache.get([str(config.image_root + "/" + row.images[0]) for row in rows]).float()
    with torch.no_grad():
        loss = plan_loss(model.model.projector(features), plan_targets(model.get_input_embeddings(), [row_plan(row, words_of(processor)) for row in rows]))
    assert 0 < float(loss) < log[-1]["loss"] + 0.05  # shuffled patches are no easier


def test_patches_change_places_inside_their_strip_only():
    features = torch.randn(3, 729, 4)
    mixed = shuffled(features, torch.Generator().manual_seed(1))
    assert torch.equal(mixed, shuffled(features, torch.Generator().manual_seed(1)))
    assert torch.equal(features, shuffled(features, torch.Generator(), share=0.0))
    before, after = (sets.view(3, STRIPS, 9, 4) for sets in (features, mixed))
    assert torch.equal(before[..., 0].sort(-1).values, after[..., 0].sort(-1).values)
    assert {tuple(patch) for patch in before[0, 0].tolist()} == {tuple(patch) for patch in after[0, 0].tolist()}  # whole patches
    moved = (before != after).any(-1).any(-1).float().mean()
    assert 0.4 < moved < 0.6


def test_the_loss_is_one_for_the_targets_mean():
    targets = torch.randn(2, 5, 3)
    assert float(plan_loss(targets.mean((0, 1)).expand(2, 5, 3), targets)) == pytest.approx(1.0)
    assert float(plan_loss(targets, targets)) == 0.0


def test_what_cannot_be_grounded_is_refused(parts):
    model, processor, rows, config, cache = parts
    with pytest.raises(DataError, match="No row has regions"):
        ground(model, processor, [replace(row, regions=()) for row in rows], config, cache, None)
    other, _ = build_model(preset_config("tiny", projector_layout="block"), vision="tiny", language="tiny")
    with pytest.raises(ConfigError, match="raster layout"):
        ground(other, processor, rows, config, cache, None)
