"""A stage's run: its folder, locked and recorded, what it may resume with, and its result."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError

from omnivision.config_files import dump_config, read_yaml
from omnivision.constants import FUNCTION_FILE
from omnivision.data.preview import as_text, tokens_of
from omnivision.data.room import make_folder
from omnivision.errors import ConfigError, ResumableError
from omnivision.hardware import avoid_attention_plans
from omnivision.memory import keep_freed_memory
from omnivision.runs import (HAND_OVER, RunLock, environment, file_hash, flush, flush_folder, read_json, sorted_checkpoints, write_hand_over,
                             write_json, write_text)
from omnivision_train.checkpoint import PROGRESS
from omnivision_train.choices import crowded, threads
from omnivision_train.config import MAY_CHANGE, StageConfig
from omnivision_train.launch import free_port, rank_and_ranks
from omnivision_train.run_data import MANIFEST, LeftOut

FEATURES = "grounding_features"  # in the run's folder, where no feature cache is asked for


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
    make_folder(folder, "run")
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
