"""What the recipes of all stages share: opening a run, the model, what trains, the data, the end."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from torch import nn

from omnivision.config_files import dump_config, read_yaml
from omnivision.constants import FUNCTION_FILE
from omnivision.data.preview import as_text, tokens_of
from omnivision.errors import ConfigError, ResumableError
from omnivision.hardware import avoid_attention_plans
from omnivision.memory import keep_freed_memory
from omnivision.model.configuration import OmniVisionConfig
from omnivision.runs import (HAND_OVER, RunLock, environment, file_hash, flush, flush_folder, read_hand_over, read_json, sorted_checkpoints,
                             stages_among, write_hand_over, write_json, write_text)
from omnivision_train import lora
from omnivision_train.attention import set_attention
from omnivision_train.checkpoint import PROGRESS
from omnivision_train.choices import crowded, threads
from omnivision_train.config import ADAPTER, FOLLOWS, MAY_CHANGE, TRAINS, StageConfig, new_shape
from omnivision_train.frozen_layers import hold_layers
from omnivision_train.last_layer import narrow_last_layer
from omnivision_train.launch import free_port, rank_and_ranks
from omnivision_train.lean_norm import set_norms
from omnivision_train.memory import check_memory, count_parts, device_memory, held_by_parts, on_meta
from omnivision_train.precision import resolved
from omnivision_train.run_data import MANIFEST, LeftOut

FEATURES = "grounding_features"  # in the run's folder, where no feature cache is asked for
PARTS = {"vision_tower": "model.vision_tower", "projector": "model.projector", "language_model": "model.language_model"}


@dataclass(frozen=True)
class Run:
    """An open run: its folder, whether this process is the one that writes, the rows it does without, and hashes of files that it has read."""

    stage: str
    folder: Path
    main: bool
    left_out: LeftOut
    hashes: dict[str, str] = field(default_factory=dict)


@contextmanager
def open_run(config: StageConfig, stage: str):
    """Locks <out>/<stage>, writes config and environment; removes nothing that a resumed run needs."""
    check_devices()
    single_process_defaults()
    folder, main = Path(config.out) / stage, rank_and_ranks()[0] == 0
    if (number := threads(config)) is not None:
        torch.set_num_threads(number)
    avoid_attention_plans()
    if not torch.cuda.is_available():
        keep_freed_memory()
    if not main:
        yield Run(stage, folder, main, LeftOut(folder, main, config.max_bad_fraction))
        return
    if not torch.cuda.is_available() and (said := crowded(torch.get_num_threads())):
        print(f"{stage}: {said}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder):
        if (folder / "final" / HAND_OVER).is_file():
            settle(folder)
            raise ConfigError("The stage has run in this folder and is finished", str(folder), "Give another `out`, or remove the folder.")
        check_same_batch(config, folder)
        record(config, folder)
        if not (folder / "checkpoints").is_dir():
            (folder / "metrics.jsonl").unlink(missing_ok=True)
        if not sorted_checkpoints(folder / "checkpoints"):
            (folder / MANIFEST).unlink(missing_ok=True)  # of an earlier start, which may have had other files
        yield Run(stage, folder, main, LeftOut(folder, main, config.max_bad_fraction))


def record(config: StageConfig, folder: Path) -> None:
    """Writes settings, start and environment of a run into its folder.

    Raises:
        ConfigError: as `check_same_run`.
    """
    check_same_run(config, folder)
    write_text(folder / "config.resolved.yaml", dump_config(config))
    write_json(folder / "begun.json", begun(config))
    write_json(folder / "env.json", {**environment(), "processes": rank_and_ranks()[1]})


def check_same_run(config: StageConfig, folder: Path) -> None:
    """A run that has checkpoints resumes with the settings it began with; only where and how fast it runs may change.

    Raises:
        ConfigError: names every changed key with both values.
    """
    if not sorted_checkpoints(folder / "checkpoints"):
        return
    began, now = read_yaml(folder / "config.resolved.yaml"), yaml.safe_load(dump_config(config))
    changed = [f"{key} was {began[key]!r} and is {value!r}" if key in began else f"{key} is newer than that run"
               for key, value in now.items() if key not in MAY_CHANGE and began.get(key) != value]
    if (folder / "begun.json").is_file() and read_json(folder / "begun.json") != begun(config):
        changed.append(f"{config.start} is another model than it was")
    if changed:
        raise ConfigError(f"The run in this folder began with other settings: {'; '.join(changed)}", str(folder),
                          "Give the old values to resume, or another `out` to begin a new run.")


def check_same_batch(config: StageConfig, folder: Path) -> None:
    """The place in the data is a number of steps, so a step stays as many rows.

    Raises:
        ConfigError: another global batch than the run began with, by the newest checkpoint that tells it.
    """
    now = config.batch_size * config.accumulation * rank_and_ranks()[1]
    for checkpoint in sorted_checkpoints(folder / "checkpoints"):
        with suppress(OSError, ValueError, KeyError):
            began = read_json(checkpoint / PROGRESS)["global_batch"]
            break
    else:
        return
    if began != now:
        raise ConfigError(f"The run in this folder began with {began} rows a step, now it would be {now}", str(folder),
                          f"Choose `batch_size` x `accumulation` x processes = {began}, or another `out`.")


def begun(config: StageConfig) -> dict:
    """What a run began from, beside its settings: the hash of the hand-over note of `start`."""
    note = Path(config.start) / HAND_OVER if config.start else None
    return {"start": file_hash(note) if note and note.is_file() else None}


def check_devices() -> None:
    """As many processes as devices on each machine.

    Raises:
        ConfigError: more processes than devices; or `accelerate launch` that started one process and no DeepSpeed.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available() and local >= torch.cuda.device_count():
        raise ConfigError(f"Process {local} of this machine has no device: there are {torch.cuda.device_count()}", "launcher",
                          f"Start at most {torch.cuda.device_count()} processes here.")
    if "WORLD_SIZE" not in os.environ and any(name.startswith("ACCELERATE_") for name in os.environ):
        raise ConfigError("`accelerate launch` has started a single process without DeepSpeed", "launcher",
                          "Use `omnivision train ... -- --num_gpus N`, torchrun, or accelerate with --multi_gpu.")


