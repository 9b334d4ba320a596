"""Which code works out the loss over the vocabulary in supervised stages; `dpo` reads log-probs of single tokens and has its own."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from omnivision.errors import ConfigError
from omnivision_train.config import StageConfig
from omnivision_train.deepspeed_config import zero_settings

PACKAGE = "liger_kernel"


def check_loss_kernel(config: StageConfig) -> None:
    """Refuses liger-kernel where it cannot run.

    Raises:
        ConfigError: no GPU, the package is not installed, or a head that is not one whole matrix on this rank.
    """
    if config.loss_kernel != "liger":
        return
    where, instead = "loss_kernel: liger", "Use loss_kernel=chunked."
    if getattr(config, "lora_rank", 0):
        raise ConfigError("Under adapters the head is the table with trained rows laid over it, which liger-kernel would not see", where, instead)
    if zero_settings(config)[0] == 3:
        raise ConfigError("ZeRO-3 parts the head's weight, and liger-kernel reads it whole", f"{where}, zero_stage: 3", "Use zero_stage=2, or loss_kernel=chunked.")
    if not torch.cuda.is_available():
        raise ConfigError("liger-kernel is for GPUs, and there is none", where, instead)
    if importlib.util.find_spec(PACKAGE) is None:
        raise ConfigError("liger-kernel is not installed", where, "pip install 'omnivision[gpu]', or use loss_kernel=chunked.")


def set_loss_kernel(model: nn.Module, config: StageConfig) -> None:
    """Tells the model which one."""
    model.liger_loss = config.loss_kernel == "liger"
