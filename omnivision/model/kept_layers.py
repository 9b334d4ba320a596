"""Layers that stay in fp32 inside an FP16 model, where FP16 would overflow in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def keep_in_fp32(model: nn.Module, layers: Iterable[str]) -> None:
    """Lets layers compute in the type of their own weights, and hand on what they were given.

    Args:
        model: a transformers model whose loading leaves these layers in fp32 (`_keep_in_fp32_modules`).
        layers: names of modules. What leaves a layer returns to the type of the others: where the output itself does not
            fit FP16, the layer around it must be kept.
    """
    for name in layers:
        layer = model.get_submodule(name)
        layer.register_forward_pre_hook(_into_own_type, with_kwargs=True)
        layer.register_forward_hook(_back, with_kwargs=True)


def _into_own_type(layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    given = [one.dtype for one in (*args, *kwargs.values()) if isinstance(one, Tensor) and one.is_floating_point()]
    layer._given_type = given[0] if given else None
    kind = next(layer.parameters()).dtype
    return tuple(_cast(one, kind) for one in args), {name: _cast(one, kind) for name, one in kwargs.items()}


def _back(layer: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
    asked = getattr(layer, "_given_type", None)
    return _cast(output, asked) if asked is not None else output


def _cast(value: Any, kind: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(kind) if value.is_floating_point() else value
    return type(value)(_cast(one, kind) for one in value) if isinstance(value, tuple | list) else value
