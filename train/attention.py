"""Which attention kernel tower and language model use: by device, precision and length.

The figures behind it are in docs/benchmarks.md; `python -m omnivision_train.attention_speed` measures them anew.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from omnivision.errors import ConfigError
from omnivision_train.config import StageConfig
from omnivision_train.lean_attention import LEAN, MODELS
from omnivision_train.precision import resolved

SHORT = 650  # tokens of a row: below, lean attention is quicker than a CPU's fused kernel in bf16


class Kernels(NamedTuple):
    """Of each part; None leaves transformers' choice: sdpa where the model has it."""

    tower: str | None
    language: str | None


def kernels(config: StageConfig, length: float = 0) -> Kernels:
    """What the config says, and for `auto` what is quickest here.

    Args:
        length: tokens of a usual row.
    """
    if config.attention != "auto":
        return Kernels(config.attention, config.attention)
    if torch.cuda.is_available():
        return Kernels(None, None)
    return Kernels("sdpa", LEAN if resolved(config) == "bf16" and length < SHORT else "sdpa")


def set_attention(model, config: StageConfig, length: float = 0) -> None:
    """Gives both parts their kernels; a language model that does more than lean attention knows gets sdpa, and eager where it has no sdpa.

    Raises:
        ConfigError: it was asked for another by hand.
    """
    tower, language = kernels(config, length)
    kind = model.config.get_text_config().model_type
    if language == LEAN and kind not in MODELS:
        if config.attention == LEAN:
            raise ConfigError(f"Lean attention is not what a model of type {kind} does", "attention: lean", "Use attention=eager, or auto.")
        language = "sdpa"
    if language == "sdpa" and not model.model.language_model._supports_sdpa:
        if config.attention == "sdpa":
            raise ConfigError(f"{type(model.model.language_model).__name__} has no sdpa attention", "attention: sdpa", "Use attention=eager, or auto.")
        language = "eager"
    wanted = {key: kernel for key, kernel in (("vision_config", tower), ("text_config", language)) if kernel}
    if wanted:
        model.set_attn_implementation(wanted)