def single_process_defaults() -> None:
    """What DeepSpeed asks of the environment where no launcher has set it; a free port, so that runs do not meet."""
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    if not torch.cuda.is_available():
        import deepspeed.ops

        # plain gloo instead of an extension that is compiled at first use (needs g++, hangs on a stale lock)
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def open_model(config: StageConfig, stage: str):
    """(model, processor) as the stage trains them: those of `start`, checked, or new ones, with layers that compute no more than the stage reads."""
    model, processor = plain_model(config, stage)
    set_norms(model, config)
    narrow_last_layer(model, config)
    return model, processor


def plain_model(config: StageConfig, stage: str):
    """The same with transformers' own layers."""
    from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
    from omnivision.model.build import build_model
    from omnivision.model.checkpoints import load_whole

    torch.manual_seed(config.seed)
    if FOLLOWS[stage] and config.start is None:
        raise ConfigError(f"`{stage}` starts from a finished stage ({' or '.join(stages_among(FOLLOWS[stage]))}), and none is given", "start",
                          "Give start=<run>/<stage>/final.")
    if not FOLLOWS[stage] and config.start is not None:
        raise ConfigError(f"`{stage}` is the first stage and starts from `preset`, `vision` and `language`", f"start: {config.start}",
                          "Remove `start`.")
    shape = new_shape(config) if config.start is None else None
    if config.start is not None:
        read_hand_over(Path(config.start), FOLLOWS[stage], stage)
        check_projector(config)
    if (memory := device_memory()) is not None:
        known = shape or OmniVisionConfig.from_pretrained(config.start)
        _, ranks = rank_and_ranks()
        check_memory(held_by_parts(count_parts(on_meta(known, config), config), config, stage, resolved(config), ranks), config, stage, ranks, memory)
    if shape is not None:
        model, processor = build_model(shape, vision=config.vision, language=config.language)
    else:
        start = Path(config.start)
        model = load_whole(OmniVisionForConditionalGeneration, start, dtype=torch.float32, use_safetensors=True)
        processor = OmniVisionProcessor.from_pretrained(start)
    set_attention(model, config)
    return model, processor


def check_projector(config: StageConfig) -> None:
    """A later stage keeps the projector that it starts from.

    Raises:
        ConfigError: the config asks for another one.
    """
    known = OmniVisionConfig.from_pretrained(config.start)
    for key, found in (("projector", known.projector_layout), ("projector_gelu", known.projector_gelu)):
        asked = getattr(config, key)
        if asked not in (getattr(StageConfig, key), found):
            raise ConfigError(f"`{key}` is {asked}, and the model it starts from has {found}", f"{key}: {asked}",
                              f"Remove `{key}`: only `align` makes a new projector.")


