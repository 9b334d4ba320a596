"""What every lm-eval task of ours needs, made from a benchmark's module: questions, text, pictures, results, aggregations.

A task's utils.py binds these to its benchmark, so the scores of lm-eval's own table come from the very functions
that write results.json.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from omnivision.data.image import open_image
from omnivision.errors import ConfigError

from . import mmmu, mmvet, results
from .answer import Answer
from .grading import grade_answers
from .judge import add_judge_arguments
from .task_data import chosen, load_task

PLACEHOLDER = "<image>"  # where lm-eval's models put the picture
TOGETHER = (mmmu, mmvet)  # graded when all answers are there: random options in their order, a judge asked once


class Rows(list):
    """A list of rows with the one attribute that lm-eval wants of a datasets.Dataset."""

    @property
    def features(self) -> dict:
        return self[0]


def load(questions: str, data_dir: str | None = None, split: str | None = None, images: str = "pil", pictures: str = "first",
         **others) -> dict[str, Rows]:
    """lm-eval's `custom_dataset`: it calls this with the task's dataset_kwargs and the run's metadata.

    Args:
        questions: the task (from the task's YAML).
        data_dir, split, images, pictures: from `--metadata '{"data_dir": "...", "split": "eval"}'`; images "pil" gives
            lm-eval's models open pictures, "path" leaves files to a model that reads them itself; pictures "first" or "all".
        others: of the metadata; what begins with "judge" is MM-Vet's judge.

    Returns:
        {"test": rows}.

    Raises:
        ConfigError: no data folder was named.
    """
    if not data_dir:
        raise ConfigError("No data folder was given", "lm-eval --metadata",
                          """Add --metadata '{"data_dir": "<the folder of the questions>"}'.""")
    found, judge = load_task(questions, data_dir, split), _judge(others)
    rows = Rows(found.rows)
    for row in rows:
        row |= {"shown": chosen(row["pictures"], pictures), "by_path": images == "path", "judge": judge, "longest": found.longest}
    return {"test": rows}


def doc_to_image(row: dict) -> list:
    """The row's pictures: where they lie, for a model that reads them itself; else open RGB images."""
    return row["shown"] if row["by_path"] else [_picture(one) for one in row["shown"]]


@functools.lru_cache(maxsize=1024)  # six POPE questions share a picture; 1,024 tiny ones are 140 MB
def _picture(source) -> Image.Image:
    picture = open_image(source)
    picture.filename = str(source)
    return picture


def doc_to_text(benchmark: ModuleType) -> Callable[[dict], str]:
    """The prompt with the places of the pictures in front."""
    return lambda row: PLACEHOLDER * len(row["shown"]) + benchmark.prompt(row)


def doc_to_target(row: dict) -> str | list:
    """The label; calls as JSON."""
    return row["label"] if "label" in row else json.dumps(row["calls"], ensure_ascii=False)


def process_results(benchmark: ModuleType) -> Callable[[dict, list], dict]:
    """What every metric carries of a question: its counts, or (where grading wants all answers together) question and answer."""

    def process(row: dict, said: list) -> dict:
        answer = said[0] if isinstance(said[0], Answer) else said[0].strip()
        kept = (row, answer) if benchmark in TOGETHER else benchmark.columns(row, benchmark.grade(row, answer)[benchmark.VARIANTS[0]])
        return dict.fromkeys(benchmark.METRICS, kept)

    return process


def aggregation(benchmark: ModuleType, metric: str) -> Callable[[list], float | None]:
    """One figure of `benchmark.metrics`, in 0-100, over all questions."""
    return lambda kept: _figures(benchmark, kept)[metric]


def _figures(benchmark: ModuleType, kept: list) -> dict[str, float | None]:
    if benchmark not in TOGETHER:
        return benchmark.metrics(np.sum(np.asarray(kept, dtype=float), axis=0))
    rows, answers = [row for row, _ in kept], [answer for _, answer in kept]
    samples, _ = grade_answers(benchmark, rows, answers, *rows[0]["judge"])
    return results.summary(benchmark, samples, benchmark.VARIANTS[0])["metrics"]


def _judge(metadata: dict) -> tuple[argparse.Namespace, Path | None]:
    """The judge that the metadata name as `omnivision eval` does, {"judge": ..., "judge_model": ...}, and `judge_folder` for its ledger.

    Raises:
        ConfigError: a judge without a folder: each metric would ask it again.
    """
    words = [word for name, value in metadata.items() if name.startswith("judge") and name != "judge_folder"
             for word in (f"--{name.replace('_', '-')}", str(value))]
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_judge_arguments(parser)
    options, folder = parser.parse_args(words), metadata.get("judge_folder")
    if options.judge and not folder:
        raise ConfigError("The judge has no folder for its ledger", "lm-eval --metadata", 'Add "judge_folder": "<a folder>".')
    return options, folder and Path(folder)
