"""Grounding: the projector learns from regions which patches a word means."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch
from omnivision_train.config import AlignConfig
from omnivision_train.grounding import Grounded, Names, ground, grounded, names_said, plan_loss, plan_targets, regions_of, shuffled, strips_of
from omnivision_train.strip_plans import STRIPS, plan

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
        carried = grounded(row, words_of(processor), {}).plan
        assert drawn.weights_SK.any() and (drawn.ids_SK == carried.ids_SK).all() and (drawn.weights_SK == carried.weights_SK).all()


def test_the_projector_alone_learns_to_say_the_plans(parts, tmp_path):
    model, processor, rows, config, cache = parts
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ground(model, processor, rows, config, cache, tmp_path / "grounding.jsonl")
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"model.projector.linear_{n}.{part}" for n in (1, 2) for part in ("weight", "bias")}
    log = [json.loads(line) for line in (tmp_path / "grounding.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [0, 50, 59] and log[-1]["plan"] < 0.6 < 1 < log[0]["plan"]
    assert all(line["loss"] == pytest.approx(line["plan"] + line["names"], abs=2e-4) for line in log)
    features = cache.get([str(config.image_root + "/" + row.images[0]) for row in rows]).float()
    with torch.no_grad():
        tokens_BSD, targets_BSD = model.model.projector(features), plan_targets(model.get_input_embeddings().weight, [grounded(row, words_of(processor), {}).plan for row in rows])
        shown_BS = targets_BSD.any(-1)
        loss = plan_loss(tokens_BSD[shown_BS], targets_BSD[shown_BS])
    assert 0 < float(loss) < log[-1]["plan"] + 0.05  # shuffled patches are no easier


def test_a_token_lies_nearest_to_its_own_name_with_the_contrast(parts):
    model, processor, rows, config, cache = parts
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    labels = sorted({region["label"] for row in rows for region in row.regions})
    numbers = {label: number for number, label in enumerate(labels)}
    said = [grounded(row, words_of(processor), numbers) for row in rows]
    read = torch.ones(len(rows), STRIPS, dtype=torch.bool)
    features = cache.get([str(config.image_root + "/" + row.images[0]) for row in rows]).float()
    found = {}
    for weight in (0.0, 1.0):
        model.load_state_dict(start)
        ground(model, processor, rows, replace(config, grounding_contrast=weight), cache, None)
        with torch.no_grad():
            tokens_ND = model.model.projector(features).flatten(0, 1)
            found[weight] = float(Names(model.get_input_embeddings().weight, labels, words_of(processor)).loss(tokens_ND, *names_said(said, read)))
    assert found[1.0] < 0.8 * found[0.0]


def test_the_contrast_is_the_cross_entropy_of_the_names_in_a_strip():
    torch.manual_seed(0)
    table_WD, words = torch.randn(20, 6), {" cat": [3], " red dog": [4, 5], "7": [6]}
    names = Names(table_WD, ["cat", "red dog", "7"], words.__getitem__)
    said = [Grounded(None, None, [(2, 0, 0.2), (2, 1, 0.6)]), Grounded(None, None, [(0, 2, 0.9)])]
    read_BS = torch.zeros(2, STRIPS, dtype=torch.bool)
    read_BS[0, [1, 2]] = read_BS[1, 0] = True
    at_K, label_K, share_K = names_said(said, read_BS)
    assert at_K.tolist() == [1, 1, 2] and label_K.tolist() == [0, 1, 2] and share_K.tolist() == pytest.approx([0.25, 0.75, 1.0])
    tokens_ND = torch.randn(3, 6)
    words_VD = torch.stack([table_WD[3], (table_WD[4] + 0.75 * table_WD[5]) / 1.75, table_WD[6]]) - table_WD.mean(0)
    logits_NV = (tokens_ND - table_WD.mean(0)) @ words_VD.T - 0.4 * words_VD.square().sum(1)
    targets_NV = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    expected = torch.nn.functional.cross_entropy(logits_NV[1:], targets_NV)
    assert torch.allclose(names.loss(tokens_ND, at_K, label_K, share_K), expected, atol=1e-5)
    assert float(names.loss(tokens_ND, *names_said([Grounded(None, None, [])] * 2, read_BS))) == 0.0


def test_a_strip_names_the_regions_it_shows(parts):
    model, processor, rows, _, _ = parts
    row = rows[0]
    numbers = {row.regions[0]["label"]: 5}
    one = grounded(row, words_of(processor), numbers)
    assert {number for _, number, _ in one.names} == {5}
    assert {strip for strip, _, _ in one.names} <= set(one.occupied_S.nonzero().flatten().tolist())
    assert all(0 < share <= 1 for region in regions_of(row) for share in strips_of(region).values())
    features = torch.randn(2, 729, 128)
    whole = model.model.projector(features)
    assert torch.equal(model.model.projector.of_tokens(features.unflatten(1, (STRIPS, -1)).flatten(2)), whole)


def test_patches_change_places_inside_their_strip_only():
    strips = torch.randn(3 * STRIPS, 9, 4)
    mixed = shuffled(strips, torch.Generator().manual_seed(1))
    assert torch.equal(mixed, shuffled(strips, torch.Generator().manual_seed(1)))
    assert torch.equal(strips, shuffled(strips, torch.Generator(), share=0.0))
    assert torch.equal(strips[..., 0].sort(-1).values, mixed[..., 0].sort(-1).values)
    assert {tuple(patch) for patch in strips[0].tolist()} == {tuple(patch) for patch in mixed[0].tolist()}  # whole patches
    moved = (strips != mixed).any(-1).any(-1).float().mean()
    assert 0.4 < moved < 0.6


def test_the_loss_is_one_for_the_targets_mean():
    targets = torch.randn(10, 3)
    assert float(plan_loss(targets.mean(0).expand(10, 3), targets)) == pytest.approx(1.0)
    assert float(plan_loss(targets, targets)) == 0.0


def test_what_cannot_be_grounded_is_refused(parts):
    model, processor, rows, config, cache = parts
    with pytest.raises(DataError, match="No row has regions"):
        ground(model, processor, [replace(row, regions=()) for row in rows], config, cache, None)
    other, _ = build_model(preset_config("tiny", projector_layout="block"), vision="tiny", language="tiny")
    with pytest.raises(ConfigError, match="raster layout"):
        ground(other, processor, rows, config, cache, None)
