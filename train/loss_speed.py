"""How fast the loss over the vocabulary is, and what it holds: head, cross-entropy and their gradients at a preset's shapes.

    python -m omnivision_train.loss_speed --preset 968m --positions 8192 --supervised 0.5

`all logits` is transformers' way: logits of every position in fp32. The others run the head where something is supervised. All take turns; told is the
median of the rounds' ratios of time with its 95 % interval, and on a GPU the peak of memory above what stood there before.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from omnivision.constants import IGNORE_INDEX
from omnivision.hardware import device, fast_precision, synchronize
from omnivision.model.chunked_loss import liger_cross_entropy, summed_cross_entropy
from omnivision.presets import preset_config
from omnivision.statistics import median_interval
from omnivision_train.config import SftConfig
from omnivision_train.loss_kernel import obstacle

ALL = "all logits"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m omnivision_train.loss_speed", description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="968m", help="968m (default), small or tiny")
    parser.add_argument("--positions", type=int, default=8192, metavar="N", help="of a batch (default 8192)")
    parser.add_argument("--supervised", type=float, default=0.5, metavar="SHARE", help="of them (default 0.5)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="default 9, after two that warm up")
    options = parser.parse_args(argv)
    kind = torch.bfloat16 if fast_precision() == "bf16" else torch.float32
    shape = preset_config(options.preset).text_config
    torch.manual_seed(0)
    head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False, device=device(), dtype=kind)
    hidden_SD = torch.randn(options.positions, shape.hidden_size, device=device(), dtype=kind, requires_grad=True)
    targets_S = torch.randint(shape.vocab_size, (options.positions,), device=device())
    targets_S[round(options.supervised * options.positions) :] = IGNORE_INDEX
    print(f"{options.preset}, {options.positions} positions, {options.supervised:.0%} supervised, {fast_precision()}\n")
    print("\n".join(table(measured(ways(shape.vocab_size), head, hidden_SD, targets_S, options.rounds))))
    return 0


def ways(columns: int) -> dict[str, Callable[[nn.Linear, Tensor, Tensor], Tensor]]:
    """Name -> loss of (head, hidden states, targets); liger only where it runs."""
    found = {ALL: all_logits, "chunked": partial(needed, partial(summed_cross_entropy, columns=columns))}
    return found if obstacle(SftConfig()) else {**found, "liger": partial(needed, liger_cross_entropy)}


def all_logits(head: nn.Linear, hidden_SD: Tensor, targets_S: Tensor) -> Tensor:
    """The plain loss."""
    return nn.functional.cross_entropy(head(hidden_SD).float(), targets_S, reduction="sum", ignore_index=IGNORE_INDEX)


def needed(loss: Callable[[nn.Linear, Tensor, Tensor], Tensor], head: nn.Linear, hidden_SD: Tensor, targets_S: Tensor) -> Tensor:
    """A loss of what is supervised."""
    supervised_S = targets_S != IGNORE_INDEX
    return loss(head, hidden_SD[supervised_S], targets_S[supervised_S])


def measured(losses: dict[str, Callable], head: nn.Linear, hidden_SD: Tensor, targets_S: Tensor, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Of each: (seconds, GiB above what stood there) of every round."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in losses}
    for number in range(rounds + 2):
        for name in losses if number % 2 else reversed(losses):
            found[name].append(once(partial(losses[name], head, hidden_SD, targets_S)))
            head.weight.grad = hidden_SD.grad = None
    return {name: times[2:] for name, times in found.items()}


def once(loss: Callable[[], Tensor]) -> tuple[float, float]:
    """Seconds and GiB of a loss with its gradients; no number for memory on a CPU."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    synchronize()
    before, began = torch.cuda.memory_allocated() if on_gpu else 0, time.perf_counter()
    loss().backward()
    synchronize()
    seconds = time.perf_counter() - began
    return seconds, (torch.cuda.max_memory_allocated() - before) / 2**30 if on_gpu else float("nan")


def table(found: dict[str, list[tuple[float, float]]]) -> list[str]:
    """Markdown; how many times as fast, and as small, as all logits."""
    lines = ["| loss | ms | times as fast | GiB | times as small |", "|---|---|---|---|---|"]
    plain = found[ALL]
    for name, times in found.items():
        middle, low, high = median_interval([one[0] / other[0] for one, other in zip(plain, times, strict=True)])
        gib = max(one[1] for one in times)
        memory = "– | –" if gib != gib else f"{gib:.2f} | {max(one[1] for one in plain) / gib:.1f}"
        lines.append(f"| {name} | {1000 * min(one[0] for one in times):.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) | {memory} |")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
