"""Checkpoints of a run, by parameter name: the number of processes and the ZeRO stage may change between two starts.

A checkpoint is the model in the hub's layout (what trains in fp32) and beside it what only a resumed run reads: the
optimizer's state, the schedule, meters, random states. All of it is safetensors and JSON, nothing is a pickle. It is
written aside by the first process, flushed, hashed and then named; older ones go when the new one has been read back.
"""

from __future__ import annotations

import copy
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omnivision.config_files import dump_config
from omnivision.errors import ResumableError
from omnivision.runs import checkpoint_step, newest_checkpoint, read_json, remove, seal, sorted_checkpoints, verifies, write_json
from omnivision_train import lora
from omnivision_train.launch import rank_and_ranks

WEIGHTS, MOMENTS = "model.safetensors", "optimizer.safetensors"
PROGRESS, RANKS, SETTINGS = "progress.json", "ranks.json", "config.resolved.yaml"
STATE = "trainer_state.json"  # transformers' name: its Trainer reads the step from there


def write(trainer, folder: Path, keep: int) -> None:
    """Writes <folder>/step-N and removes all but the newest `keep`; every process calls it.

    Raises:
        ResumableError: it could not be written; what had been written before is whole.
    """
    weights, moments = full_weights(trainer), full_moments(trainer)
    ranks = gathered({"random": random_state(), **trainer.meters()})
    step, failure = trainer.state.global_step, ""
    if trainer.is_world_process_zero():
        partial = folder / f".step-{step}.partial"
        try:
            remove(partial)
            partial.mkdir(parents=True)
            save_model(trainer, partial, weights)
            save_file(moments, partial / MOMENTS)
            trainer.processor.save_pretrained(partial)
            write_json(partial / STATE, {key: getattr(trainer.state, key) for key in ("epoch", "global_step")})
            write_json(partial / PROGRESS, {"schedule": trainer.lr_scheduler.state_dict(), "global_batch": trainer.global_batch(),
                                            "optimizer_step": _optimizer_step(trainer)})
            write_json(partial / RANKS, ranks)
            (partial / SETTINGS).write_text(dump_config(trainer.stage_config))
            seal(partial, folder / f"step-{step}")
            write_json(folder.parent / "latest", {"checkpoint": f"{folder.name}/step-{step}"})
            if not verifies(folder / f"step-{step}"):
                raise OSError("it reads back otherwise than it was written")
            for old in superseded(folder, step, keep):
                remove(old)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other processes wait for word of it
            remove(partial, ignore_errors=True)
            failure = (f"{error}", "Make room, then start") if isinstance(error, OSError) else (f"{type(error).__name__}: {error}", "Start")
    failure = from_first(failure)
    if failure:
        why, what = failure
        raise ResumableError(f"The checkpoint of step {step} could not be written: {why}", str(folder), f"{what} the same command again: it resumes from the checkpoint before.")


def superseded(folder: Path, step: int, keep: int) -> list[Path]:
    """What goes once step-N is safe: all but the newest `keep` up to it, and every later one, which was skipped as damaged."""
    newest_first = sorted_checkpoints(folder)
    later = sum(checkpoint_step(path) > step for path in newest_first)
    return newest_first[:later] + newest_first[later + keep :]


def save_model(trainer, folder: Path, weights: dict[str, Tensor]) -> None:
    """The model with these weights, and the function table where it has one."""
    save_weights(trainer.model, folder, weights)
    if trainer.functions:
        trainer.functions.save(folder)


def save_weights(model, folder: Path, weights: dict[str, Tensor]) -> None:
    """The model in the hub's layout with these fp32 weights, whatever DeepSpeed has made of its own; adapters merged, and beside it."""
    if lora.adapter_parameters(model):
        lora.save_adapter(model, weights, folder)
        weights = lora.merged(model, weights)
    model.save_pretrained(folder, state_dict=weights)
    config = copy.deepcopy(model.config)
    config.dtype = config.text_config.dtype = config.vision_config.dtype = torch.float32
    config.save_pretrained(folder)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Puts a checkpoint's weights into the model, before DeepSpeed takes it over."""
    wanted = set(lora.adapter_parameters(model)) or model.state_dict().keys() - _tied(model)
    missing, unexpected = model.load_state_dict(saved_weights(model, folder), strict=False)
    missing = sorted(wanted.intersection(missing))
    assert not missing and not unexpected, f"{folder}: missing {missing[:3]}, unexpected {unexpected[:3]}"


