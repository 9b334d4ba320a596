"""What a batch leaves in memory is counted before anything loads: as much as torch really keeps."""

from __future__ import annotations

import pytest
import torch
import train_world
from omnivision_train import stages
from omnivision_train import fit
from omnivision_train.activations import FUSED, Batch, Counter, activation_bytes
from omnivision_train.config import AlignConfig, DpoConfig, FunctionsConfig, SftConfig, passes_over
from omnivision_train.data import Collator, Conversations
from omnivision_train.last_layer import narrow_last_layer
from omnivision_train.memory import held_with_batch, on_meta

from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
from omnivision.errors import PlanError
from omnivision.presets import preset_config

CONFIGS = {"align": AlignConfig, "sft": SftConfig}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


def kept(model, batch) -> int:
    """Bytes that a real forward pass keeps."""
    counter = Counter(model)
    with counter.part("all"):
        model(**{key: value for key, value in batch.items() if key not in ("row_ids", "num_tokens", "num_supervised")})
    return counter.bytes["all"]


@pytest.mark.parametrize("stage, changes, pictures", [("align", {}, 4), ("sft", {}, 4), ("sft", {"gradient_checkpointing": True}, 4), ("sft", {"vision_lr": 1e-5}, 4),
                                                      ("sft", {}, 0), ("sft", {}, 2)])
def test_as_many_bytes_are_counted_as_a_real_pass_keeps(world, stage, changes, pictures):
    model = OmniVisionForConditionalGeneration.from_pretrained(world.start("sft"), attn_implementation="eager")
    processor, config = OmniVisionProcessor.from_pretrained(world.start("sft")), CONFIGS[stage](**changes)
    narrow_last_layer(model, config)
    stages.set_trainable(model.train(), stage, ("vision_tower",) if changes.get("vision_lr") else (), main=False)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    rows = Conversations(world.rows("sft"), processor, world.folder, 256)
    rows.samples = [sample for sample in rows.samples if sample.images][:pictures] + [sample for sample in rows.samples if not sample.images][: 4 - pictures]
    batch = Collator(processor)(rows.samples)
    if pictures and not changes.get("vision_lr"):  # a checkpointed block says that it keeps its input, and drops it where nothing trains
        with torch.no_grad():
            batch["image_features"] = model.model.get_vision_features(batch.pop("pixel_values"))
    shape = rows.largest(4)
    assert shape == Batch(4, batch["input_ids"].shape[1], batch["num_supervised"], pictures)
    counted = activation_bytes(on_meta(model.config), config, stage, "fp32", shape, fused=False)
    assert sum(counted.values()) == pytest.approx(kept(model, batch), rel=0.02)


def test_a_frozen_tower_keeps_nothing_under_gradient_checkpointing(world):
    model, _ = train_world.build(world)
    stages.set_trainable(model.train(), "sft", main=False)
    model.activation_checkpointing_enable()
    pixels = torch.zeros(1, 3, *[model.config.vision_config.image_size] * 2)
    assert not model.model.get_vision_features(pixels).requires_grad
    assert model.get_input_embeddings()(torch.zeros(1, 1, dtype=torch.long)).requires_grad


def count(config, stage, rows, length, **changes) -> int:
    """Bytes of the 968m preset in bf16, half of a row's tokens supervised."""
    batch = Batch(rows, length, rows * length // 2)
    return sum(activation_bytes(on_meta(preset_config("968m")), config(**changes), stage, "bf16", batch).values())


def test_activations_grow_with_rows_and_length_and_shrink_with_checkpointing():
    one, two, long = count(SftConfig, "sft", 4, 256), count(SftConfig, "sft", 8, 256), count(SftConfig, "sft", 4, 512)
    assert two == pytest.approx(2 * one, rel=0.01) and long == pytest.approx(2 * one, rel=0.05)
    assert count(SftConfig, "sft", 4, 256, gradient_checkpointing=True) < 0.6 * one
    assert count(SftConfig, "sft", 4, 256, vision_lr=1e-6) > 1.3 * one
    assert count(AlignConfig, "align", 4, 256) < one < count(DpoConfig, "dpo", 4, 256, share="none")
    assert count(DpoConfig, "dpo", 4, 256) < 0.6 * count(DpoConfig, "dpo", 4, 256, share="none", needed_logits_only=False)


def test_weighted_tokens_are_planned_and_metered_with_both_of_their_passes():
    assert count(FunctionsConfig, "functions", 4, 256, token_weight=2.0) == 2 * count(FunctionsConfig, "functions", 4, 256)
    assert passes_over(FunctionsConfig(token_weight=2.0)) == 2 and passes_over(FunctionsConfig()) == passes_over(SftConfig()) == 1


def test_eager_attention_is_planned_with_its_scores():
    def planned(**changes) -> int:
        held = held_with_batch(on_meta(preset_config("968m")), SftConfig(**changes), "sft", "bf16", 1, Batch(4, 512, 200))
        return sum(one.activations for one in held)

    rows, heads, layers = 4, 14, 24
    assert planned(attention="sdpa") == planned()
    assert planned(attention="eager") - planned() > 2 * layers * rows * heads * 512**2  # bytes of the scores in bf16


@pytest.mark.parametrize("stage, zero", [("sft", 1), ("dpo", 1), ("sft", 3), ("dpo", 3)])
def test_a_batch_that_cannot_fit_is_refused_before_the_first_step(world, tmp_path, monkeypatch, stage, zero):
    monkeypatch.setattr(fit, "device_memory", lambda: 3 * 2**20)  # the state takes less
    with pytest.raises(PlanError, match="A batch takes .* of activations.*batch_size=1 accumulation=2"):
        train_world.train(train_world.settings(world, tmp_path, stage, zero_stage=zero), stage)
    assert not list(tmp_path.rglob("metrics.jsonl")) and not list(tmp_path.rglob("step-*"))


def test_zero_3_trains_where_memory_is_counted_first(world, tmp_path, monkeypatch):
    """As on a GPU, whose memory is asked for once the trainer exists."""
    found = []
    for number, memory in enumerate((None, 2**40)):
        monkeypatch.setattr(fit, "device_memory", lambda memory=memory: memory)
        found.append(train_world.losses(train_world.train(train_world.settings(world, tmp_path / str(number), "sft", zero_stage=3), "sft")))
    assert found[0] == found[1] and len(found[0]) == 3


def test_a_parted_head_keeps_its_logits():
    assert count(SftConfig, "sft", 4, 256, zero_stage=3) - count(SftConfig, "sft", 4, 256, zero_stage=2) >= 4 * 512 * 151_936  # fp32, of 512 supervised places


def test_counting_leaves_the_real_model_alone(world):
    model, _ = train_world.build(world)
    activation_bytes(on_meta(model.config), SftConfig(), "sft", "fp32", Batch(2, 128, 10))
    assert model.config._attn_implementation != FUSED != model.config.text_config._attn_implementation


def test_a_state_that_cannot_fit_is_refused_before_anything_loads(world, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "device_memory", lambda: 2**18)
    monkeypatch.setattr(OmniVisionForConditionalGeneration, "from_pretrained", lambda *_, **more: pytest.fail("the model was opened"))
    with pytest.raises(PlanError, match="Weights, gradients and optimizer take"):
        train_world.train(train_world.settings(world, tmp_path, "sft"), "sft")
