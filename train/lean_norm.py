"""RMS norm for a CPU: in fewer passes over memory than transformers', and its result at once in the type that the products behind it read."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from omnivision_train.compiled import compiles
from omnivision_train.config import StageConfig


class RmsNorm(torch.autograd.Function):
    """x / sqrt(mean(x²) + eps) · weight, computed in fp32. Shape (..., D), with a weight of (D,); x is fp32, and the result of any type."""

    @staticmethod
    def forward(ctx, x: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight_D, scale)
        return torch.mul(x * scale, weight_D, out=torch.empty_like(x, dtype=dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, weight_D, scale = ctx.saved_tensors
        grad, normed, kind, weight_D = grad.float(), x * scale, weight_D.dtype, weight_D.float()
        product = grad * normed
        along = (product @ weight_D).unsqueeze(-1).div_(-x.shape[-1])
        of_weight_D = product.sum_to_size(x.shape[-1]).to(kind) if ctx.needs_input_grad[1] else None
        return (grad * weight_D).addcmul_(normed, along).mul_(scale), of_weight_D, None, None


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


def set_norms(model: nn.Module, config: StageConfig) -> None:
    """Gives them to a language model on a CPU; compiled layers have a kernel of their own."""
    if torch.cuda.is_available() or compiles(config):
        return
    for module in model.model.language_model.modules():
        module.__class__ = LEAN_NORMS.get(type(module), type(module))
