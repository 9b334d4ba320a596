"""Which numbers of a checkpoint FP16 cannot hold: weights, and what layers give while they run."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from omnivision.errors import DataError

FP16_LARGEST = 65504.0
KEEP_THEM = "Keep those layers in fp32 (--keep-fp32), or take a checkpoint from before it diverged."
FROM_BEFORE = "Take a checkpoint from before it diverged: another type does not fix them."
ACTIVATION_LIMIT = FP16_LARGEST / 2  # room for sums inside a layer and for other pictures


@dataclass
class WeightScan:
    """What rounding to FP16 does to the weights."""

    largest: float = 0.0
    largest_tensor: str = ""
    flushed_to_zero: int = 0  # values below 2^-25 in size, which FP16 rounds to 0
    not_finite: list[str] = field(default_factory=list)  # "name: how many"
    beyond: list[str] = field(default_factory=list)  # "name: how far"


def scan_weights(tensors: Iterable[tuple[str, torch.Tensor]], kept: Collection[str] = ()) -> WeightScan:
    """Look at every floating-point tensor by its name; those of layers that stay in fp32 must be finite and no more."""
    scan = WeightScan()
    for name, tensor in tensors:
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        largest = float(torch.stack(tensor.aminmax()).abs().max())
        if not math.isfinite(largest):  # of a NaN aminmax gives NaN
            scan.not_finite.append(f"{name}: {int((~torch.isfinite(tensor)).sum())} values")
            continue
        if is_kept(name, kept):
            continue
        if largest > FP16_LARGEST:
            scan.beyond.append(f"{name}: {largest:.4g} is beyond FP16's {FP16_LARGEST:.0f}")
        elif largest > scan.largest:
            scan.largest, scan.largest_tensor = largest, name
        scan.flushed_to_zero += int(((tensor != 0) & (tensor.half() == 0)).sum())
    return scan


def refuse_not_finite(scan: WeightScan, where: str) -> None:
    """Raises DataError where tensors hold numbers that are not finite."""
    if scan.not_finite:
        what = f"{len(scan.not_finite)} tensors hold numbers that are not finite: {'; '.join(scan.not_finite[:3])}"
        raise DataError(what, where, FROM_BEFORE)


def refuse_beyond(scan: WeightScan, where: str, remedy: str = KEEP_THEM) -> None:
    """Raises DataError where tensors do not fit FP16."""
    if scan.beyond:
        raise DataError(f"{len(scan.beyond)} tensors do not fit FP16: {'; '.join(scan.beyond[:3])}", where, remedy)


@contextmanager
def watch_activations(model: torch.nn.Module):
    """Yields a dictionary that fills with the largest |number| that goes into or comes out of every module while the model runs.

    What goes in counts too: a gated MLP multiplies its two branches outside of any module, and that product is often a model's largest number.
    """
    largest: dict[str, float] = {}
    handles = []

    def watch(name: str):
        def look(module, inputs, output) -> None:
            largest.setdefault(name, 0.0)  # a layer that runs, whatever it gives
            for tensor in (*inputs, output):
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
                    value = float(tensor.detach().abs().max())
                    # max() would lose a NaN, and a NaN must stay
                    largest[name] = value if value != value or value > largest[name] else largest[name]

        return look

    for name, module in model.named_modules():
        handles.append(module.register_forward_hook(watch(name)))
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()


def refuse_activations(largest: dict[str, float], kept: Collection[str] = ()) -> tuple[str, float]:
    """The module with the largest number in or out, of those that compute in FP16.

    Args:
        largest: as watch_activations fills it.
        kept: layers that stay in fp32. What is inside them does, what they give returns to FP16.

    Raises:
        DataError: a module whose numbers FP16 cannot be trusted with.
    """
    watched = {name: value for name, value in largest.items() if not is_kept(name.rpartition(".")[0], kept)}
    bad = {name: value for name, value in watched.items() if not value <= ACTIVATION_LIMIT}  # a NaN is bad too
    if bad:
        # the names of whole towers come last: of nested modules the innermost is the one that does it
        name, value = next(iter(sorted(bad.items(), key=lambda pair: -pair[0].count("."))))
        around = _outermost([_around(one, largest) for one in bad])
        keep = f"keep what is around it in fp32 with --keep-fp32 {' '.join(around)}, or " if around else ""
        raise DataError(
            f"numbers at layer {name} reach {value:.4g}, more than half of FP16's largest number ({len(bad)} layers in all)",
            "activations over the reference pictures",
            f"FP16 may overflow there: {keep}rescale its weights, or keep the checkpoint in bf16.",
        )
    return max(watched.items(), key=lambda pair: pair[1], default=("", 0.0))


def is_kept(name: str, kept: Collection[str]) -> bool:
    """Whether a module or tensor lies in one of the kept layers."""
    return any(name == layer or name.startswith(f"{layer}.") for layer in kept)


def _around(name: str, running: Collection[str]) -> str:
    """The next layer around this one that runs itself: a list of layers does not."""
    name = name.rpartition(".")[0]
    return name if not name or name in running else _around(name, running)


def _outermost(names: Collection[str]) -> list[str]:
    """Names that lie in no other one; the whole model ("", "model") is no layer to keep."""
    real = list(dict.fromkeys(name for name in names if "." in name))
    return [name for name in real if not is_kept(name.rpartition(".")[0], real)]
