"""The lean rotation: transformers' positions, in fewer passes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omnivision_train.lean_rotation import Rotation
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb


def angles(B: int, L: int, D: int) -> torch.Tensor:
    """Of both halves, alike, for positions of each row. Shape (B, L, D)."""
    positions_BL = torch.randint(0, 500, (B, L))
    half = positions_BL[..., None] * 1e4 ** -torch.arange(0, 1, 2 / D)
    return torch.cat([half, half], -1)


def rotated(x, angles_BLD, half: int) -> torch.Tensor:
    return Rotation.apply(x, angles_BLD.cos()[..., None, :half], angles_BLD.sin()[..., None, :half])


@settings(max_examples=40, deadline=None)
@given(B=st.integers(1, 3), same=st.booleans(), L=st.integers(0, 5), H=st.integers(1, 3), half=st.integers(1, 9), seed=st.integers(0, 99))
def test_values_and_gradients_are_transformers(B, same, L, H, half, seed):
    torch.manual_seed(seed)
    x, upstream, table = torch.randn(B, L, H, 2 * half, requires_grad=True), torch.randn(B, H, L, 2 * half), angles(1 if same else B, L, 2 * half)
    theirs, _ = apply_rotary_pos_emb(x.transpose(1, 2), x.transpose(1, 2), table.cos(), table.sin())
    ours = rotated(x, table, half)
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, x, upstream), torch.autograd.grad(theirs, x, upstream))


def test_by_hand():
    """A quarter turn makes (1, 2) to (-2, 1), and the gradient turns back."""
    x = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2).requires_grad_()
    out = Rotation.apply(x, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    assert out.flatten().tolist() == [-2.0, 1.0]
    out.backward(torch.tensor([1.0, 2.0]).view(1, 1, 1, 2))
    assert x.grad.flatten().tolist() == [2.0, -1.0]


def test_bf16_is_rounded_once():
    """transformers' result in fp32, rounded; in bf16 the angles of late positions would be wrong."""
    torch.manual_seed(3)
    x, table = torch.randn(2, 4, 3, 8).bfloat16().requires_grad_(), angles(2, 4, 8)
    theirs, _ = apply_rotary_pos_emb(x.float().transpose(1, 2), x.float().transpose(1, 2), table.cos(), table.sin())
    ours = rotated(x, table, 4)
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, theirs.bfloat16())
    assert torch.autograd.grad(ours.float().sum(), x)[0].dtype == torch.bfloat16


def test_a_second_derivative_is_refused_not_wrong():
    x = torch.randn(1, 2, 1, 4, requires_grad=True)
    first, = torch.autograd.grad(rotated(x, angles(1, 2, 4), 2).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
