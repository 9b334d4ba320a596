"""The questions of a task, from the embedded world or from the real benchmark: whichever the data folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from omnivision.data.pictures import Packed
from omnivision.errors import ConfigError, DataError

from . import world
from .benchmarks import REAL, WORLD
from .prompts import Picture, Prompt
from .questions import hashes

PICTURES = ("first", "all")
WHOLE = {  # how many questions a benchmark has, as published
    **dict.fromkeys(("pope_random", "pope_popular", "pope_adversarial"), (3000, 2910)), "chartqa": (2500,), "mmvet": (218,), "mmmu": (900,),
    "scienceqa": (4241,), "scienceqa_img": (2017,), "clinc150": (5500,),
}
WHERE = {  # the pictures of a benchmark, for whoever lacks them
    "pope": "Put COCO's val2014 pictures into val2014/.", "chartqa": "Put the charts into test/png/.", "mmvet": "Put the pictures into images/.",
    "mmmu": "Put the hub's <Subject>/validation-*.parquet there.", "scienceqa": "Put the pictures into images/test/<id>/.",
    "clinc150": "Copy data_full.json again.",
}


class TaskData(NamedTuple):
    """One task's questions.

    Attributes:
        benchmark: its module. rows: with `pictures`, the sources of what is shown.
        data_hash: of the question files. notes: to be said beside the score; None for the embedded world.
        remedy: where its pictures belong.
    """

    benchmark: ModuleType
    rows: list[dict]
    data_hash: Any
    notes: dict[str, Any] | None
    remedy: str


def load_task(task: str, data: str | Path, split: str | None = None, limit: int | None = None) -> TaskData:
    """Reads a task's questions.

    Args:
        task: a name in WORLD or REAL.
        data: the embedded world's folder; or the benchmark's folder or data set.
        split: of the embedded world, "eval" (where None) or "eval_held_out".
        limit: only the first so many.

    Raises:
        ConfigError: an unknown split, or one of a real benchmark.
        DataError: missing or broken files.
    """
    if task not in REAL or world.is_world(data):
        split = split or world.SPLITS[0]
        rows = world.read_rows(data, task, split, limit)
        return TaskData(WORLD[task], rows, world.data_hash(data, task, split), None, "Build the embedded world again.")
    if split:
        raise ConfigError(f"The real benchmark has no split `{split}`", "--split", "Leave it out: splits are the embedded world's.")
    benchmark = REAL[task]
    questions = benchmark.load(Path(data), task)
    rows = questions.rows[:limit]
    for row in rows:
        row.setdefault("pictures", [row["image_file"]] if row.get("image_file") else [])
    if lacking := [row["question_id"] for row in rows if not row["text"]]:
        raise DataError(f"The text of {len(lacking)} questions of {task} is not there, {lacking[0]} for example", str(data), WHERE[task.split("_")[0]])
    return TaskData(benchmark, rows, hashes(questions.files), questions.notes | part_of(task, len(rows)), WHERE[task.split("_")[0]])


def part_of(task: str, asked: int) -> dict[str, str]:
    """The note that only so many questions of a real benchmark were asked; empty for all of them."""
    return {} if asked in WHOLE[task] else {"part": f"{asked:,} of {WHOLE[task][0]:,} questions: not comparable with published scores"}


def chosen(pictures: Sequence[str | Packed], policy: str) -> list[str | Packed]:
    """The pictures that are shown: "first" or "all" of several."""
    return list(pictures[:1] if policy == "first" else pictures)


def prompt_of(data: TaskData, row: dict, seen: dict[str | Packed, Picture | DataError]) -> Prompt:
    """What a model is asked.

    Args:
        row: with the pictures that are `shown`. seen: from `look_at`; each of them can be.
    """
    return Prompt(data.benchmark.prompt(row), tuple(seen[one] for one in row["shown"]), data.benchmark.MAX_NEW_TOKENS)
