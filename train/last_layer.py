"""The language model's last layer, behind its attention only where somebody reads what comes out: there no position sees another."""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor, nn

from omnivision.model.modeling import hidden_at
from omnivision_train.config import StageConfig
from omnivision_train.lean_attention import MODELS


def narrow_last_layer(model: nn.Module, config: StageConfig) -> None:
    """Changes a language model whose layers are Llama's or Qwen2's, unless other layers' outputs are read as well, or rows leave layers out."""
    if model.config.get_text_config().model_type not in MODELS or getattr(config, "exit_loss", 0) or getattr(config, "layer_dropout", 0):
        return
    layer = model.model.language_model.layers[-1]
    layer.forward = MethodType(forward, layer)
    model.narrow_last_layer = True


def forward(layer: nn.Module, hidden_BLD: Tensor, *args: Any, read_at: Tensor | None = None, **kwargs: Any) -> Tensor:
    """A decoder layer's forward.

    Args:
        read_at: (S,) positions of the flattened batch; None for all.

    Returns:
        (1, S, D), or (B, L, D) of all.
    """
    if read_at is None:
        return type(layer).forward(layer, hidden_BLD, *args, **kwargs)
    mixed_BLD, _ = layer.self_attn(layer.input_layernorm(hidden_BLD), *args, **kwargs)
    hidden_SD = hidden_at(hidden_BLD, read_at) + hidden_at(mixed_BLD, read_at)
    return (hidden_SD + layer.mlp(layer.post_attention_layernorm(hidden_SD)))[None]
