"""RMS norm for a CPU: in fewer passes over memory than transformers', and its result at once in the type that the products behind it read."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm


class RmsNorm(torch.autograd.Function):
    """x / sqrt(mean(x²) + eps) · weight, computed in fp32. Shape (..., D), with a weight of (D,); x is fp32, and the result of any type.

    The gradients are those of layer norm, for which torch has one kernel, with a mean of 0 and what the mean would have taken off put back.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight_D, scale)
        return (x * scale).mul_(weight_D).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, weight_D, scale = ctx.saved_tensors
        grad, kind, weight_D, width = grad.float(), weight_D.dtype, weight_D.float(), x.shape[-1]
        wanted = [True, ctx.needs_input_grad[1], False]
        of_x, of_weight_D, _ = torch.ops.aten.native_layer_norm_backward(grad, x, [width], torch.zeros_like(scale), scale, weight_D, None, wanted)
        of_x.add_((grad @ weight_D).unsqueeze(-1).mul_(scale), alpha=1 / width)
        return of_x, of_weight_D if of_weight_D is None else of_weight_D.to(kind), None, None


class Lean:
    """A norm whose result is of autocast's type where that is on, else of its input's."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (..., D)."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        return RmsNorm.apply(x.float(), self.weight, self.variance_epsilon, dtype)


class LeanLlamaNorm(Lean, LlamaRMSNorm):
    """Llama's."""


class LeanQwen2Norm(Lean, Qwen2RMSNorm):
    """Qwen2's."""


LEAN_NORMS = {LlamaRMSNorm: LeanLlamaNorm, Qwen2RMSNorm: LeanQwen2Norm}
