"""The DeepSpeed JSON of a stage, derived from its config."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from omnivision.errors import ConfigError
from omnivision_train import precision
from omnivision_train.config import StageConfig
from omnivision_train.launch import rank_and_ranks

FP32_SUMS = {"grad_accum_dtype": "fp32"}


def deepspeed_config(config: StageConfig) -> dict[str, Any]:
    """DeepSpeed's settings; sizes are "auto", which transformers' Trainer fills in.

    Raises:
        ConfigError: the user's own JSON cannot be read, or holds no object.
    """
    settings = _settings(config)
    return {**settings, "data_types": FP32_SUMS} if sums_in_fp32(config) and precision.deepspeed_bf16(config) else settings


def sums_in_fp32(config: StageConfig) -> bool:
    """Whether a process would sum a GPU's bf16 gradients in fp32: DeepSpeed's optimizer for that has ZeRO 1 and no offload (0.19.8).

    What several processes send each other is bf16 all the same.
    """
    return config.deepspeed is None and config.zero_stage == 1 and not config.offload_optimizer


def _settings(config: StageConfig) -> dict[str, Any]:
    if config.deepspeed:
        return _checked(_own(config), config)
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000_000,
        "timers": {"throughput": {"enabled": False}},  # it waits for the GPU twice a step, and metrics.jsonl has its own
    }


def _own(config: StageConfig) -> dict[str, Any]:
    """A user's own JSON."""
    if isinstance(config.deepspeed, str):
        try:
            found = json.loads(Path(config.deepspeed).read_text("utf-8-sig"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"The DeepSpeed file cannot be read: {error}", config.deepspeed, "Correct `deepspeed`.") from error
        return _mapping(found, config.deepspeed)
    return config.deepspeed


def _checked(own: dict[str, Any], config: StageConfig) -> dict[str, Any]:
    """The JSON, whose sizes are the stage's.

    Raises:
        ConfigError: a number in it says something else than the stage's key.
    """
    told = {"train_micro_batch_size_per_gpu": ("batch_size", config.batch_size), "gradient_accumulation_steps": ("accumulation", config.accumulation),
            "gradient_clipping": ("max_grad_norm", config.max_grad_norm)}
    if "WORLD_SIZE" in os.environ:
        told["train_batch_size"] = ("batch_size x accumulation x processes", config.batch_size * config.accumulation * rank_and_ranks()[1])
    for key, (name, value) in told.items():
        if own.get(key, "auto") not in ("auto", value):
            raise ConfigError(f"The DeepSpeed settings have {own[key]!r} as {key}, and `{name}` is {value:g}", f"deepspeed: {key}", f'Write "auto" there: `{name}` says it.')
    if _mapping(own.get("fp16") or {}, "fp16").get("enabled") is True:
        raise ConfigError("The DeepSpeed settings train in fp16, which no stage does", "deepspeed: fp16.enabled", "Remove it: `precision` says bf16 or fp32.")
    return {"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", **own}


def zero_settings(config: StageConfig) -> tuple[int, bool]:
    """(ZeRO stage, whether the optimizer's state is in the CPU's memory), also of a user's own JSON.

    Raises:
        ConfigError: the JSON's part about ZeRO is not as DeepSpeed wants it; an offload that DeepSpeed would ignore.
    """
    zero = _mapping(_settings(config).get("zero_optimization") or {}, "zero_optimization")
    offload = _mapping(zero.get("offload_optimizer") or {}, "zero_optimization.offload_optimizer")
    stage = zero.get("stage", 0)
    if isinstance(stage, bool) or stage not in range(4):
        raise ConfigError(f"The ZeRO stage is {stage!r}", "deepspeed: zero_optimization.stage", "Give 0, 1, 2 or 3.")
    offloaded = offload.get("device", "none") != "none"
    if offloaded and stage == 0:
        raise ConfigError("At ZeRO stage 0 DeepSpeed leaves the optimizer's state on the device", "deepspeed: zero_optimization" if config.deepspeed else "offload_optimizer",
                          "Use zero_stage=1, or leave it out.")
    return stage, offloaded


def _mapping(found: Any, key: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ConfigError(f"This part of the DeepSpeed settings is {type(found).__name__}, not an object", key, "Correct `deepspeed`.")
    return found
