"""The DeepSpeed JSON of a stage, derived from its config."""

from __future__ import annotations

import json
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omnivision.errors import ConfigError
from omnivision_train import precision
from omnivision_train.config import StageConfig
from omnivision_train.launch import rank_and_ranks

ZERO = "zero_optimization"
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
        ZERO: zero,
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
    """The JSON, whose sizes are the stage's; null is as if a key were not there.

    Raises:
        ConfigError: a number in it says something else than the stage's key; the part about ZeRO has another name.
    """
    own = {key: value for key, value in own.items() if value is not None}
    if ZERO not in own and (near := get_close_matches(ZERO, own, n=1, cutoff=0.9)):
        raise ConfigError(f"`{near[0]}` is no key of DeepSpeed's", f"deepspeed: {near[0]}", f"Write {ZERO}.")
    told = {"train_micro_batch_size_per_gpu": ("batch_size", config.batch_size), "gradient_accumulation_steps": ("accumulation", config.accumulation),
            "gradient_clipping": ("max_grad_norm", config.max_grad_norm)}
    if "WORLD_SIZE" in os.environ:
        told["train_batch_size"] = ("batch_size x accumulation x processes", config.batch_size * config.accumulation * rank_and_ranks()[1])
    for key, (name, value) in told.items():
        if own.get(key, "auto") not in ("auto", value):
            raise ConfigError(f"The DeepSpeed settings have {own[key]!r} as {key}, and `{name}` is {value:g}", f"deepspeed: {key}", f'Write "auto" there: `{name}` says it.')
    if _mapping(own.get("fp16") or {}, "fp16").get("enabled") is True:
        raise ConfigError("The DeepSpeed settings train in fp16, which no stage does", "deepspeed: fp16.enabled", "Remove it: `precision` says bf16 or fp32.")
    return {"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", ZERO: {"stage": 0}, **own}


def check_own(config: StageConfig) -> None:
    """A JSON of one's own, as DeepSpeed will read it once all has loaded.

    Raises:
        ConfigError: bf16 that is not what `precision` says; a key or value that its part about ZeRO cannot have.
    """
    if not config.deepspeed:
        return
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    own, bf16 = deepspeed_config(config), precision.deepspeed_bf16(config)
    if "bf16" in own and (enabled := _mapping(own["bf16"], "bf16").get("enabled", False)) not in ("auto", bf16):
        raise ConfigError(f"The DeepSpeed settings have {enabled!r} as bf16.enabled, and by `precision` it is {bf16}", "deepspeed: bf16.enabled",
                          'Write "auto" there: `precision` says it, and on a CPU it is none of DeepSpeed\'s.')
    given = json.loads(json.dumps(own[ZERO]), object_hook=lambda part: {key: value for key, value in part.items() if value != "auto"})
    try:
        DeepSpeedZeroConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (ZERO, *first["loc"])))
        raise ConfigError(f"DeepSpeed does not take this: {first['msg']}", f"deepspeed: {key}", "Correct `deepspeed`.") from error


def zero_settings(config: StageConfig) -> tuple[int, bool]:
    """(ZeRO stage, whether the optimizer's state is in the CPU's memory), also of a user's own JSON.

    Raises:
        ConfigError: the JSON's part about ZeRO is not as DeepSpeed wants it; an offload that DeepSpeed would ignore.
    """
    zero = _mapping(_settings(config)[ZERO], ZERO)
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
