"""Layers through torch.compile train as they do without it."""

from __future__ import annotations

import importlib.util
import shutil

import pytest
import torch
import train_world
from omnivision_train.compiled import check_compile, compile_layers, compiles
from omnivision_train.config import SftConfig
from torch import nn
from torch._dynamo.utils import counters
from transformers import GPT2Config, GPT2Model

from omnivision.errors import ConfigError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.written(tmp_path_factory.mktemp("two_layers"), layers=3)


@pytest.mark.parametrize("changes, refused", [({"zero_stage": 3}, True), ({"deepspeed": {"zero_optimization": {"stage": 3}}}, True), ({"zero_stage": 2}, False)])
def test_layers_whose_weights_are_parted_are_not_compiled(changes, refused):
    check_compile(SftConfig(**changes))  # not asked for
    if refused:
        with pytest.raises(ConfigError, match="ZeRO-3 parts their weights"):
            check_compile(SftConfig(compile=True, **changes))
    else:
        check_compile(SftConfig(compile=True, **changes))


def test_layers_that_run_again_in_the_backward_pass_are_not_compiled():
    with pytest.raises(ConfigError, match="run again in the backward pass"):
        check_compile(SftConfig(compile=True, gradient_checkpointing=True))


@pytest.mark.parametrize("gpu, triton, compiler, changes, compiled", [
    (True, True, True, {}, True), (False, True, True, {}, False), (True, False, True, {}, False), (True, True, False, {}, False), (True, True, True, {"zero_stage": 3}, False),
    (True, True, True, {"gradient_checkpointing": True}, False), (True, True, True, {"layer_dropout": 0.1}, False),
    (True, True, True, {"compile": False}, False), (False, False, False, {"compile": True}, True)])
def test_a_gpu_that_can_compiles_unless_told_otherwise(monkeypatch, gpu, triton, compiler, changes, compiled):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: triton or None)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/cc" if compiler else None)
    assert compiles(SftConfig(**changes)) is compiled


def test_every_layer_is_compiled_and_the_weights_keep_their_names(world):
    model, _ = train_world.build(world)
    names = list(model.state_dict())
    compile_layers(model)
    layers = [*model.model.vision_tower.encoder.layers, *model.model.language_model.layers]
    assert layers and all(layer._compiled_call_impl is not None for layer in layers) and list(model.state_dict()) == names


def test_layers_by_another_name_are_told_with_what_to_do(world):
    model, _ = train_world.build(world)
    model.model.language_model = GPT2Model(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ConfigError, match="GPT2Model has no `layers`.*compile=false"):
        compile_layers(model)
    compile_layers(model, asked=False)  # as it is


def test_the_tower_is_not_compiled_anew_for_every_number_of_pictures(world, monkeypatch):
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **more: compiled(self, backend="eager", **more))  # needs no C++ compiler
    torch._dynamo.reset()
    counters.clear()
    model, _ = train_world.build(world)
    compile_layers(model)
    side = model.config.vision_config.image_size
    with torch.no_grad():
        for pictures in range(1, 7):
            model.model.get_vision_features(torch.zeros(pictures, 3, side, side))
    assert 1 <= counters["stats"]["unique_graphs"] <= 3


@pytest.mark.slow  # needs a C++ compiler
@pytest.mark.parametrize("stage, changes", [
    ("sft", {}), ("dpo", {}), ("sft", {"vision_lr": 1e-5}), ("sft", {"exit_layer": 2, "exit_loss": 0.2}), ("functions", {"lora_rank": 4}), ("functions", {"frozen_layers": 1})])
def test_compiled_layers_train_the_same(world, tmp_path, stage, changes):
    finals = [train_world.train(train_world.settings(world, tmp_path / str(compiled), stage, compile=compiled, max_steps=4, **changes), stage) for compiled in (False, True)]
    plain, compiled = map(train_world.losses, finals)
    torch.testing.assert_close(torch.tensor(compiled), torch.tensor(plain), rtol=1e-4, atol=1e-5)
    before, after = map(train_world.weights, finals)
    assert before.keys() == after.keys() and all(torch.allclose(before[name], after[name], rtol=1e-2, atol=1e-3) for name in before)
