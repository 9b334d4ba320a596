"""Held layers: they and what lies below them stay bit for bit, the layers above learn what they would have learnt, and plans count it so."""

from __future__ import annotations

import json
import re

import pytest
import torch
import train_world
from omnivision_train import lora, stages
from omnivision_train.activations import activation_bytes
from omnivision_train.config import FunctionsConfig
from omnivision_train.data import Conversations
from omnivision_train.frozen_layers import hold_layers
from omnivision_train.functions import call_rows
from omnivision_train.last_layer import narrow_last_layer
from omnivision_train.memory import count_parts, on_meta
from omnivision_train.throughput import Flops, matrix_weights
from test_train_lora import RANK, TABLE, batch_of, begun
from test_train_memory import kept

from omnivision.errors import ConfigError
from omnivision.functions import FunctionSet
from omnivision_cli.main import main

KEYS = ("input_ids", "pixel_values", "labels")
UPPER = ("language_model.layers.1.", "language_model.norm.", "embed_tokens.", "lm_head.")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.written(tmp_path_factory.mktemp("two_layers"), layers=2)


def gradients(model, batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.train()(**{key: batch[key] for key in KEYS}).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("changes", [{}, RANK, {"gradient_checkpointing": True}, {"compile": True}, {"optimizer": "muon", "zero_stage": 0}, {"zero_stage": 3}])
def test_what_is_held_stays_bit_for_bit(world, tmp_path, capsys, changes):
    before = begun(world)[0].state_dict()
    final = train_world.train(train_world.settings(world, tmp_path, "functions", max_steps=3, frozen_layers=1, **changes), "functions")
    after = train_world.weights(final)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert all(any(part in name for part in UPPER) for name in changed), changed
    assert any("layers.1.mlp.up_proj" in name for name in changed) and TABLE in changed
    rows = after[TABLE].ne(before[TABLE]).any(1).sum().item()
    assert rows == 4  # those of the functional tokens
    said = capsys.readouterr().err
    assert re.search(r"frozen_layers +[\d,]+ parameters  frozen", said) and re.search(r"projector +[\d,]+ parameters  frozen", said)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_above_are_those_of_the_whole_model_and_none_are_below(world, checkpointing):
    model, processor, _ = begun(world)
    batch = batch_of(world, processor)
    stages.set_trainable(model, "functions", main=False)
    whole = gradients(model, batch)
    stages.set_trainable(model, "functions", main=False, frozen_layers=1)
    if checkpointing:
        model.activation_checkpointing_enable()
    held = gradients(model, batch)
    assert {name for name in whole if any(part in name for part in UPPER)} <= set(held)
    assert all(any(part in name for part in UPPER) for name in held)
    assert all(torch.allclose(held[name], whole[name], atol=1e-7) for name in held if name != TABLE)
    assert not torch.allclose(held[TABLE], whole[TABLE], atol=1e-7)  # of the head alone: what words are looked up by learns nothing


def test_adapters_are_put_above_alone(world):
    model, processor, ids = begun(world)
    lora.add_adapters(model, FunctionsConfig(**RANK, frozen_layers=1), ids)
    stages.set_trainable(model, "functions", main=False, frozen_layers=1)
    factors = [name for name in lora.adapter_parameters(model) if ".lora_" in name]
    assert len(factors) == 12 and all("layers.1." in name for name in factors)
    assert set(gradients(model, batch_of(world, processor))) == set(lora.adapter_parameters(model))


@pytest.mark.parametrize("count", [2, 30])
def test_a_layer_has_to_be_left(world, count):
    model, _, _ = begun(world)
    with pytest.raises(ConfigError, match=rf"{count} layers are to stay.* has 2 \(frozen_layers\). Give at most 1"):
        hold_layers(model, count)


def test_a_negative_number_is_refused():
    with pytest.raises(ConfigError, match="`frozen_layers` is -1"):
        FunctionsConfig(frozen_layers=-1)


@pytest.mark.parametrize("changes", [{}, RANK])
def test_the_plan_counts_what_trains_and_what_is_kept(world, changes):
    model, processor, ids = begun(world)
    config = FunctionsConfig(**changes, frozen_layers=1, functions=str(world.folder / "functions.json"), batch_size=4)
    planned = on_meta(model.config, config)
    if changes:
        lora.add_adapters(model, config, ids)
    narrow_last_layer(model, config)
    table = stages.set_trainable(model.train(), "functions", main=False, frozen_layers=1)
    counted = {part.name: part.parameters for part in count_parts(planned, config)}
    assert counted["frozen layers"] == table["frozen_layers"][1] and counted["language model"] == table["language_model"][1]
    trains = counted["adapter" if changes else "language model"]
    assert trains == sum(p.numel() for p in model.parameters() if p.requires_grad)
    samples = Conversations(call_rows(world.rows("functions"), processor.tokenizer, FunctionSet.from_json(config.functions)), processor, world.folder, 256)
    batch = batch_of(world, processor)
    with torch.no_grad():
        batch["image_features"] = model.model.get_vision_features(batch.pop("pixel_values"))
    kept_bytes = activation_bytes(planned, config, "functions", "fp32", samples.largest(4), fused=False)
    assert sum(kept_bytes.values()) == pytest.approx(kept(model, batch), rel=0.02)


def test_omnivision_plan_of_held_layers(capsys):
    said = {}
    for count in (0, 20):
        assert main(["plan", "--stage", "functions", "--json", f"frozen_layers={count}"]) == 0
        said[count] = json.loads(capsys.readouterr().out)
    assert said[0]["parameters"]["total"] == said[20]["parameters"]["total"] and "frozen layers" not in said[0]["parameters"]
    held = said[20]["training_bytes"]
    assert [name for name in held if held[name]["trained"]] == ["language model"] and held["frozen layers"]["optimizer"] == 0
    assert said[20]["training_total"] < 0.7 * said[0]["training_total"]


def test_operations_by_hand(world):
    model, _, _ = begun(world)
    layer = matrix_weights(model.model.language_model.layers[0])[0]
    stages.set_trainable(model, "functions", main=False, frozen_layers=1)
    assert Flops(model, encoded=True, frozen_layers=1).per_token == 2 * layer + 6 * layer  # the first forward alone


def test_rows_of_functional_tokens_that_would_not_train_are_refused(world):
    model, _, ids = begun(world, tied=False)
    with pytest.raises(ConfigError, match=r"rows of functional tokens do not train \(frozen_layers: 1\). Set frozen_layers=0"):
        stages.set_trainable(model, "functions", main=False, frozen_layers=1)
    with pytest.raises(ConfigError, match="rows of functional tokens do not train"):
        lora.add_adapters(model, FunctionsConfig(**RANK, frozen_layers=1), ids)


def test_weight_decay_of_the_table_is_refused(world, tmp_path):
    with pytest.raises(ConfigError, match=r"frozen_layers: 1"):
        train_world.train(train_world.settings(world, tmp_path, "functions", frozen_layers=1, weight_decay=0.1), "functions")
