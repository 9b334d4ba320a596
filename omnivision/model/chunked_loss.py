"""Cross-entropy over a large vocabulary whose logits never stand in memory whole.

Legend: S supervised positions, D language width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.integrations import is_deepspeed_zero3_enabled

MOST_LOGITS = 2**26  # of one chunk, 256 MiB in fp32: 441 positions of Qwen2.5's 151,936 columns


def summed_cross_entropy(head: nn.Module, hidden_SD: Tensor, targets_S: Tensor, columns: int, most_logits: int = MOST_LOGITS) -> Tensor:
    """Sum of the cross-entropy of `head(hidden)` against the targets, in fp32.

    More than `most_logits` logits are computed chunk by chunk, and once more for the gradients: the head runs twice, and
    takes the memory of one chunk. Under ZeRO-3 they stand whole, since there every rank has to run the head as often as the others.

    Args:
        head: from (S, D) to (S, V). columns: V.
    """
    rows = max(1, most_logits // columns)
    if len(targets_S) <= rows or is_deepspeed_zero3_enabled():
        return _summed(head, hidden_SD, targets_S)
    chunks = zip(hidden_SD.split(rows), targets_S.split(rows), strict=True)
    return torch.stack([checkpoint(_summed, head, hidden, targets, use_reentrant=False, preserve_rng_state=False) for hidden, targets in chunks]).sum()


def _summed(head: nn.Module, hidden_SD: Tensor, targets_S: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head(hidden_SD).float(), targets_S, reduction="sum")
