"""The first layers of the language model as they are: no gradient is computed in them or below them, and nothing there learns.

Later layers adapt to a task while the earlier ones keep what they know. A held layer costs a third of one that trains, and keeps no activation.
"""

from __future__ import annotations

import re

from torch import nn

from omnivision.errors import ConfigError

LAYER = re.compile(r"\.language_model\.layers\.(\d+)\.")


def held_names(model: nn.Module, count: int) -> set[str]:
    """Parameters that stay as they are with the first `count` layers of the language model: theirs, and a table that is not the head as well."""
    if not count:
        return set()
    names = {name for name, _ in model.named_parameters() if (found := LAYER.search(name)) and int(found[1]) < count}
    table = None if model.config.tie_word_embeddings else next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    return names | {name for name, _ in model.named_parameters() if table is not None and name.startswith(f"{table}.")}


def check_count(model: nn.Module, count: int) -> None:
    """Raises:
    ConfigError: no layer would be left to train, or the language model does not call its layers so.
    """
    layers = len(getattr(model.model.language_model, "layers", ()))
    if count and count >= layers:
        raise ConfigError(f"{count} layers are to stay as they are, and the language model has {layers}", "frozen_layers", f"Give at most {max(0, layers - 1)}.")


def hold_layers(model: nn.Module, count: int) -> set[str]:
    """Freezes these layers and what lies below them: the projector, and a table that is not the head as well.

    A table that is tied to the head learns there alone. Where count is 0 nothing changes.

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
