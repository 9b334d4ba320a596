"""How fast eager, lean and sdpa attention are at a preset's shapes: one layer forward and backward, or the tower's forward alone.

    OMP_NUM_THREADS=1 python -m omnivision_train.attention_speed --preset tiny --lengths 96 288 512 1024

All take turns; told is the median of the rounds' ratios of CPU time (on a GPU: of time) with its 95 % interval.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import nn

from omnivision.hardware import device, fast_precision, synchronize
from omnivision.presets import preset_config
from omnivision.statistics import median_interval
from omnivision_train.lean_attention import LEAN

KERNELS = ("sdpa", "eager", LEAN)
PADDED = 0.25  # share of every second row


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m omnivision_train.attention_speed", description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="tiny", help="968m, small or tiny (default)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[96, 160, 288, 512, 1024], metavar="N", help="tokens of a row")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="of a batch (default 8)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="default 9, after one that warms up")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default=fast_precision(), help="default: what is fast here")
    options = parser.parse_args(argv)
    print(f"{options.preset}, {options.rows} rows, {options.precision}\n\n| part | mask | sdpa (ms) | eager / sdpa | lean / sdpa |\n|---|---|---|---|---|")
    for length in options.lengths:
        for mask in ("none", "padding"):
            print(line(f"language model, {length} tokens", mask, language(options, length, mask == "padding"), options), flush=True)
    for trained in (False, True):
        print(line(f"tower, {'trained' if trained else 'frozen'}", "none", tower(options, trained), options), flush=True)
    return 0


def line(part: str, mask: str, run: tuple[nn.Module, Callable[[], None]], options: argparse.Namespace) -> str:
    """A row of the table."""
    times = {kernel: [] for kernel in KERNELS}
    for number in range(options.rounds + 1):
        for kernel in KERNELS if number % 2 else reversed(KERNELS):
            times[kernel].append(seconds(*run, kernel, options.precision))
    sdpa, *others = (times[kernel][1:] for kernel in KERNELS)
    ratios = [median_interval([one / other for one, other in zip(kernel, sdpa, strict=True)]) for kernel in others]
    return f"| {part} | {mask} | {1000 * min(sdpa):.1f} | " + " | ".join(f"{middle:.2f} ({low:.2f} to {high:.2f})" for middle, low, high in ratios) + " |"


def seconds(module: nn.Module, step: Callable[[], None], kernel: str, precision: str) -> float:
    """Of one step."""
    module.set_attn_implementation(kernel)
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    began = clock()
    with torch.autocast(device(), dtype=torch.bfloat16) if precision == "bf16" else nullcontext():
        step()
    synchronize()
    return clock() - began


def language(options: argparse.Namespace, length: int, padded: bool) -> tuple[nn.Module, Callable[[], None]]:
    """One layer of the preset's language model, and a step of it."""
    from transformers import AutoModel

    shape = preset_config(options.preset).text_config
    shape.num_hidden_layers, shape.layer_types, shape.vocab_size = 1, shape.layer_types[:1], 8
    model = AutoModel.from_config(shape).to(device()).train()
    embeds_BLD = torch.randn(options.rows, length, shape.hidden_size, device=device(), requires_grad=True)
    mask_BL = torch.ones(options.rows, length, dtype=torch.long, device=device())
    mask_BL[::2, length - int(PADDED * length) :] = 0

    def step() -> None:
        model(inputs_embeds=embeds_BLD, attention_mask=mask_BL if padded else None, use_cache=False).last_hidden_state.float().sum().backward()

    return model, step


def tower(options: argparse.Namespace, trained: bool) -> tuple[nn.Module, Callable[[], None]]:
    """One block of the preset's tower, and a step of it."""
    from transformers import SiglipVisionModel

    shape = preset_config(options.preset).vision_config
    shape.num_hidden_layers = 1
    model = SiglipVisionModel(shape).to(device()).requires_grad_(trained)
    block = model.encoder.layers[0]
    hidden_IPC = torch.randn(options.rows, (shape.image_size // shape.patch_size) ** 2, shape.hidden_size, device=device(), requires_grad=trained)

    def step() -> None:
        out_IPC = block(hidden_IPC, attention_mask=None)
        if trained:
            out_IPC.float().sum().backward()

    return model, step


if __name__ == "__main__":
    raise SystemExit(main())
