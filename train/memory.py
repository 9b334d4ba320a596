"""What a stage holds in memory, from shapes alone: the model is built on the meta device, where it has shapes and no memory."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omnivision.errors import PlanError
from omnivision.functions import FunctionSet
from omnivision_train.config import ADAPTER, StageConfig, trained_parts
from omnivision_train.deepspeed_config import sums_in_fp32, zero_settings

if TYPE_CHECKING:
    from omnivision_train.activations import Batch

# Bytes a parameter: AdamW keeps two fp32 moments, Muon one of a matrix; mixed precision adds an fp32 master copy of the weights.
WEIGHT = {"fp32": 4, "bf16": 2}
OPTIMIZER = {"fp32": 8, "bf16": 12}
MOMENT = 4
GIB = 2**30
REFERENCE = "reference"  # dpo's frozen copy, where its log-probs are not computed before


class Part(NamedTuple):
    """One part of the model, its parameters counted once (tied weights belong to the first that has them), and those in matrices that Muon trains."""

    name: str
    parameters: int
    in_matrices: int = 0


@dataclass(frozen=True)
class Held:
    """What training holds for one part on one device, in bytes."""

    name: str
    trained: bool
    weights: int
    gradients: int
    optimizer: int
    activations: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


@contextmanager
def whole_weights() -> Iterator[None]:
    """Hides ZeRO-3 from transformers for its time: once a trainer exists, models would be built in parts, those without memory too."""
    from transformers.integrations import deepspeed

    before = deepspeed._hf_deepspeed_config_weak_ref  # it has no other way to ask for what it set
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if before is not None and before() is not None:
            deepspeed.set_hf_deepspeed_config(before())


def on_meta(config: Any, stage_config: StageConfig | None = None):
    """The model of an OmniVisionConfig without memory, with the adapters that a stage trains.

    Their rows are those of the function table; none where its file is not there yet.
    """
    import torch

    from omnivision import OmniVisionForConditionalGeneration
    from omnivision_train import lora

    with whole_weights(), torch.device("meta"):
        model = OmniVisionForConditionalGeneration(copy.deepcopy(config))  # a model changes its config: another's must not change
    model.tie_weights()
    if getattr(stage_config, "lora_rank", 0):
        table = stage_config.functions
        tokens = len(FunctionSet.from_json(table)) + 1 if Path(table).is_file() else 0  # and the end of a call
        lora.add_adapters(model, stage_config, range(tokens))
    return model


def count_parts(model, config: StageConfig | None = None) -> list[Part]:
    """Parameters of vision tower, its pooling head, projector, language model with an untied head (what is held of it apart), and adapters."""
    from omnivision_train.activations import part_of
    from omnivision_train.frozen_layers import held_names
    from omnivision_train.optimizer import inner_matrix

    counts = {name: [0, 0] for name in ("vision tower", "pooling head", "projector", "frozen layers", "language model", ADAPTER)}
    held = held_names(model, getattr(config, "frozen_layers", 0))
    muon = getattr(config, "optimizer", "adamw") == "muon"
    for name, weight in model.named_parameters():
        part = part_of(name)
        count = counts["frozen layers" if name in held and part != ADAPTER else part]
        count[0] += weight.numel()
        count[1] += weight.numel() * (muon and inner_matrix(name, weight))
    return [Part(name, *count) for name, count in counts.items() if count[0]]


def held_by_parts(parts: Iterable[Part], config: StageConfig, stage: str, precision: str, ranks: int) -> list[Held]:
    """Bytes that one device holds for each part while the stage trains, without activations.

    Args:
        ranks: processes that share the state: ZeRO 1 divides the optimizer's among them, 2 also gradients, 3 also weights.
    """
    zero, offloaded = zero_settings(config)
    trains = trained_parts(config, stage)
    in_fp32 = WEIGHT["fp32"] * (precision == "bf16" and sums_in_fp32(config))  # of gradients, beside bf16 ones
    held = []
    for part in parts:
        trained = part.name.replace(" ", "_") in trains
        gradients = (WEIGHT[precision] + in_fp32) * part.parameters * trained
        optimizer = (OPTIMIZER[precision] * part.parameters - MOMENT * part.in_matrices) * trained * (not offloaded)
        held.append(Held(part.name, trained, WEIGHT[precision] * part.parameters // (ranks if zero >= 3 else 1),
                         gradients // (ranks if zero >= 2 else 1), optimizer // (ranks if zero >= 1 else 1)))
    if stage == "dpo" and not config.precompute_reference:
        held.append(Held(REFERENCE, False, sum(one.weights for one in held), 0, 0))
    return held


def held_with_batch(model, config: StageConfig, stage: str, precision: str, ranks: int, batch: Batch) -> list[Held]:
    """The same of a model on the meta device, with the activations of one batch on a GPU."""
    from omnivision_train.activations import activation_bytes
    from omnivision_train.lean_attention import LEAN

    held = held_by_parts(count_parts(model, config), config, stage, precision, ranks)
    with whole_weights():
        activations = activation_bytes(model, config, stage, precision, batch, fused=config.attention not in ("eager", LEAN))
    return [replace(one, activations=activations.get(one.name, 0)) for one in held]


def check_memory(held: list[Held], config: StageConfig, stage: str, ranks: int, memory: int) -> None:
    """Refuses, before the first step, what cannot fit.

    Args:
        ranks: processes that share the state. memory: bytes of one device.

    Raises:
        PlanError: names what is needed, what is there, and what to change.
    """
    needed, state = sum(one.total for one in held), sum(one.total - one.activations for one in held)
    if needed <= memory:
        return
    if state > memory:
        remedies = ["zero_stage=2", "zero_stage=3"] if ranks > 1 and config.zero_stage < 2 else ["zero_stage=3"] if ranks > 1 else [
            "more processes with zero_stage=3"]
        raise PlanError(f"Weights, gradients and optimizer take {state / GIB:.1f} GiB before any activation; the device has {memory / GIB:.1f}",
                        f"{stage}: preset {config.preset}", f"Use {', '.join(remedies)}, offload_optimizer=true, or a smaller preset.")
    raise PlanError(f"A batch takes {(needed - state) / GIB:.1f} GiB of activations beside {state / GIB:.1f} GiB of weights, gradients and optimizer; "
                    f"the device has {memory / GIB:.1f}", f"{stage}: preset {config.preset}", f"Use {less_memory(config)}.")


def device_memory() -> int | None:
    """Bytes of this process' GPU; None on a CPU, whose memory is not this process' alone."""
    import torch

    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory if torch.cuda.is_available() else None


def less_memory(config: StageConfig) -> str:
    """Settings that need less and train the same."""
    half, parted = config.batch_size // 2, config.optimizer != "muon" and config.deepspeed is None  # else ZeRO is not ours to choose
    advice = [f"batch_size={half} accumulation={config.accumulation * 2} (the same global batch)"] if config.batch_size % 2 == 0 else []
    advice += ["gradient_checkpointing=true"] if not config.gradient_checkpointing and not config.compile else []
    advice += [f"zero_stage={2 if config.zero_stage < 2 else 3}"] if parted and config.zero_stage < 3 else []
    advice += ["offload_optimizer=true"] if parted and config.zero_stage and not config.offload_optimizer else []
    return ", or ".join(advice) or "a smaller preset"
