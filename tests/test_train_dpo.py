"""Minimal-edit DPO: the loss by hand, the pairs that are refused, cached features in place of pixels."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
import train_world
from omnivision_train.data import PairCollator, encode_side
from omnivision_train.dpo import as_columns, check_pair
from omnivision_train.trainer import PairTrainer
from omnivision_train.trainer_arguments import training_arguments

from omnivision.data.features import FeatureCache
from omnivision.data.rows import read_rows
from omnivision.errors import DataError

BETA = 0.3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def parts(world):
    """(model, reference, processor): the reference has drifted away, so that the log-ratios are not zero."""
    model, processor = train_world.build(world)
    reference = copy.deepcopy(model).requires_grad_(False).eval()
    with torch.no_grad():
        for weight in reference.model.projector.parameters():
            weight.mul_(1.5)
    return model, reference, processor


@pytest.fixture(scope="module")
def pairs(world):
    return as_columns(world.rows("dpo")[:3], str(world.folder))


def loss_of(world, parts, pairs, folder, cache=None, **changes):
    model, reference, processor = parts
    config = train_world.settings(world, folder, "dpo", beta=BETA, **changes)
    with train_world.one_process():
        from omnivision_train.stages import single_process_defaults

        single_process_defaults()
        collator = PairCollator(processor, cache)
        trainer = PairTrainer(model=copy.deepcopy(model), ref_model=copy.deepcopy(reference), args=training_arguments(config, folder),
                              train_dataset=pairs, processing_class=processor, data_collator=collator)
        trainer.stage_config = config
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model.eval(), collator(list(pairs)))), collator(list(pairs))


def log_probs(model, batch):
    """Sum of the log-probabilities of each row's answer, and the number of its tokens."""
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "pixel_values", "image_features") if key in batch}
    with torch.no_grad():
        rows = F.log_softmax(model(**inputs).logits.float(), -1)
    sums = []
    for row, ids, mask in zip(rows, batch["input_ids"], batch["completion_mask"], strict=True):
        sums.append(sum(row[at - 1, ids[at]] for at in range(1, len(ids)) if mask[at]))
    return torch.stack(sums), batch["completion_mask"].sum(1)


def test_the_loss_by_hand(world, parts, pairs, tmp_path):
    loss, batch = loss_of(world, parts, pairs, tmp_path)
    policy, _ = log_probs(parts[0], batch)
    reference, _ = log_probs(parts[1], batch)
    chosen, rejected = (policy - reference).chunk(2)
    by_hand = float((-F.logsigmoid(BETA * (chosen - rejected))).mean())
    assert loss == pytest.approx(by_hand, rel=1e-5)
    assert abs(by_hand - 0.6931) > 1e-3  # the reference differs: this is not the loss of two equal models


def test_the_share_of_plain_cross_entropy_by_hand(world, parts, pairs, tmp_path):
    plain, batch = loss_of(world, parts, pairs, tmp_path)
    mixed, _ = loss_of(world, parts, pairs, tmp_path, sft_weight=0.2)
    sums, counts = log_probs(parts[0], batch)
    half = len(pairs)
    chosen = float(-sums[:half].sum() / counts[:half].sum())
    assert mixed == pytest.approx(plain + 0.2 * chosen, rel=1e-4)


def test_cached_features_and_pixels_give_the_same_loss(world, parts, pairs, tmp_path):
    cache = FeatureCache(tmp_path / "features", parts[0], parts[2])
    pixels, with_pixels = loss_of(world, parts, pairs, tmp_path)
    cached, with_features = loss_of(world, parts, pairs, tmp_path, cache)
    assert "pixel_values" in with_pixels and with_features["image_features"].shape == (6, *cache.shape)
    assert cached == pytest.approx(pixels, abs=1e-3)
    with torch.no_grad():
        cached_features = with_features["image_features"]
        direct = parts[0].model.get_vision_features(with_pixels["pixel_values"])
    assert torch.allclose(cached_features, direct, atol=5e-3)


def test_chosen_rows_stand_before_rejected_ones(parts, pairs):
    batch = PairCollator(parts[2])(list(pairs))
    said = [parts[2].tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(batch["input_ids"], batch["completion_mask"])]
    assert said == [f"{p[side]}<|im_end|>" for side in ("chosen", "rejected") for p in pairs]
    assert "labels" not in batch and len(batch["pixel_values"]) == 6


@pytest.mark.parametrize(("change", "said"), [({"rejected": "same"}, "Row p9 is no preference"), ({"prompt": ""}, "a question is empty")])
def test_a_pair_that_teaches_nothing_is_refused(parts, tmp_path, change, said):
    pair = {"id": "p9", "images": [], "prompt": "What is it?", "chosen": "same", "rejected": "other", **change}
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(pair) + "\n")
    with pytest.raises(DataError, match=rf"{said}.*{file.name}:1"):
        check_pair(read_rows(file)[0], parts[2], 256)


def test_a_pair_that_is_too_long_is_refused_and_never_cut(world, parts):
    rows = world.rows("dpo")[:1]
    longest = max(len(encode_side(parts[2], rows[0].prompt, answer, 1).input_ids) for answer in (rows[0].chosen, rows[0].rejected))
    check_pair(rows[0], parts[2], longest)
    with pytest.raises(DataError, match=rf"Row d0 has {longest} tokens with its longer answer, more than max_length {longest - 1}"):
        check_pair(rows[0], parts[2], longest - 1)


def test_preferences_prefer(world, tmp_path):
    final = train_world.train(train_world.settings(world, tmp_path, "dpo", max_steps=12, batch_size=6, lr=1e-2), "dpo")
    lines = train_world.read_lines(final.parent / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # the model is its own reference at first
    assert lines[-1]["loss"] < 0.5 and lines[-1]["rewards/accuracies"] > lines[0]["rewards/accuracies"]
