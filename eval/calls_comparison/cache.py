"""A key/value cache with room for an answer, whose end can be taken off again.

transformers' own copies everything at every new id: behind 12,000 ids of descriptions that took a third of a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 256  # ids more than there are at first, and more each time the room is used up


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, (B, heads, length, width), at the head of a larger buffer."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As DynamicLayer's."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = key_states[:, :, :0], value_states[:, :, :0]
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        if end > self.buffers[0].shape[2]:
            self.buffers = tuple(_widened(buffer, start, end + ROOM) for buffer in self.buffers)
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values


def _widened(buffer: Tensor, kept: int, length: int) -> Tensor:
    wider = buffer.new_empty(*buffer.shape[:2], length, buffer.shape[3])
    wider[:, :, :kept] = buffer[:, :, :kept]
    return wider


def roomy_cache(model: torch.nn.Module) -> DynamicCache:
    """An empty cache for a model."""
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer() for _ in range(model.config.get_text_config().num_hidden_layers)]
    return cache
