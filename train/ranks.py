"""Words among the processes that train together."""

from __future__ import annotations

import torch


def gathered(value) -> list:
    """The value of every process, in the order of ranks."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def from_first(value):
    """The value of the first process, on all; the others' is not read."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return value
    values = [value if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]
