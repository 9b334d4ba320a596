"""The first layers of the language model as they are: no gradient is computed in them or below them, and nothing there learns.

Later layers adapt to a task while the earlier ones keep what they know. A held layer costs a third of one that trains, and keeps no activation.
"""

from __future__ import annotations

import re

from torch import nn

from omnivision.errors import ConfigError

LAYER = re.compile(r"\.language_model\.layers\.(\d+)\.")


def held_names(model: nn.Module, count: int) -> set[str]:
    """Parameters of the first `count` layers of the language model."""
    return {name for name, _ in model.named_parameters() if (found := LAYER.search(name)) and int(found[1]) < count}


def check_count(model: nn.Module, count: int) -> None:
    """Raises:
    ConfigError: no layer would be left to train, or the language model does not call its layers so; functional tokens would be looked up in rows
        that never trained, in a table below held layers that is not the head as well.
    """
    layers = len(getattr(model.model.language_model, "layers", ()))
    if count and count >= layers:
        raise ConfigError(f"{count} layers are to stay as they are, and the language model has {layers}", "frozen_layers", f"Give at most {max(0, layers - 1)}.")
    if count and not model.config.tie_word_embeddings:
        raise ConfigError("The embedding table is not tied to the head: below layers that stay as they are its rows of functional tokens do not train",
                          f"frozen_layers: {count}", "Set frozen_layers=0; with lora_rank few weights train.")


def hold_layers(model: nn.Module, count: int) -> set[str]:
    """Freezes these layers and the projector below them.

    The table, which is the head as well, learns there alone. Where count is 0 nothing changes.

    Args:
        model: with the parts of its stage set to train, and with the adapters that it has.

    Returns:
        Names of what is held of the language model.

    Raises:
        ConfigError: as `check_count`.
    """
    check_count(model, count)
    held = held_names(model, count)
    if not count:
        return held
    model.model.projector.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name in held:
            parameter.requires_grad_(False)
    model.model.language_model.layers[0].register_forward_pre_hook(lambda layer, inputs: (inputs[0].detach(), *inputs[1:]))
    return held