def set_trainable(model: nn.Module, stage: str, extra: Iterable[str] = (), main: bool = True, frozen_layers: int = 0) -> dict[str, tuple[bool, int]]:
    """Freezes all but the stage's parts, or all but adapters where the model has them, and the layers that are held; prints and returns
    part -> (trains, parameters)."""
    adapters = lora.adapter_parameters(model)
    trained = () if adapters else (*TRAINS[stage], *extra)
    model.requires_grad_(False)
    table = {}
    for part, path in PARTS.items():
        module = model.get_submodule(path)
        module.requires_grad_(part in trained)
        if part == "vision_tower" and hasattr(module, "head"):
            module.head.requires_grad_(False)  # pools for another model: nothing flows through it here
        table[part] = (part in trained, sum(p.numel() for name, p in module.named_parameters() if not lora.is_adapter(name)))
    if adapters:
        table[ADAPTER] = (True, sum(p.requires_grad_(True).numel() for p in adapters.values()))
    if "language_model" in trained:
        model.lm_head.requires_grad_(True)  # where it is not tied
    if frozen_layers:
        names = hold_layers(model, frozen_layers)
        held = sum(p.numel() for name, p in model.named_parameters() if name in names and not lora.is_adapter(name))
        table["projector"] = (False, table["projector"][1])
        table["language_model"] = (table["language_model"][0], table["language_model"][1] - held)
        table["frozen_layers"] = (False, held)
    if main:
        for part, (trains, count) in table.items():
            print(f"{stage}: {part:<15} {count:>13,} parameters  {'trains' if trains else 'frozen'}", file=sys.stderr)
    return table


def check_vision(config: StageConfig) -> bool:
    """Whether the vision tower trains.

    Raises:
        ConfigError: it is to train on features that were computed before.
    """
    trains = getattr(config, "vision_lr", None) is not None
    if trains and config.feature_cache:
        raise ConfigError("The vision tower is to train, and its features are cached", f"feature_cache: {config.feature_cache}",
                          "Remove `feature_cache`, or leave `vision_lr` empty.")
    return trains


def show_sample(samples, processor, run: Run) -> None:
    """One decoded sample with its label mask, as `omnivision data preview` shows it."""
    if not run.main:
        return
    colour = sys.stderr.isatty()
    text = as_text(tokens_of(processor.tokenizer, samples[0]), processor.tokenizer, colour)
    print(f"{run.stage}: first sample (supervised: {'green' if colour else 'in [[ ]]'})\n{text}", file=sys.stderr)


def finish(run: Run, config: StageConfig, processor, save) -> Path:
    """Writes final/ aside with its hand-over note, then names it; returns the folder.

    Args:
        save: called with a folder on every process; writes the weights there (a trainer's save_model gathers shards).

    Raises:
        ResumableError: no room for it; the last checkpoint is whole, so that the next start only writes this.
    """
    final, partial = run.folder / "final", run.folder / "final.partial"
    if run.main:
        shutil.rmtree(partial, ignore_errors=True)
    try:
        save(str(partial))
        if run.main:
            _seal_final(run, config, processor, partial, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ResumableError(f"The result could not be written: {error}", str(final), "Make room, then start the same command again.") from error
    if run.main:
        settle(run.folder)
    return final


def settle(folder: Path) -> None:
    """What is left to do once final/ has its name: point to it, and remove what only a resumed run needs. Doing it twice does no harm."""
    write_json(folder / "latest", {"checkpoint": "final"})
    for name in ("checkpoints", FEATURES):
        shutil.rmtree(folder / name, ignore_errors=True)


def _seal_final(run: Run, config: StageConfig, processor, partial: Path, final: Path) -> None:
    processor.save_pretrained(partial)
    (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle; config.resolved.yaml says the same
    table = Path(config.start or "") / FUNCTION_FILE
    if config.start and table.is_file() and not (partial / FUNCTION_FILE).is_file():
        shutil.copy(table, partial / FUNCTION_FILE)
    parent = file_hash(Path(config.start) / HAND_OVER) if config.start else None
    flush(partial)
    write_hand_over(partial, run.stage, parent)
    os.replace(partial, final)  # open_run refused a folder whose final/ is there
    flush_folder(run.folder)
