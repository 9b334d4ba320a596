"""Runs benchmarks on a model through lm-eval and writes their results."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import results
from .benchmarks import MODULES, POPE_SPLITS, expand_world
from .pope_splits import mean_of_pope
from .world import data_hash, question_file

TASK_FOLDER = Path(__file__).resolve().parent / "tasks"


def evaluate(model: Any, data_dir: str | Path, tasks: list[str] | tuple[str, ...], out_dir: str | Path | None = None,
             limit: int | None = None, batch_size: int = 32, blank: bool = False, features: Any = None,
             split: str = "eval", functions: Any = None, on_batch: Callable[[int], None] | None = None) -> dict[str, dict]:
    """Answers and scores benchmarks.

    Args:
        model: a checkpoint folder, a (model, processor) pair, or an `OmniVisionLM`.
        data_dir: the embedded world's folder.
        tasks: pope (its three splits), pope_random, ..., chartqa, open, actions.
        out_dir: gets <task>/{samples.jsonl,results.json}; `_held_out` and `_blind` are added to the
            folder's name so that the three kinds of run never overwrite each other. None writes nothing.
        limit: only the first so many questions of each task.
        batch_size: questions at a time.
        blank: show a grey picture instead of every image (the blind row).
        features: a feature cache; None computes features as needed.
        split: "eval" (seen styles) or "eval_held_out".
        on_batch: called with the number of answers that each batch finished (progress).
        functions: FunctionSet of a model given in memory; by default functions.json of the checkpoint or the data.

    Returns:
        Task -> its results.json; with all three POPE splits also "pope", whose score is the mean F1.

    Raises:
        ConfigError: unknown task or split, or no checkpoint.
        DataError: a missing or broken question file or image.
    """
    tasks = expand_world(tasks)
    for task in tasks:
        question_file(data_dir, task, split)  # before a model is loaded
    lm = _as_lm(model, data_dir, batch_size, blank, features, functions, on_batch)
    logged = _run_harness(lm, data_dir, tasks, split, limit)
    suffix = ("_held_out" if split == "eval_held_out" else "") + ("_blind" if lm.blank else "")
    found, samples = {}, {}
    for task in tasks:
        benchmark = MODULES[task]
        entries = sorted(logged[f"world_{task}"], key=lambda entry: entry["doc_id"])
        samples[task] = results.samples_of(benchmark, [e["doc"] for e in entries], [e["resps"][0][0] for e in entries])
        about = _about(lm, data_dir, task, split, limit, entries[0]["arguments"][0][1])
        found[task] = results.results_of(task, benchmark, samples[task], about)
        if out_dir:
            results.write(Path(out_dir) / (task + suffix), samples[task], found[task])
    if set(POPE_SPLITS) <= set(tasks):
        found["pope"] = mean_of_pope(found, samples)
        if out_dir:
            results.write(Path(out_dir) / ("pope" + suffix), [], found["pope"])
    return found


def _as_lm(model: Any, data_dir, batch_size: int, blank: bool, features: Any, functions: Any, on_batch: Any):
    from .lm import OmniVisionLM, load_functions

    if isinstance(model, OmniVisionLM):
        return model
    if isinstance(model, str | Path):
        return OmniVisionLM(model, batch_size=batch_size, blank=blank, features=features, functions=functions, on_batch=on_batch)
    network, processor = model
    functions = functions or load_functions(data_dir, processor.tokenizer)
    return OmniVisionLM(model=network, processor=processor, functions=functions, batch_size=batch_size, blank=blank,
                        features=features, on_batch=on_batch)


def _run_harness(lm, data_dir, tasks: list[str], split: str, limit: int | None) -> dict[str, list[dict]]:
    """lm-eval's logged samples per task.

    `lm_eval.evaluate` is the engine inside `simple_evaluate`; the latter also reseeds every random generator and
    runs pip and nvidia-smi for its report (2.4 s a call), which a stage that goes on training must not pay.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import lm_eval
    from lm_eval.tasks import TaskManager

    metadata = {"data_dir": str(data_dir), "split": split, "images": "path"}
    with _quiet_harness():
        # its own 13,000 task files are left out: indexing them takes ten seconds
        manager = TaskManager(include_path=str(TASK_FOLDER), include_defaults=False, metadata=metadata)
        loaded = manager.load([f"world_{task}" for task in tasks])
        found = lm_eval.evaluate(lm, loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    return found["samples"]


@contextlib.contextmanager
def _quiet_harness() -> Iterator[None]:
    """No progress bar and no hint from lm-eval for each task: a caller may be drawing its own bar on stderr."""
    from lm_eval.api import task

    logger, bar = logging.getLogger("lm_eval"), task.tqdm
    level = logger.level
    logger.setLevel(logging.ERROR)
    task.tqdm = lambda rows, **_: rows
    try:
        yield
    finally:
        task.tqdm = bar
        logger.setLevel(level)


def _about(lm, data_dir, task: str, split: str, limit: int | None, generation: dict) -> dict:
    from omnivision import __version__

    name = getattr(lm.model.config, "_name_or_path", "") or type(lm.model).__name__
    settings = {"split": split, "blank": lm.blank, "limit": limit, "batch_size": lm.batch_size, **generation}
    return {"model": name, "data_hash": data_hash(data_dir, task, split), "settings": settings, "version": __version__}
