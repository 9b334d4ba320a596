"""Layers through torch.compile: each kind is compiled once, at its first step, and all layers of that kind share the kernels."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch
from torch import nn

from omnivision.errors import ConfigError
from omnivision_train.config import StageConfig
from omnivision_train.deepspeed_config import zero_settings


def check_compile(config: StageConfig) -> None:
    """Refuses what compiled layers cannot do.

    Raises:
        ConfigError: ZeRO-3, whose hooks gather a layer's weights around its call; gradient checkpointing, whose second pass the
            compiler refuses where attention may draw random numbers (torch 2.13).
    """
    if config.compile and zero_settings(config)[0] == 3:
        raise ConfigError("Layers are to be compiled, and ZeRO-3 parts their weights", "compile: true, zero_stage: 3", "Use zero_stage=2, or compile=false.")
    if config.compile and config.gradient_checkpointing:
        raise ConfigError("Layers are to be compiled, and to run again in the backward pass", "compile: true, gradient_checkpointing: true", "Leave one of them out.")


def compiles(config: StageConfig) -> bool:
    """Whether a stage compiles its layers: as the config says, and where it says nothing on a GPU that can, but for layers that are dropped at random.

    There the compiler takes some ten seconds, and a step half of the time; on a CPU it takes minutes, and a step nine tenths.
    """
    if config.compile is not None:
        return config.compile
    has_compilers = importlib.util.find_spec("triton") is not None and any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))
    can = zero_settings(config)[0] != 3 and not config.gradient_checkpointing and not getattr(config, "layer_dropout", 0)
    return torch.cuda.is_available() and has_compilers and can


def compile_layers(model: nn.Module, asked: bool = True) -> None:
    """Compiles the layers of tower and language model in place; lengths differ from batch to batch, the number of pictures does
    where rows have several, or a cache has a part of them.

    Args:
        asked: by the config; else a language model that cannot stays as it is.

    Raises:
        ConfigError: the language model has no layers by this name.
    """
    language = model.model.language_model
    if not hasattr(language, "layers"):
        if not asked:
            return
        raise ConfigError(f"{type(language).__name__} has no `layers`", "compile: true", "Use a language model of Llama's or Qwen2's form, or compile=false.")
    for block in model.model.vision_tower.encoder.layers:
        block.compile()  # once more, for any number, when another one comes
    for layer in language.layers:
        layer.compile(dynamic=True)
