"""Lean attention: eager's numbers, forward and backward, for every shape of heads and mask."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModel
from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward

from omnivision.presets import preset_config
from omnivision_train.lean_attention import LEAN, lean_attention

B, L, D = 2, 7, 8


class Layer(nn.Module):
    """What transformers' eager attention asks of a layer."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


def inputs(heads: int, keys: int, dtype=torch.float32):
    torch.manual_seed(5)
    made = [torch.randn(B, L, number, D, dtype=dtype).transpose(1, 2).requires_grad_() for number in (heads, keys, keys)]
    return made, torch.randn(B, L, heads, D, dtype=dtype)


def causal(dtype=torch.float32):
    return torch.zeros(B, 1, L, L, dtype=dtype).masked_fill(~torch.ones(L, L, dtype=torch.bool).tril(), torch.finfo(dtype).min)


@pytest.mark.parametrize(("heads", "keys"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("masked", [True, False])
def test_values_and_gradients_are_eagers(heads, keys, masked):
    found = []
    for attention, mask in ((lean_attention, causal(torch.bfloat16)), (eager_attention_forward, causal())):
        parts, upstream = inputs(heads, keys)
        out, _ = attention(Layer(heads // keys), *parts, mask if masked else None, scaling=0.3)
        found.append((out.detach(), *torch.autograd.grad(out, parts, upstream)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_in_bf16_it_errs_no_more_than_eager():
    """Beside the same in fp64."""
    exact_parts, upstream = inputs(4, 2, torch.float64)
    exact, _ = eager_attention_forward(Layer(2), *exact_parts, causal(torch.float64), scaling=0.3)
    wanted = (exact.detach(), *torch.autograd.grad(exact, exact_parts, upstream))
    errors = []
    for attention, mask in ((lean_attention, causal(torch.bfloat16)), (eager_attention_forward, causal())):
        parts = [part.detach().float().requires_grad_() for part in exact_parts]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out, _ = attention(Layer(2), *parts, mask, scaling=0.3)
        found = (out.detach(), *torch.autograd.grad(out, parts, upstream.to(out.dtype)))
        errors.append([float((one - right).norm() / right.norm()) for one, right in zip(found, wanted, strict=True)])
    ours, eagers = errors
    assert all(one < 0.01 and one < 1.5 * other for one, other in zip(ours, eagers, strict=True))


def test_a_row_that_sees_nothing_is_a_number():
    parts, _ = inputs(4, 2)
    mask = torch.full((B, 1, L, L), torch.finfo(torch.bfloat16).min, dtype=torch.bfloat16)
    out, _ = lean_attention(Layer(2), *parts, mask, scaling=0.3)
    torch.testing.assert_close(out[:, 0], parts[2].mean(2).repeat_interleave(2, 1))


def test_a_language_model_with_padding_computes_what_eager_does():
    shape = preset_config("tiny").text_config
    torch.manual_seed(0)
    model = AutoModel.from_config(shape).eval()
    ids, mask = torch.randint(0, shape.vocab_size, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    found = []
    for kernel in (LEAN, "eager"):
        model.set_attn_implementation(kernel)
        with torch.no_grad():
            found.append(model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("more", [{"softcap": 50.0}, {"s_aux": torch.zeros(4)}])
def test_what_it_does_not_know_is_refused(more):
    parts, _ = inputs(4, 2)
    with pytest.raises(ValueError, match="attention=eager"):
        lean_attention(Layer(2), *parts, None, scaling=0.3, **more)
