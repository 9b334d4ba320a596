"""The language model's last layer, behind its attention only where somebody reads what comes out: there no position sees another."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from omnivision.model.modeling import hidden_at
from omnivision_train.config import StageConfig


class Narrow:
    """A decoder layer that is told what is read of it. It is a class, since transformers wraps a class' forward where activations are checkpointed."""

    def forward(self, hidden_BLD: Tensor, *, read_at: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The layer's forward.

        Args:
            read_at: (S,) positions of the flattened batch; None for all.

        Returns:
            (1, S, D), or (B, L, D) of all.
        """
        if read_at is None:
            return super().forward(hidden_BLD, **kwargs)
        mixed_BLD, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_BLD), **kwargs)
        hidden_SD = hidden_at(hidden_BLD, read_at) + hidden_at(mixed_BLD, read_at)
        return (hidden_SD + self.mlp(self.post_attention_layernorm(hidden_SD)))[None]


class NarrowLlamaLayer(Narrow, LlamaDecoderLayer):
    """Llama's."""


class NarrowQwen2Layer(Narrow, Qwen2DecoderLayer):
    """Qwen2's."""


NARROW = {LlamaDecoderLayer: NarrowLlamaLayer, Qwen2DecoderLayer: NarrowQwen2Layer}


def narrow_last_layer(model: nn.Module, config: StageConfig) -> None:
    """Changes a language model whose layers are Llama's or Qwen2's, unless a stage reads every position, other layers too, or drops layers of some rows."""
    layers = getattr(model.model.language_model, "layers", None)
    reads_all = not getattr(config, "needed_logits_only", True) or getattr(config, "exit_loss", 0) or getattr(config, "layer_dropout", 0)
    if layers and type(layers[-1]) in NARROW and not reads_all:
        layers[-1].__class__ = NARROW[type(layers[-1])]
        model.narrow_last_layer = True
