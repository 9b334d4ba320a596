"""Attention for a CPU's bf16: eager's products with less around them.

transformers' eager attention copies keys and values for every query head, scales the scores into new tensors, and takes their softmax
in fp32. Here query heads share their keys and values as rows of one product, queries are scaled in place of scores, and the softmax reads and
writes the scores' own type; inside it computes in fp32.

Legend: B rows, H query heads, K key heads, L queries, M keys, D width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

LEAN = "lean"
MODELS = ("llama", "qwen2")  # whose attention is scores, mask, softmax, and no more


def lean_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float,
                   dropout: float = 0.0, **kwargs) -> tuple[Tensor, None]:
    """transformers' attention interface: query (B, H, L, D), key and value (B, K, M, D), a mask to add (B or 1, 1, L, M); returns (B, L, H, D).

    Raises:
        ValueError: a model whose scores are capped, or that has sinks.
    """
    if any(kwargs.get(name) is not None for name in ("softcap", "s_aux")):
        raise ValueError("lean attention knows no capped scores and no sinks: use attention=eager.")
    (B, H, L, D), (K, M) = query.shape, key.shape[1:3]
    scores = torch.bmm((query * scaling).reshape(B * K, H // K * L, D), key.reshape(B * K, M, D).transpose(1, 2)).view(B, H, L, M)
    if attention_mask is not None:
        scores = scores + attention_mask.to(scores.dtype)  # in place on a view, its backward would copy all scores four times
    weights = nn.functional.dropout(torch.softmax(scores, -1), p=dropout, training=module.training)
    mixed = torch.bmm(weights.view(B * K, H // K * L, M), value.reshape(B * K, M, D)).view(B, H, L, D)
    return mixed.transpose(1, 2).contiguous(), None


def lean_mask(*args, **kwargs) -> Tensor:
    """Eager's mask in bf16, whose smallest number fits every type."""
    return eager_mask(*args, **{**kwargs, "dtype": torch.bfloat16})


AttentionInterface.register(LEAN, lean_attention)
AttentionMaskInterface.register(LEAN, lean_mask)
