"""Models larger than memory should hold: a part's weights are read before it runs and let go after it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator

import torch
from torch import nn

HELD = 1 << 30  # bytes of weights in fp32 that stay in memory once they have been read
SMALL = 4096  # numbers of a tensor that is always there: norms and biases, and what tracers compare by value
MMAP_THRESHOLD, LARGE = -3, 1 << 20  # mallopt's number of the setting; bytes
NOTHING = float("nan")  # stands for weights that are not there: used by mistake, they would be seen in every answer


def empty(parameter: nn.Parameter) -> None:
    """Takes a parameter's numbers away, unless it is small; its shape stays."""
    if parameter.numel() > SMALL:
        parameter.data = torch.full((), NOTHING, device=parameter.device).expand(parameter.shape)


def is_empty(parameter: nn.Parameter) -> bool:
    """Whether `empty` took the numbers away."""
    return parameter.numel() > SMALL and not any(parameter.stride())


def stream(model: nn.Module, load: Callable[[str], torch.Tensor], held: int | None = None) -> None:
    """Lets every part of a model read its weights before it runs.

    Args:
        model: its parameters are empty, or full of numbers that may be lost.
        load: a parameter by its name.
        held: bytes of weights that stay; None is HELD. Those of the language model first: it runs for every token.
    """
    names, room = {parameter: name for name, parameter in model.named_parameters()}, HELD if held is None else held
    parts, kept = sorted(_parts(model), key=lambda part: "language_model" not in part[0]), set()
    for _, module, own in parts:
        size = sum(4 * one.numel() for one in own if one not in kept)  # a tied head costs nothing more
        if stays := size <= room:
            room -= size
            kept.update(own)
        _read_when_run(module, {one: names[one] for one in own}, load, stays)


def give_back_at_once() -> None:
    """Lets freed blocks of a megabyte and more go back to the system.

    The C library of Linux keeps those below 32 MB for later: the 968M shape left 1.9 GB of them behind. Others have no such setting.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE)


def _read_when_run(module: nn.Module, own: dict[nn.Parameter, str], load: Callable[[str], torch.Tensor], stays: bool) -> None:
    def read(*_) -> None:
        for parameter, name in own.items():
            if is_empty(parameter):
                parameter.data = load(name)

    def let_go(*_) -> None:
        for parameter in own:
            empty(parameter)

    for parameter in own:
        empty(parameter)
    module.register_forward_pre_hook(read)
    if not stays:
        module.register_forward_hook(let_go)


def _parts(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module, list[nn.Parameter]]]:
    """Blocks of a list whole, for what is inside them may reach for each other's weights; of the rest every module with weights."""
    own = list(module.parameters(recurse=False))
    if own:
        yield name, module, own
    for short, child in module.named_children():
        inner = f"{name}.{short}"
        if isinstance(module, nn.ModuleList):
            yield inner, child, list(child.parameters())
        else:
            yield from _parts(child, inner)
