"""Rotary positions for a CPU: in fewer passes over memory than transformers', and in the type of the products around them.

Legend: B rows, L positions, H heads, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, eager_attention_forward
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention


class Rotation(torch.autograd.Function):
    """Turns the two halves of every head by its position's angles, computed in fp32: (B, L, H, D) of any type to (B, H, L, D) of the same.

    cos and sin are (1 or B, L, 1, D/2) in fp32.
    """

    @staticmethod
    def forward(ctx, x_BLHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        B, L, H, D = x_BLHD.shape
        turned_BHLD = x_BLHD.new_empty(B, H, L, D)
        turn(x_BLHD, cos, sin, turned_BHLD.transpose(1, 2))
        return turned_BHLD

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BHLD: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        grad_BLHD = grad_BHLD.transpose(1, 2)
        back_BLHD = torch.empty_like(grad_BLHD, memory_format=torch.contiguous_format)
        turn(grad_BLHD, cos, -sin, back_BLHD)
        return back_BLHD, None, None


def turn(x_BLHD: Tensor, cos: Tensor, sin: Tensor, into_BLHD: Tensor) -> None:
    """Writes the turned halves."""
    one, other = x_BLHD.float().chunk(2, dim=-1)
    into_one, into_other = into_BLHD.chunk(2, dim=-1)
    into_one.copy_((one * cos).addcmul_(other, sin, value=-1))
    into_other.copy_((other * cos).addcmul_(one, sin))


class Lean:
    """An attention layer whose queries and keys are turned so; with a cache of keys it is transformers' own."""

    def forward(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], attention_mask: Tensor | None,
                past_key_values: Any = None, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """hidden_states (B, L, hidden size); cos and sin of (1 or B, L, D), whose halves are alike."""
        if past_key_values is not None:
            return super().forward(hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs)
        B, L, _ = hidden_states.shape
        cos, sin = (part.float()[..., None, : self.head_dim // 2] for part in position_embeddings)
        query, key, value = (project(hidden_states).view(B, L, -1, self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        mixed, weights = attend(self, Rotation.apply(query, cos, sin), Rotation.apply(key, cos, sin), value.transpose(1, 2), attention_mask,
                                dropout=self.attention_dropout if self.training else 0.0, scaling=self.scaling,
                                sliding_window=getattr(self, "sliding_window", None), **kwargs)
        return self.o_proj(mixed.reshape(B, L, -1)), weights


class LeanLlamaAttention(Lean, LlamaAttention):
    """Llama's."""


class LeanQwen2Attention(Lean, Qwen2Attention):
    """Qwen2's."""


LEAN_ROTATIONS = {LlamaAttention: LeanLlamaAttention, Qwen2Attention: LeanQwen2Attention}
