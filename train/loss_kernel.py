"""Which code works out the loss over the vocabulary in supervised stages; `dpo` reads log-probs of single tokens and has its own."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from omnivision.errors import ConfigError
from omnivision_train.config import StageConfig
from omnivision_train.deepspeed_config import zero_settings

PACKAGE = "liger_kernel"
INSTEAD = "use loss_kernel=chunked"


def loss_kernel(config: StageConfig) -> str:
    """chunked or liger, for `auto` by what can run here."""
    return config.loss_kernel if config.loss_kernel != "auto" else "chunked" if obstacle(config) else "liger"


def obstacle(config: StageConfig) -> tuple[str, str] | None:
    """(why liger-kernel cannot run, what to do); None where it can."""
    if getattr(config, "lora_rank", 0):
        return "Under adapters the head is the table with trained rows laid over it, which liger-kernel would not see", f"{INSTEAD.capitalize()}."
    if zero_settings(config)[0] == 3:
        return "ZeRO-3 parts the head's weight, and liger-kernel reads it whole", f"Use zero_stage=2, or {INSTEAD}."
    if not torch.cuda.is_available():
        return "liger-kernel is for GPUs, and there is none", f"{INSTEAD.capitalize()}."
    if importlib.util.find_spec(PACKAGE) is None:
        return "liger-kernel is not installed", f"Install it with OMNIVISION_EXTRAS=dev,gpu bash scripts/setup.sh, or {INSTEAD}."
    return None


def check_loss_kernel(config: StageConfig) -> None:
    """Refuses liger-kernel where it was asked for by name and cannot run.

    Raises:
        ConfigError: no GPU, the package is not installed, or a head that is not one whole matrix on this rank.
    """
    if config.loss_kernel == "liger" and (found := obstacle(config)):
        raise ConfigError(found[0], "loss_kernel: liger", found[1])


def set_loss_kernel(model: nn.Module, config: StageConfig) -> None:
    """Tells the model which one."""
    model.liger_loss = loss_kernel(config) == "liger"
