"""What the machine decides about a stage, why, and the key that decides it by hand: for `omnivision doctor`."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

from omnivision.data.parallel import cores
from omnivision.hardware import CPU_BF16, busy_cores, cpu_flags, usable_cores
from omnivision_train.attention import SHORT, kernels
from omnivision_train.compiled import compiles
from omnivision_train.config import StageConfig
from omnivision_train.loss_kernel import loss_kernel, obstacle
from omnivision_train.precision import resolved

BUSY = 0.5  # cores that others use: from here on torch's waiting threads are in their way
WAIT_POLICY = "OMP_WAIT_POLICY"


class Choice(NamedTuple):
    """A setting that nobody has made."""

    name: str
    value: str
    why: str
    key: str  # what sets it by hand


def choices(config: StageConfig | None = None) -> list[Choice]:
    """Of a stage with its defaults."""
    config = config or StageConfig()
    return [_precision(config), *_attention(config), _layers(config), _loss(config), _threads(config), _processes()]


def threads(config: StageConfig) -> int | None:
    """torch's threads of this process; None leaves what OMP_NUM_THREADS or a launcher has said.

    torch counts the cores that it may run on, and does not see that a container's share of their time may be less.
    """
    if config.threads or "OMP_NUM_THREADS" in os.environ or torch.cuda.is_available():
        return config.threads
    return min(torch.get_num_threads(), cores())


def crowded(threads_here: int) -> str | None:
    """What to say where others compute and torch's threads would spin beside them while they wait; None where all is well."""
    if threads_here < 2 or WAIT_POLICY in os.environ or (busy := busy_cores()) < BUSY:
        return None
    return (f"others use {busy:.1f} of {os.cpu_count()} cores, and {threads_here} threads of torch spin while they wait: {WAIT_POLICY}=PASSIVE or threads=1 "
            "lets both go on (two runs of two threads side by side were each 3.5 times faster; alone on a machine it costs 16 %)")


def _precision(config: StageConfig) -> Choice:
    found = resolved(config)
    if torch.cuda.is_available() and config.optimizer == "muon":
        why = "Muon needs whole matrices, which DeepSpeed's bf16 does not leave"
    elif torch.cuda.is_available():
        why = f"{torch.cuda.get_device_name()} {'has' if found == 'bf16' else 'has no'} bf16 in hardware"
    elif found == "bf16":
        why = f"the processor has {', '.join(sorted(CPU_BF16 & cpu_flags()))}; weights and optimizer stay fp32"
    else:
        why = f"the processor has none of {', '.join(sorted(CPU_BF16))}"
    return Choice("precision", found, why, "precision=fp32|bf16")


def _attention(config: StageConfig) -> list[Choice]:
    short, long, by_hand = kernels(config, 0), kernels(config, SHORT), "attention=eager|lean|sdpa"
    if short.tower is None:
        return [Choice("attention", "sdpa", "a GPU's fused kernels, for every model that has them", by_hand)]
    tower = Choice("attention of the tower", short.tower, "pictures are long rows without a mask", by_hand)
    if short.language == long.language:
        return [tower, Choice("attention of the language model", long.language, "in fp32 it is as fast at any length", by_hand)]
    return [tower, Choice("attention of the language model", f"{short.language}, from {SHORT} tokens on {long.language}",
                          "by the usual row's length, in bf16 on a CPU", by_hand)]


def _layers(config: StageConfig) -> Choice:
    compiled = compiles(config)
    why = ("compiling takes a CPU minutes, and saves it a tenth of a step" if not torch.cuda.is_available() else
           "it takes a GPU's steps half of the time" if compiled else "triton or a C compiler is missing, or another setting is in the way")
    return Choice("layers", "compiled" if compiled else "as they are", why, "compile=true|false")


def _loss(config: StageConfig) -> Choice:
    missing = obstacle(config)
    return Choice("loss over the vocabulary", loss_kernel(config), missing[0] if missing else "logits never stand whole, and the head runs once", "loss_kernel=chunked|liger")


def _threads(config: StageConfig) -> Choice:
    found = threads(config)
    if found is None:
        return Choice("threads", str(torch.get_num_threads()), "OMP_NUM_THREADS" if "OMP_NUM_THREADS" in os.environ else "torch's own", "threads=N")
    return Choice("threads", str(found), f"{usable_cores()} cores may be used", "threads=N")


def _processes() -> Choice:
    if torch.cuda.is_available():
        return Choice("processes", str(torch.cuda.device_count()), "one a GPU, by the launcher", "-- --num_gpus N")
    return Choice("processes", "1", "another number is another global batch, and threads are as fast", "processes=N")
