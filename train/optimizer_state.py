"""The optimizer's state by parameter name, whichever optimizer of DeepSpeed's holds it and however it is sharded (0.19.8)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def full_moments(trainer) -> dict[str, Tensor]:
    """The optimizer's state as "<parameter>|<key>", gathered from all processes, returned on the first one."""
    from deepspeed.utils import safe_get_full_optimizer_state

    optimizer, first, found = _zero_optimizer(trainer), trainer.is_world_process_zero(), {}
    if optimizer is None:
        state = _inner_optimizer(trainer).state
        found = {f"{name}|{key}": value for name, parameter in _trained(trainer)
                 for key, value in state.get(parameter, {}).items() if key != "step"}
    else:
        keys = _moment_keys(optimizer)
        _link_states(optimizer)
        for name, parameter in _trained(trainer):
            for key in keys:
                value = safe_get_full_optimizer_state(parameter, key)
                if first:
                    found[f"{name}|{key}"] = value.to("cpu")  # one after the other: all of them may not fit the device
    return {name: value.detach().to("cpu").contiguous() for name, value in found.items()} if first else {}


def optimizer_step(trainer) -> float:
    """How many updates the optimizer has made (skipped steps are none)."""
    optimizer = _inner_optimizer(trainer)
    counts = [float(state["step"]) for state in optimizer.state.values() if "step" in state]
    counts += [float(group["step"]) for group in optimizer.param_groups if "step" in group]
    return max(counts, default=0.0)


def restore_optimizer(trainer, moments: dict[str, Tensor], weights: Callable[[], dict[str, Tensor]], step: float) -> None:
    """Puts the optimizer's state back, and DeepSpeed's own fp32 weights where it keeps some; every process calls it.

    Args:
        moments: of `full_moments`. weights: reads the checkpoint's, by name. step: updates that had been made.
    """
    optimizer, named = _zero_optimizer(trainer), _trained(trainer)
    if optimizer is None:
        _restore_plain(trainer, moments, dict(named), step)
        return
    keys = {name.rpartition("|")[2] for name in moments}
    _make_states(optimizer, keys, step)
    saved = weights()
    for name, parameter in named:
        _set_part(parameter, saved[name].to(trainer.args.device), None)
        for key in sorted(keys):
            _set_part(parameter, moments[f"{name}|{key}"].to(trainer.args.device), key)


def _set_part(parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
    """Puts this process' part of a whole tensor in its place: of the weight, or of the optimizer's state `key`."""
    from deepspeed.utils import (safe_set_full_fp32_param, safe_set_full_optimizer_state, safe_set_local_fp32_param,
                                 safe_set_local_optimizer_state)

    if hasattr(parameter, "ds_id"):  # ZeRO-3: DeepSpeed's setter of whole tensors fails where the last part is padded (0.19.8)
        part, ranks, rank = parameter.ds_tensor.numel(), torch.distributed.get_world_size(), torch.distributed.get_rank()
        local = nn.functional.pad(value.flatten(), (0, part * ranks - value.numel())).narrow(0, part * rank, part)
        safe_set_local_fp32_param(parameter, local) if key is None else safe_set_local_optimizer_state(parameter, local, key)
    elif key is None:
        safe_set_full_fp32_param(parameter, value)
    else:
        safe_set_full_optimizer_state(parameter, value, key)


def is_sharded(parameter: Tensor) -> bool:
    """Whether DeepSpeed keeps its fp32 weight, or the weight itself, in parts."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def _trained(trainer) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters of what trains."""
    return [(name, parameter) for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]


def _zero_optimizer(trainer):
    """DeepSpeed's optimizer where it keeps fp32 weights of its own, in parts; None where the model's are all there are."""
    return trainer.optimizer.optimizer if any(is_sharded(parameter) for _, parameter in _trained(trainer)) else None


def _inner_optimizer(trainer) -> torch.optim.Optimizer:
    """torch's optimizer, inside accelerate's and DeepSpeed's."""
    optimizer = _zero_optimizer(trainer)
    return trainer.optimizer.optimizer if optimizer is None else optimizer.optimizer


def _flat_parts(optimizer) -> list[Tensor]:
    """This process' flat fp32 parts, by whichever name DeepSpeed's optimizer has for them (0.19.8)."""
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):
            return getattr(optimizer, name)
    raise AttributeError(f"{type(optimizer).__name__} of this DeepSpeed keeps its fp32 weights under another name")


def _moment_keys(optimizer) -> list[str]:
    """Names of the optimizer's tensors that have the shape of the weights (exp_avg, exp_avg_sq)."""
    state = optimizer.optimizer.state
    return sorted({key for flat in _flat_parts(optimizer) for key, value in state.get(flat, {}).items()
                   if torch.is_tensor(value) and value.shape == flat.shape})


def _make_states(optimizer, keys: set[str], step: float) -> None:
    """States as after `step` updates, empty: DeepSpeed and torch make them in the first update only."""
    inner = optimizer.optimizer
    on_cpu = _counts_on_cpu(inner)
    for flat in _flat_parts(optimizer):
        if keys:
            inner.state[flat] = {"step": torch.tensor(step, device="cpu" if on_cpu else flat.device)}
            inner.state[flat] |= {key: torch.zeros_like(flat) for key in keys}
    for group in inner.param_groups:
        if "step" in group:
            group["step"] = int(step)
    _link_states(optimizer)


def _link_states(optimizer) -> None:
    """Lets each parameter find its part of the states: DeepSpeed links them after the first group's first update, too early
    for the other groups' (0.19.8)."""
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _restore_plain(trainer, moments: dict[str, Tensor], named: dict[str, nn.Parameter], step: float) -> None:
    inner = _inner_optimizer(trainer)
    for entry, value in moments.items():
        name, _, key = entry.rpartition("|")
        device = named[name].device
        inner.state[named[name]][key] = value.to(device)
        if key == "exp_avg":
            inner.state[named[name]]["step"] = torch.tensor(step, device="cpu" if _counts_on_cpu(inner) else device)


def _counts_on_cpu(optimizer) -> bool:
    """Where torch wants the number of updates: on the CPU, except for fused and capturable optimizers."""
    return not any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
