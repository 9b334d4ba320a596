"""What a stage holds in memory, from shapes alone: the model is built on the meta device, where it has shapes and no memory."""

from __future__ import annotations

from typing import Any, NamedTuple

from omnivision.errors import PlanError
from omnivision_train.config import TRAINS, StageConfig

# Bytes a parameter: AdamW keeps two fp32 moments; mixed precision adds an fp32 master copy of the weights.
WEIGHT = {"fp32": 4, "bf16": 2}
OPTIMIZER = {"fp32": 8, "bf16": 12}
GIB = 2**30


class Part(NamedTuple):
    """One part of the model, its parameters counted once (tied weights belong to the first that has them)."""

    name: str
    parameters: int


class Held(NamedTuple):
    """What training holds for one part on one rank, in bytes, without activations."""

    name: str
    trained: bool
    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer


def count_parts(config: Any) -> list[Part]:
    """Parameters of vision tower, its pooling head, projector, language model and an untied head.

    Args:
        config: an OmniVisionConfig.
    """
    import torch

    from omnivision import OmniVisionForConditionalGeneration

    with torch.device("meta"):
        model = OmniVisionForConditionalGeneration(config)
    model.tie_weights()
    seen: set[int] = set()
    counts = {"vision tower": 0, "pooling head": 0, "projector": 0, "language model": 0}
    for name, weight in model.named_parameters():
        if id(weight) not in seen:
            seen.add(id(weight))
            counts[_part_of(name)] += weight.numel()
    return [Part(name, count) for name, count in counts.items() if count]


def training_memory(parts: list[Part], stage: str, precision: str, ranks: int, zero: int, vision: bool = False) -> list[Held]:
    """Bytes that one rank holds for each part while the stage trains.

    Args:
        vision: the vision tower trains too.
        zero: ZeRO 1 divides the optimizer's state among ranks, 2 also gradients, 3 also weights.
    """
    held = []
    for part in parts:
        trained = part.name.replace(" ", "_") in (*TRAINS[stage], *(["vision_tower"] * vision))
        gradients = WEIGHT[precision] * part.parameters * trained
        optimizer = OPTIMIZER[precision] * part.parameters * trained
        held.append(Held(part.name, trained, WEIGHT[precision] * part.parameters // (ranks if zero >= 3 else 1),
                         gradients // (ranks if zero >= 2 else 1), optimizer // (ranks if zero >= 1 else 1)))
    return held


def _part_of(name: str) -> str:
    if ".vision_tower." in name:
        return "pooling head" if ".vision_tower.head." in name else "vision tower"
    return "projector" if ".projector." in name else "language model"


def check_memory(config: StageConfig, stage: str, model_config: Any, precision: str, ranks: int, memory: int) -> None:
    """Refuses, before anything loads, a stage whose weights, gradients and optimizer alone are more than a device has.

    Args:
        model_config: an OmniVisionConfig. ranks: processes that share the state. memory: bytes of one device.

    Raises:
        PlanError: names what is needed, what is there, and what to change.
    """
    vision = getattr(config, "vision_lr", None) is not None
    held = training_memory(count_parts(model_config), stage, precision, ranks, config.zero_stage, vision)
    total = sum(one.weights + one.gradients + (0 if config.offload_optimizer else one.optimizer) for one in held)
    if stage == "dpo":  # the reference
        total += sum(one.weights for one in held)
    if total > memory:
        remedy = "zero_stage=2, zero_stage=3" if ranks > 1 and config.zero_stage < 2 else "more processes with zero_stage=3" if ranks == 1 else "zero_stage=3"
        raise PlanError(f"Weights, gradients and optimizer take {total / GIB:.1f} GiB before any activation; the device has {memory / GIB:.1f}",
                        f"{stage}: preset {config.preset}", f"Use {remedy}, offload_optimizer=true, or a smaller preset.")
