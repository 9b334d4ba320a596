"""Lean norms and rotations in a language model: transformers' numbers and gradients."""

from __future__ import annotations

import pytest
import torch
import train_world
from omnivision_train.config import SftConfig
from omnivision_train.lean_layers import LEAN_LAYERS, set_lean_layers
from omnivision_train.lean_rotation import LEAN_ROTATIONS
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2RMSNorm


def plain(model) -> None:
    """transformers' own layers again."""
    own = {lean: theirs for theirs, lean in LEAN_LAYERS.items()}
    for module in model.model.language_model.modules():
        module.__class__ = own.get(type(module), type(module))


@pytest.mark.parametrize("gpu, changes, is_lean", [(False, {}, True), (True, {}, False), (False, {"compile": True}, False)])
def test_a_cpu_without_compiled_layers_has_them(tmp_path, monkeypatch, gpu, changes, is_lean):
    model, _ = train_world.build(train_world.written(tmp_path, layers=2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    set_lean_layers(model, SftConfig(**changes))
    layers = [module for module in model.model.language_model.modules() if isinstance(module, LlamaRMSNorm | Qwen2RMSNorm | LlamaAttention | Qwen2Attention)]
    assert len(layers) == 7 and all((type(layer) in LEAN_LAYERS.values()) is is_lean for layer in layers)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "lean"])
@pytest.mark.parametrize("positions", [None, [[0, 1, 2, 3, 4, 5], [0, 1, 2, 2, 3, 9]]])
def test_a_model_has_the_same_logits_and_gradients(tmp_path, attention, positions):
    model, _ = train_world.build(train_world.written(tmp_path, layers=2))
    model.set_attn_implementation({"text_config": attention})
    set_lean_layers(model, SftConfig())
    assert sum(type(module) in LEAN_ROTATIONS.values() for module in model.modules()) == 2
    inputs = {"input_ids": torch.arange(12).view(2, 6), "position_ids": None if positions is None else torch.tensor(positions)}
    found = []
    for _ in range(2):
        model.zero_grad()
        logits = model(**inputs).logits
        logits.square().sum().backward()
        found.append([logits.detach(), *(weight.grad.clone() for weight in model.model.language_model.parameters())])
        plain(model)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_with_a_cache_of_keys_it_is_transformers_own(tmp_path):
    model, _ = train_world.build(train_world.written(tmp_path, layers=2))
    model.eval()
    set_lean_layers(model, SftConfig())
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        first = model(input_ids=ids[:, :4], use_cache=True)
        rest = model(input_ids=ids[:, 4:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(rest, whole[:, 4:], rtol=1e-4, atol=1e-5)
