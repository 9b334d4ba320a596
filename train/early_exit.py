"""Early exits (LayerSkip): layers that are dropped the more often the deeper they lie, and a loss after earlier layers too.

Both make a model whose first layers can draft what all of them verify, see omnivision/early_exit.py. Layers count from 0 here as in
the paper; an exit after layer l has run l + 1 of them.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from omnivision.errors import ConfigError
from omnivision_train.config import SftConfig, StageConfig
from omnivision_train.trainer import StageTrainer


class EarlyExitTrainer(StageTrainer):
    """Adds the losses of the exits that are on at this step."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.stage_config.exit_loss and model.training:
            inputs = {**inputs, "early_exits": self._exits()}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def heads(self) -> int:
        """The exits that are on at this step."""
        return len(self._exits()) if self.stage_config.exit_loss else 1

    def _exits(self) -> dict[int, float]:
        return exit_weights(self.stage_config, self.model.config.text_config.num_hidden_layers, self.state.global_step, self.state.max_steps)


def exit_weights(config: SftConfig, depth: int, step: int, steps: int) -> dict[int, float]:
    """Layers run before each exit that is on -> the share of its loss; the last layer is always on.

    The weight grows with the sum of the layers' numbers, scaled by `exit_loss` but for the last layer, whose own number is added.
    `rotational` has every `exit_every`th exit on, another set at each step; `gradual` begins with the last and has them all on
    after half of the steps.
    """
    last = depth - 1
    raw = {layer: config.exit_loss * layer * (layer + 1) / 2 for layer in range(last) if _on(config, layer, depth, step, steps)}
    raw[last] = last + config.exit_loss * last * (last - 1) / 2
    total = sum(raw.values())
    return {layer + 1: weight / total for layer, weight in raw.items() if weight}


def _on(config: SftConfig, layer: int, depth: int, step: int, steps: int) -> bool:
    if config.exit_curriculum == "rotational":
        return layer % config.exit_every == step % config.exit_every
    return step >= (depth - 1 - layer) * steps / (2 * depth)


def most_exits(config: StageConfig, depth: int) -> list[int]:
    """Layers run before each exit, at the step that has most of them on; the last layer alone where no exit trains."""
    if not getattr(config, "exit_loss", 0):
        return [depth]
    return sorted(max((exit_weights(config, depth, step, steps=1) for step in range(config.exit_every + 1)), key=len))


def drop_rates(most: float, depth: int) -> list[float]:
    """How often each layer is dropped: 0 for the first, `most` for the last, growing exponentially."""
    return [most * (math.exp(layer * math.log(2) / max(1, depth - 1)) - 1) for layer in range(depth)]


def drop_layers(layers: nn.ModuleList, most: float) -> None:
    """Makes layers leave rows of a batch as they are while training, each row for itself by torch's random numbers.

    A dropped layer still runs, so that all processes use the same modules.
    """
    for layer, rate in zip(layers, drop_rates(most, len(layers)), strict=True):
        if rate:
            layer.register_forward_hook(lambda module, inputs, output, rate=rate: _dropped(module, inputs[0], output, rate))


def _dropped(module: nn.Module, before_BLD: torch.Tensor, after_BLD: torch.Tensor, rate: float) -> torch.Tensor:
    if not module.training:
        return after_BLD
    kept_B11 = (torch.rand(len(before_BLD), 1, 1) >= rate).to(before_BLD.device)
    return torch.where(kept_B11, after_BLD, before_BLD)


def check_early_exit(config: SftConfig) -> None:
    """What the keys say by themselves.

    Raises:
        ConfigError: a rate out of range; an exit without a loss.
    """
    if not 0 <= config.layer_dropout < 1:
        raise ConfigError(f"`layer_dropout` is {config.layer_dropout:g}", "layer_dropout", "Give the last layer's rate, from 0 to below 1.")
    if (config.exit_layer is not None) != (config.exit_loss > 0):
        raise ConfigError("`exit_layer` and `exit_loss` go together", "exit_layer, exit_loss",
                          "Give both, to train early exits and say which one drafts; or neither.")


def prepare(model: nn.Module, config: SftConfig) -> None:
    """Writes the exit into the model's config and starts to drop layers.

    Raises:
        ConfigError: see check_exit.
    """
    check_exit(model, config)
    if config.exit_layer is not None:
        model.config.early_exit_layer = config.exit_layer
    if config.layer_dropout:
        drop_layers(model.model.language_model.layers, config.layer_dropout)


def check_exit(model: nn.Module, config: StageConfig) -> None:
    """Whether the model can have the exit and drop layers; settings without either ask nothing of it.

    Raises:
        ConfigError: the language model has no layers and norm by these names, or not so many layers.
    """
    exit_layer = getattr(config, "exit_layer", None)
    if exit_layer is None and not (getattr(config, "layer_dropout", 0) or getattr(config, "exit_loss", 0)):
        return
    language = model.model.language_model
    if not hasattr(language, "layers") or not hasattr(language, "norm"):
        raise ConfigError(f"{type(language).__name__} has no `layers` and `norm`", "exit_layer, layer_dropout", "Use a language model of Llama's or Qwen2's form.")
    if exit_layer is not None and not 1 < exit_layer < len(language.layers):  # the first layer's loss weighs nothing, see exit_weights
        raise ConfigError(f"`exit_layer` is {exit_layer} and the language model has {len(language.layers)} layers", "exit_layer",
                          f"Give 2 to {len(language.layers) - 1}: the exit after the first layer trains with no weight.")