def saved_weights(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """A checkpoint's weights by the names of the model's; of a model with adapters theirs, since all others are those it started with."""
    return lora.load_adapter(model, folder) if lora.adapter_parameters(model) else load_file(folder / WEIGHTS)


def restore(trainer, folder: Path) -> None:
    """Puts the optimizer's state and the schedule back; every process calls it, after DeepSpeed took the model over."""
    moments, progress = load_file(folder / MOMENTS), read_json(folder / PROGRESS)
    trainer.lr_scheduler.load_state_dict(progress["schedule"])
    for group, lr in zip(trainer.optimizer.param_groups, trainer.lr_scheduler.get_last_lr(), strict=True):
        group["lr"] = lr  # the schedule itself would set it after the next step only
    optimizer, named = _zero_optimizer(trainer), _trained(trainer)
    if optimizer is None:
        _restore_plain(trainer, moments, dict(named), progress["optimizer_step"])
        return
    keys = {name.rpartition("|")[2] for name in moments}
    _make_states(optimizer, keys, progress["optimizer_step"])
    weights = saved_weights(trainer.model, folder)
    for name, parameter in named:
        _set_part(parameter, weights[name].to(_device(trainer)), None)
        for key in sorted(keys):
            _set_part(parameter, moments[f"{name}|{key}"].to(_device(trainer)), key)


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


def restore_rank(trainer, folder: Path) -> None:
    """Puts this process' random state and meters back; with another number of processes, states that are no other's."""
    ranks = read_json(folder / RANKS)
    rank = trainer.args.process_index
    if len(ranks) == trainer.args.world_size:
        set_random_state(ranks[rank]["random"])
        trainer.set_meters(ranks[rank])
        return
    seed = trainer.args.seed + 1000 * trainer.state.global_step + rank
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    seen = {key: sum(one.get("seen", {}).get(key, 0) for one in ranks) / trainer.args.world_size for key in ranks[0].get("seen", {})}
    trainer.set_meters({**ranks[0], "loss": sum(one["loss"] for one in ranks) / len(ranks), "seen": seen, "means": {}})


def full_weights(trainer) -> dict[str, Tensor]:
    """All weights by name, on the CPU, in fp32; gathered from all processes, returned on the first one."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    model, first, tied = trainer.model, trainer.is_world_process_zero(), _tied(trainer.model)
    found = {}
    for name, tensor in (*model.named_parameters(), *_saved_buffers(model)):
        if name in tied:
            continue
        if trainer.frozen is not None and isinstance(tensor, nn.Parameter) and not tensor.requires_grad:
            value = trainer.frozen.get(name)  # every process comes here, the first has it
        elif tensor.requires_grad and _is_parted(tensor):
            value = safe_get_full_fp32_param(tensor)
        elif hasattr(tensor, "ds_id"):  # frozen, under ZeRO-3
            with deepspeed.zero.GatheredParameters([tensor]):
                value = tensor.data.clone() if first else None
        else:
            value = tensor.data
        if first:
            found[name] = value.detach().to("cpu").contiguous()
    return found


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


def random_state() -> dict:
    """The state of every generator of this process, as JSON."""
    kind, keys, *rest = np.random.get_state()
    state = {"python": random.getstate(), "numpy": [kind, keys.tolist(), *rest], "torch": torch.get_rng_state().tolist()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().tolist()
    return state


def set_random_state(state: dict) -> None:
    """The other way round."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))


def newest(folder: Path, warn) -> Path | None:
    """The newest checkpoint that verifies, as the first process sees it: where others see another disk they fail, and do not go on from another step.

    Every process calls it.
    """
    return from_first(newest_checkpoint(folder, warn) if rank_and_ranks()[0] == 0 else None)


def gathered(value) -> list:
    """The value of every process, in the order of ranks."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def from_first(value):
    """The value of the first process, on all; the others' is not read."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return value
    values = [value if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def _trained(trainer) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]


def _saved_buffers(model: nn.Module):
    saved = model.state_dict().keys()
    return [(name, buffer) for name, buffer in model.named_buffers() if name in saved]


def _tied(model: nn.Module) -> set[str]:
    """Names of weights that are another one's: written once."""
    return {"lm_head.weight"} if model.config.tie_word_embeddings else set()


def _is_parted(parameter: Tensor) -> bool:
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def _device(trainer) -> torch.device:
    return trainer.args.device


def _zero_optimizer(trainer):
    """DeepSpeed's optimizer where it keeps fp32 weights of its own, in parts; None where the model's are all there are."""
    return trainer.optimizer.optimizer if any(_is_parted(parameter) for _, parameter in _trained(trainer)) else None


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


def _optimizer_step(trainer) -> float:
    """How many updates the optimizer has made (skipped steps are none)."""
    optimizer = _inner_optimizer(trainer)
    counts = [float(state["step"]) for state in optimizer.state.values() if "step" in state]
    counts += [float(group["step"]) for group in optimizer.param_groups if "step" in group]
    return max(counts, default=0.0)


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


def clear_leftovers(folder: Path) -> None:
    """Removes what a killed run was writing or removing."""
    for partial in folder.glob(".step-*"):
        shutil.rmtree(partial, ignore_errors=True)
