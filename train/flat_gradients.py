"""Gradients in DeepSpeed's bf16 optimizer, summed, measured and clipped as the flat tensors that they lie in.

DeepSpeed (0.19.8) does it parameter by parameter, in a thousand small kernels a step of the 968m preset, and adds to bf16 gradients that it has
set to zero where autograd could hand over its own.
"""

from __future__ import annotations

from types import MethodType

import torch
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from torch import Tensor


def flatten_gradients(optimizer: BF16_Optimizer) -> None:
    """Changes an optimizer whose model has no experts and no tensor parallelism; several processes add up what lies flat."""
    optimizer.update_hp_grads = MethodType(sum_gradients, optimizer)
    optimizer.get_grads_for_norm = MethodType(flat_gradients, optimizer)


@torch.no_grad()
def sum_gradients(optimizer: BF16_Optimizer, clear_lp_grads: bool = False) -> None:
    """Adds the bf16 gradients of a backward pass to the fp32 ones, and gives them up."""
    for group, sums, known in zip(optimizer.bf16_groups, optimizer.fp32_groups_gradients, optimizer.fp32_groups_has_gradients, strict=True):
        there = [at for at, weight in enumerate(group) if weight.grad is not None]
        if not there:
            continue
        into, gradients = [sums[at] for at in there], [group[at].grad.view(-1) for at in there]
        if any(known):
            torch._foreach_add_(into, gradients)
        else:  # of an update's first pass: what they are added to is zero
            torch._foreach_copy_(into, gradients)
        for at in there:
            group[at]._hp_grad, group[at].grad, known[at] = sums[at], None, True


def flat_gradients(optimizer: BF16_Optimizer, for_clipping: bool = False) -> list[Tensor] | tuple[list[Tensor], dict]:
    """What is measured (and experts' apart, of which there are none), or clipped; zero where a parameter has no gradient."""
    whole = list(optimizer.fp32_groups_gradients_flat)
    return whole if for_clipping else (whole, {})
