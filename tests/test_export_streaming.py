"""Weights that are read when they are needed give the same answers as weights that are there."""

from __future__ import annotations

import export_parts
import pytest
import torch
from model_parts import make_image, make_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageTextToText

from omnivision.export import checkpoint, streaming
from omnivision.export.reference import Question, greedy_steps
from omnivision.export.safetensors_file import Planned, write_safetensors
from omnivision.functions import Function, FunctionSet

FUNCTIONS = FunctionSet((Function("order", "Order a cat."),))


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch):
    for module in (streaming, checkpoint):
        monkeypatch.setattr(module, "SMALL", 64)


def held_bytes(model):  # a tied table counts once
    return sum(4 * values.numel() for values in model.parameters() if not streaming.is_empty(values))


@pytest.mark.parametrize("held", [0, 100_000, 1 << 30])
@pytest.mark.parametrize("tied", [True, False])
def test_a_streamed_model_answers_the_same(tmp_path, monkeypatch, held, tied):
    text = {**make_model().config.text_config.to_dict(), "tie_word_embeddings": tied}
    folder = export_parts.save_checkpoint(tmp_path / "final", FUNCTIONS, text_config=text)
    make_image(1).save(tmp_path / "a.png")
    monkeypatch.setattr(streaming, "HELD", held)
    opened = checkpoint.open_checkpoint(folder)
    model, whole = opened.running_model(), AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    for image in (tmp_path / "a.png", None):
        asked = Question("Is there a red cat in the image?", image)
        (ids, steps), (expected_ids, expected) = (greedy_steps(one, opened.processor, asked, 4) for one in (model, whole))
        assert ids == expected_ids and len(steps) == len(expected)
        torch.testing.assert_close(torch.stack(steps), torch.stack(expected), rtol=0, atol=3e-5)  # of numbers up to 15
    small = sum(4 * values.numel() for values in model.parameters() if values.numel() <= 64)
    assert 0.8 * min(held, 500_000) <= held_bytes(model) <= held + small


def test_weights_that_nobody_read_are_seen():
    model = make_model()
    expected = model.lm_head.weight.shape
    for values in model.parameters():
        streaming.empty(values)
    assert streaming.is_empty(model.lm_head.weight) and model.lm_head.weight.shape == expected
    assert bool(model.get_input_embeddings()(torch.tensor([[1, 2]])).isnan().all())


def test_blocks_are_read_whole():
    inner = nn.ModuleList([nn.ModuleList([nn.Linear(9, 9), nn.Linear(9, 9)])])
    names = [name for name, _, own in streaming._parts(nn.ModuleDict({"embed": nn.Embedding(9, 9), "layers": inner})) if own]
    assert names == [".embed", ".layers.0"]


def test_safetensors_are_written_one_by_one(tmp_path):
    torch.manual_seed(0)
    tensors = {"a": torch.randn(3, 5), "猫": torch.randn(7).half(), "c": torch.randn(())}
    write_safetensors(tmp_path / "x.safetensors", {name: Planned(one.dtype, tuple(one.shape), lambda one=one: one.float()) for name, one in tensors.items()})
    found = load_file(tmp_path / "x.safetensors")
    assert set(found) == set(tensors) and all(torch.equal(found[name], one) and found[name].dtype == one.dtype for name, one in tensors.items())
