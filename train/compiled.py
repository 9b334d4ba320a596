"""Layers through torch.compile: each kind is compiled once, at its first step, and all layers of that kind share the kernels."""

from __future__ import annotations

from torch import nn

from omnivision.errors import ConfigError
from omnivision_train.config import StageConfig
from omnivision_train.deepspeed_config import zero_settings


def check_compile(config: StageConfig) -> None:
    """Refuses what compiled layers cannot do.

    Raises:
        ConfigError: ZeRO-3, whose hooks gather a layer's weights around its call.
    """
    if config.compile and zero_settings(config)[0] == 3:
        raise ConfigError("Layers are to be compiled, and ZeRO-3 parts their weights", "compile: true, zero_stage: 3", "Use zero_stage=2, or compile=false.")


def compile_layers(model: nn.Module) -> None:
    """Compiles the layers of tower and language model in place; lengths differ from batch to batch, the number of pictures does
    where rows have several, or a cache has a part of them.

    Raises:
        ConfigError: the language model has no layers by this name.
    """
    language = model.model.language_model
    if not hasattr(language, "layers"):
        raise ConfigError(f"{type(language).__name__} has no `layers`", "compile: true", "Use a language model of Llama's or Qwen2's form, or compile=false.")
    for block in model.model.vision_tower.encoder.layers:
        block.compile()  # once more, for any number, when another one comes
    for layer in language.layers:
        layer.compile(dynamic=True)
