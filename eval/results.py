"""Writes what an evaluation found: samples.jsonl (one line a question) and results.json, scores in 0-100."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np

from .bootstrap import standard_error, sum_by_image

KEPT = ("question_id", "image", "text", "label", "calls", "language", "kind")  # of a question row, into its sample
BY = ("language", "kind")


def samples_of(benchmark: ModuleType, rows: list[dict], answers: list[str]) -> list[dict]:
    """One record a question: the row, the answer (with ids where known), and the grades of every variant."""
    samples = []
    for row, answer in zip(rows, answers, strict=True):
        sample = {key: row[key] for key in KEPT if key in row} | {"answer": str(answer)}
        if getattr(answer, "ids", None):
            sample["ids"] = list(answer.ids)
        if getattr(answer, "calls", None) is not None:
            sample |= {"raw": answer.raw, "fault": answer.fault}
        samples.append(sample | benchmark.grade(row, answer))
    return samples


def counts_of(benchmark: ModuleType, samples: list[dict], variant: str) -> tuple[list[str], np.ndarray]:
    """The distinct images and their summed counts for one variant, from samples (also from a file of them)."""
    return sum_by_image([s["image"] for s in samples], [benchmark.columns(s, s[variant]) for s in samples])


def summary(benchmark: ModuleType, samples: list[dict], variant: str) -> dict:
    """Score, standard error, valid rate, missing and the benchmark's figures for one variant.

    Returns:
        `score` is None where the benchmark refuses a headline (too many judgements missing).
    """
    _, counts_IK = counts_of(benchmark, samples, variant)
    figures = benchmark.metrics(counts_IK.sum(0))
    score = float(benchmark.headline(counts_IK.sum(0, keepdims=True))[0])
    missing = sum(s[variant]["score"] is None for s in samples)
    refused = figures.get(benchmark.METRICS[0], score) is None
    return {
        "n": len(samples), "missing": missing, "valid_rate": figures["valid_rate"],
        "score": None if refused else score, "stderr": standard_error(counts_IK, benchmark.headline), "metrics": figures,
    }


def results_of(task: str, benchmark: ModuleType, samples: list[dict], about: dict) -> dict:
    """The whole results.json of a task; the first variant is the headline, the others stand under `variants`.

    Args:
        task: its name.
        benchmark: its module.
        samples: from `samples_of`.
        about: `model`, `data_hash`, `settings`, `version`.
    """
    first = benchmark.VARIANTS[0]
    variants = {variant: summary(benchmark, samples, variant) for variant in benchmark.VARIANTS}
    return {
        "task": task, "variant": first, **variants[first],
        "variants": {name: found for name, found in variants.items() if name != first},
        "by": {key: _by(benchmark, samples, first, key) for key in BY if any(key in s for s in samples)},
        **about,
    }


def write(folder: Path, samples: list[dict], results: dict) -> None:
    """Both files; results.json last and whole, so that its presence means the evaluation is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    part = folder / "results.json.part"
    part.write_text(json.dumps(results, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / "results.json")


def _by(benchmark: ModuleType, samples: list[dict], variant: str, key: str) -> dict:
    groups = defaultdict(list)
    for sample in samples:
        groups[str(sample.get(key))].append(sample)
    found = {}
    for name, group in sorted(groups.items()):
        part = summary(benchmark, group, variant)
        found[name] = {k: part[k] for k in ("n", "score", "stderr", "metrics")}
    return found
