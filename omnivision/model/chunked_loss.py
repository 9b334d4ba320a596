"""Cross-entropy and log-probs over a large vocabulary whose logits never stand in memory whole.

Legend: S positions, D language width, V vocabulary, N tokens that are read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.integrations import is_deepspeed_zero3_enabled

from omnivision.constants import IGNORE_INDEX

SHAPES = 32  # positions come in multiples of it: a CPU's library keeps a kernel of up to a megabyte for every other number of every matrix
MOST_LOGITS = {"cpu": 2**26, "cuda": 2**28}  # of one chunk, 256 MiB or 1 GiB in fp32: 441 or 1,766 positions of Qwen2.5's 151,936 columns
LIGER_ROWS = 4096  # of a chunk of liger-kernel's: its own 32 to 64 at such widths read and write the head's gradient hundreds of times


def summed_cross_entropy(head: nn.Module, hidden_SD: Tensor, targets_S: Tensor, columns: int, most_logits: int | None = None) -> Tensor:
    """Sum of the cross-entropy of `head(hidden)` against the targets, in fp32.

    More than `most_logits` logits are computed chunk by chunk, and once more for the gradients: the head runs twice, and
    takes the memory of one chunk. Under ZeRO-3 they stand whole, since there every rank has to run the head as often as the others.

    Args:
        head: from (S, D) to (S, V). columns: V. most_logits: None is what suits the device.
    """
    hidden_SD, targets_S = padded(hidden_SD), padded(targets_S, IGNORE_INDEX)
    rows = rows_of_chunk(hidden_SD, columns, most_logits)
    if len(targets_S) <= rows:
        return _summed(head, hidden_SD, targets_S)
    chunks = zip(hidden_SD.split(rows), targets_S.split(rows), strict=True)
    return torch.stack([checkpoint(_summed, head, hidden, targets, use_reentrant=False, preserve_rng_state=False) for hidden, targets in chunks]).sum()


def liger_cross_entropy(head: nn.Linear, hidden_SD: Tensor, targets_S: Tensor) -> Tensor:
    """The same by liger-kernel's fused kernel, which works out the gradients on the way, so that the head runs once. It needs CUDA.

    The gradient of the head's weight, (V, D) in fp32, stands in memory from here on until the backward pass has used it, and logits
    of LIGER_ROWS positions until then.
    """
    if not len(targets_S):
        return _summed(head, hidden_SD, targets_S)
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    no_bias, no_weights, smoothing, soft_cap, with_z_loss = None, None, 0.0, None, False
    token_scaling, accuracy, predictions, kernel, mode = False, False, False, None, None
    columns, width = head.weight.shape
    logits = max(1, LIGER_ROWS * columns // (len(targets_S) * width))  # as a multiple of the hidden states
    return LigerFusedLinearCrossEntropyFunction.apply(hidden_SD, head.weight, targets_S, no_bias, no_weights, IGNORE_INDEX, 0.0, smoothing, "sum", soft_cap, with_z_loss,
                                                      torch.float32, token_scaling, accuracy, predictions, kernel, mode, logits)[0]


def log_probs(head: nn.Module, hidden_SD: Tensor, at_N: Tensor, tokens_N: Tensor, columns: int, most_logits: int | None = None) -> Tensor:
    """Log-probs of tokens, several of which may be read at one position, in chunks as above. Shape (N,), fp32.

    Args:
        at_N: the position of each. tokens_N: their ids.
    """
    hidden_SD = padded(hidden_SD)
    rows = rows_of_chunk(hidden_SD, columns, most_logits)
    if len(hidden_SD) <= rows:
        return _log_probs(head, hidden_SD, at_N, tokens_N)
    inside = [((first <= at_N) & (at_N < first + rows)).nonzero().squeeze(1) for first in range(0, len(hidden_SD), rows)]
    parts = zip(hidden_SD.split(rows), range(0, len(hidden_SD), rows), inside, strict=True)
    found = [checkpoint(_log_probs, head, hidden, at_N[those] - first, tokens_N[those], use_reentrant=False, preserve_rng_state=False)
             for hidden, first, those in parts]
    return torch.cat(found)[torch.cat(inside).argsort()]


def padded(rows: Tensor, fill: int = 0) -> Tensor:
    """With rows of `fill` behind, which nobody reads, up to a multiple of SHAPES, of which 4 at most lie between powers of two. A GPU needs none."""
    number = len(rows)
    more = 0 if rows.is_cuda else -number % max(SHAPES, 2 ** ((number - 1).bit_length() - 3))
    return nn.functional.pad(rows, [0, 0] * (rows.dim() - 1) + [0, more], value=fill) if more else rows


def rows_of_chunk(hidden_SD: Tensor, columns: int, most_logits: int | None) -> int:
    """How many positions go through the head at once."""
    most = most_logits or MOST_LOGITS.get(hidden_SD.device.type, MOST_LOGITS["cpu"])
    return len(hidden_SD) if is_deepspeed_zero3_enabled() else max(1, most // columns)


def _log_probs(head: nn.Module, hidden_SD: Tensor, at_N: Tensor, tokens_N: Tensor) -> Tensor:
    return read_log_probs(head(hidden_SD), at_N, tokens_N)


def read_log_probs(logits_SV: Tensor, at_N: Tensor, tokens_N: Tensor) -> Tensor:
    """The same from logits. Shape (N,), fp32."""
    return torch.log_softmax(logits_SV.float(), -1)[at_N, tokens_N]


def _summed(head: nn.Module, hidden_SD: Tensor, targets_S: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head(hidden_SD).float(), targets_S, reduction="sum")
