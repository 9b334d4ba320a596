"""The lean RMS norm: transformers' numbers and gradients, in fewer passes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omnivision_train.lean_norm import LeanQwen2Norm, RmsNorm
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm


def made(shape: tuple[int, ...], size: float = 1.0, seed: int = 3) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """(a norm, what goes in, what comes back)."""
    torch.manual_seed(seed)
    norm = Qwen2RMSNorm(shape[-1])
    nn.init.normal_(norm.weight, 1.0, 0.5)
    return norm, (torch.randn(shape) * size).requires_grad_(), torch.randn(shape)


def lean(norm: nn.Module) -> nn.Module:
    """The lean norm of the same weight."""
    other = LeanQwen2Norm(len(norm.weight))
    other.weight = norm.weight
    return other


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.integers(0, 4), max_size=3), width=st.integers(1, 70), size=st.sampled_from([0.0, 1e-6, 1.0, 1e4]), seed=st.integers(0, 99))
def test_values_and_gradients_are_transformers(rows, width, size, seed):
    norm, x, upstream = made((*rows, width), size, seed)
    found = []
    for run in (norm, lean(norm)):
        out = run(x)
        found.append((out.detach(), *torch.autograd.grad(out, (x, norm.weight), upstream)))
    for ours, theirs in zip(*reversed(found), strict=True):
        scale = max(1.0, float(theirs.abs().max()) if theirs.numel() else 0.0)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6 * scale)


def test_gradients_by_differences():
    """In fp64 by hand, since the norm computes in fp32."""
    norm, x, upstream = made((3, 5))
    mean = x.detach().double().square().mean(-1, keepdim=True) + norm.variance_epsilon
    along = (upstream.double() * norm.weight.double() * x.detach().double()).mean(-1, keepdim=True)
    expected = upstream.double() * norm.weight.double() / mean.sqrt() - x.detach().double() * along / mean**1.5
    found, = torch.autograd.grad(lean(norm)(x), x, upstream)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_under_autocast_it_is_rounded_once_to_what_products_read():
    norm, x, _ = made((4, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = lean(norm)(x)
    assert out.dtype == torch.bfloat16 and torch.equal(out, norm(x).bfloat16())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_weights_and_inputs_keep_their_types(kind):
    norm, x, upstream = made((4, 6))
    norm, x = norm.to(kind), x.detach().to(kind).requires_grad_()
    out = lean(norm)(x)
    of_x, of_weight = torch.autograd.grad(out, (x, norm.weight), upstream.to(kind))
    assert out.dtype == of_x.dtype == of_weight.dtype == kind


def test_a_frozen_weight_gets_no_gradient():
    norm, x, upstream = made((4, 6))
    norm.weight.requires_grad_(False)
    lean(norm)(x).backward(upstream)
    assert norm.weight.grad is None and x.grad is not None


def test_it_keeps_less_for_the_backward_pass():
    kept = []
    norm, x, _ = made((64, 32))
    for run in (norm, lean(norm)):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor, sizes=sizes: sizes.setdefault(tensor.untyped_storage().data_ptr(), tensor.nbytes) and tensor, lambda tensor: tensor):
            run(x)
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.6 * kept[0]


def test_an_odd_type_of_result_is_what_was_asked_for():
    norm, x, _ = made((2, 3))
    assert RmsNorm.apply(x, norm.weight, 1e-6, torch.float16).dtype == torch.float16


def test_a_second_derivative_is_refused_not_wrong():
    norm, x, _ = made((2, 3))
    first, = torch.autograd.grad(lean(norm)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
