"""Which layers of a language model a CPU gets in a leaner form."""

from __future__ import annotations

import torch
from torch import nn

from omnivision_train.compiled import compiles
from omnivision_train.config import StageConfig
from omnivision_train.lean_norm import LEAN_NORMS
from omnivision_train.lean_rotation import LEAN_ROTATIONS

LEAN_LAYERS = LEAN_NORMS | LEAN_ROTATIONS


def set_lean_layers(model: nn.Module, config: StageConfig) -> None:
    """Changes the classes of norms and attention layers on a CPU; compiled layers have kernels of their own."""
    if torch.cuda.is_available() or compiles(config):
        return
    for module in model.model.language_model.modules():
        module.__class__ = LEAN_LAYERS.get(type(module), type(module))
