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
from omnivision.errors import OmniError, ResumableError
from omnivision.runs import checkpoint_step, newest_checkpoint, read_json, remove, seal, sorted_checkpoints, verifies, write_json
from omnivision_train import lora
from omnivision_train.launch import rank_and_ranks
from omnivision_train.optimizer_state import full_moments, is_sharded, optimizer_step, restore_optimizer
from omnivision_train.ranks import from_first, gathered

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
                                            "optimizer_step": optimizer_step(trainer)})
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
            failure = (f"{error}", "Make room, then start") if isinstance(error, OSError) else (error.what if isinstance(error, OmniError) else f"{type(error).__name__}: {error}", "Start")
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
    progress = read_json(folder / PROGRESS)
    trainer.lr_scheduler.load_state_dict(progress["schedule"])
    for group, lr in zip(trainer.optimizer.param_groups, trainer.lr_scheduler.get_last_lr(), strict=True):
        group["lr"] = lr  # the schedule itself would set it after the next step only
    restore_optimizer(trainer, load_file(folder / MOMENTS), lambda: saved_weights(trainer.model, folder), progress["optimizer_step"])


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
        elif tensor.requires_grad and is_sharded(tensor):
            value = safe_get_full_fp32_param(tensor)
        elif hasattr(tensor, "ds_id"):  # frozen, under ZeRO-3
            with deepspeed.zero.GatheredParameters([tensor]):
                value = tensor.data.clone() if first else None
        else:
            value = tensor.data
        if first:
            found[name] = value.detach().to("cpu").contiguous()
    return found


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

    Raises:
        DataError, ResumableError: as `newest_checkpoint`, on all of them.
    """
    found, failure = None, None
    if rank_and_ranks()[0] == 0:
        try:
            found = newest_checkpoint(folder, warn)
        except OmniError as error:  # the other processes wait for word of it
            failure = (type(error), error.what, error.where, error.remedy)
    found, failure = from_first((found, failure))
    if failure:
        kind, *told = failure
        raise kind(*told)
    return found


def _saved_buffers(model: nn.Module):
    saved = model.state_dict().keys()
    return [(name, buffer) for name, buffer in model.named_buffers() if name in saved]


def _tied(model: nn.Module) -> set[str]:
    """Names of weights that are another one's: written once."""
    return {"lm_head.weight"} if model.config.tie_word_embeddings else set()


def clear_leftovers(folder: Path) -> None:
    """Removes what a killed run was writing or removing."""
    for partial in folder.glob(".step-*"):
        shutil.rmtree(partial, ignore_errors=True)
