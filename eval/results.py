"""Writes what an evaluation found: samples.jsonl (one line a question) and results.json, scores in 0-100."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from omnivision.errors import ConfigError, DataError, is_disk_full
from omnivision.runs import RunLock, read_json, write_json, write_text

from .answer import Missing
from .bootstrap import standard_error, sum_by_image

MISSING_LIMIT = 0.01  # above this share of missing answers or judgements there is no headline
SAVED = "predictions_sha256"  # of the settings: which saved answers were scored
BY = ("language", "kind", "source", "capability", "capability_set", "discipline", "subject", "question_type", "modality", "grade")
KEPT = ("question_id", "unit", "image", "shown_image", "text", "label", "calls", "parsed", "fallback", *BY)  # of a question row, into its sample


def refused(judged: float, asked: float) -> bool:
    """Whether too few of the questions have a judgement for a headline."""
    return asked == 0 or (asked - judged) / asked > MISSING_LIMIT


def samples_of(benchmark: ModuleType, rows: list[dict], answers: list[str | None]) -> list[dict]:
    """One record a question: the row, the answer (with ids where known; None or Missing where there is none), and the grades of every variant."""
    samples = []
    for row, answer in zip(rows, answers, strict=True):
        sample = {key: row[key] for key in KEPT if key in row}
        if answer is None or isinstance(answer, Missing):  # graded by nobody: neither wrong nor right
            sample |= {"answer": None} if answer is None else {"answer": None, "missing": str(answer)}
            samples.append(sample | {name: {"said": None, "score": None, "valid": False} for name in benchmark.VARIANTS})
            continue
        sample["answer"] = str(answer)
        if getattr(answer, "ids", None):
            sample["ids"] = list(answer.ids)
        if getattr(answer, "calls", None) is not None:
            sample |= {"raw": answer.raw, "fault": answer.fault} | ({} if answer.margin is None else {"margin": answer.margin})
        samples.append(sample | benchmark.grade(row, answer))
    return samples


def counts_of(benchmark: ModuleType, samples: list[dict], variant: str) -> tuple[list[str], np.ndarray]:
    """The distinct images (or questions, where the sample names its `unit`) and their summed counts for one variant.

    Questions without an answer are left out.

    Args:
        benchmark: its module.
        samples: from `samples_of`, or from a file of them.
        variant: one of its variants.
    """
    samples = [s for s in samples if s.get("answer", "") is not None]
    return sum_by_image([s.get("unit", s["image"]) for s in samples], [benchmark.columns(s, s[variant]) for s in samples])


def summary(benchmark: ModuleType, samples: list[dict], variant: str) -> dict:
    """Score, standard error, valid rate, missing and the benchmark's figures for one variant.

    Returns:
        `n` counts the missing; `score` is over the others, and None where more than 1 % are missing.
    """
    _, counts_IK = counts_of(benchmark, samples, variant)
    missing = sum(s[variant]["score"] is None for s in samples)
    if not len(counts_IK):
        return {"n": len(samples), "missing": missing, "valid_rate": None, "score": None, "stderr": None, "metrics": {}}
    figures = benchmark.metrics(counts_IK.sum(0))
    score = float(benchmark.headline(counts_IK.sum(0, keepdims=True))[0])
    return {
        "n": len(samples), "missing": missing, "valid_rate": figures["valid_rate"],
        "score": None if missing > MISSING_LIMIT * len(samples) else score,
        "stderr": standard_error(counts_IK, benchmark.headline) if missing < len(samples) else None, "metrics": figures,
    }


def read(file: Path) -> dict:
    """What a results.json holds.

    Raises:
        DataError: it is broken, or something else.
    """
    again = "Run the evaluation again."
    try:
        found = read_json(file)
    except (OSError, ValueError) as error:
        raise DataError(f"The results cannot be read ({error})", str(file), again) from error
    wanted = ("task", "n", "score", "stderr")
    if not isinstance(found, dict) or (lacking := [key for key in wanted if key not in found]):
        raise DataError("The results are no JSON object" if not isinstance(found, dict) else f"The results lack {', '.join(lacking)}", str(file), again)
    return found


def results_of(task: str, benchmark: ModuleType, samples: list[dict], about: dict) -> dict:
    """The whole results.json of a task; the first variant is the headline, the others stand under `variants`.

    Args:
        task: its name.
        benchmark: its module.
        samples: from `samples_of`.
        about: `model`, `model_hash`, `data_hash`, `settings`, `version`.
    """
    first, keys = benchmark.VARIANTS[0], [key for key in BY if any(key in s for s in samples)]
    variants = {
        variant: summary(benchmark, samples, variant) | {"by": {key: _by(benchmark, samples, variant, key) for key in keys}}
        for variant in benchmark.VARIANTS
    }
    return {
        "task": task, "variant": first, **variants[first],
        "variants": {name: found for name, found in variants.items() if name != first}, **about,
    }


@contextlib.contextmanager
def claimed(out: Path, about: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Holds the folder of the results: it is made, or what lies there is of the same model, questions and settings, and no other process writes there.

    Args:
        out: the folder.
        about: name of a task's folder -> `model`, `model_hash` (one that is known says more than the name), `data_hash` and `settings` of what is to
            be written there. Saved answers settle nothing but `predictions_sha256`, and may be graded over the results of the run that gave them.

    Raises:
        ConfigError: it cannot be made, is in use, or holds results of another model, of other questions or of other settings. DataError: broken results.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(RunLock(out))
        except OSError as error:
            if is_disk_full(error):
                raise
            raise ConfigError(f"The folder cannot be made or written: {error.strerror}", str(out), "Give another --out.") from error
        _refuse_other_results(out, about)
        yield


def _refuse_other_results(out: Path, about: dict[str, dict[str, Any]]) -> None:
    """Raises and arguments as `claimed`."""
    model = next(iter(about.values()))
    for file in sorted(out.glob("*/results.json")):
        there, mine = read(file), about.get(file.parent.name)
        differ, named_alike, hashes = [], there.get("model") == model["model"], [one.get("model_hash") for one in (there, model)]
        same_answers = bool(mine) and mine["settings"].get(SAVED) == there.get("settings", {}).get(SAVED, "")  # whatever they are called
        same_type = there.get("settings", {}).get("dtype") == model["settings"].get("dtype")  # an export has several, under one hash
        if not (hashes[0] == hashes[1] and (named_alike or same_type) if all(hashes) else named_alike or same_answers):
            differ.append("model in the same place" if named_alike else "model")
        if mine:
            differ += ["data_hash"] if there.get("data_hash") != mine["data_hash"] else []
            differ += _other_settings(there.get("settings", {}), mine["settings"])
        if differ:
            raise ConfigError(f"The folder holds results of another run, with another {' and '.join(differ)}", str(file), "Give another --out, or remove it.")


def _other_settings(there: dict, mine: dict) -> list[str]:
    if SAVED in mine:
        return ["file of saved answers"] if there.get(SAVED, mine[SAVED]) != mine[SAVED] else []
    return ["settings"] if {**there, "batch_size": mine["batch_size"]} != mine else []  # which changes no answer


def write(folder: Path, samples: list[dict], results: dict) -> None:
    """Both files; results.json last and whole, so that its presence means the evaluation is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").unlink(missing_ok=True)
    write_text(folder / "samples.jsonl", "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples))
    write_json(folder / "results.json", results)


def _by(benchmark: ModuleType, samples: list[dict], variant: str, key: str) -> dict:
    """The summary of each value of a key; where a question has several (capabilities), it counts for each."""
    groups = defaultdict(list)
    for sample in samples:
        value = sample.get(key)
        for name in value if isinstance(value, list) else [value]:
            groups[str(name)].append(sample)
    parts = {name: summary(benchmark, group, variant) for name, group in sorted(groups.items())}
    return {name: {key: part[key] for key in ("n", "missing", "score", "stderr", "metrics")} for name, part in parts.items()}
