"""The questions of a task, from the embedded world, from the real benchmark or from one's own file: whichever the data are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from omnivision.data.pictures import Packed
from omnivision.errors import ConfigError, DataError
from omnivision.runs import file_hash

from . import world
from .benchmarks import REAL, WORLD
from .own_actions import longest_answer, read_requests
from .prompts import Picture, Prompt
from .questions import hashes

PICTURES = ("first", "all")
WHOLE = {  # how many questions a benchmark has, as published
    "pope_random": (3000, 2910), "pope_popular": (3000,), "pope_adversarial": (3000,), "chartqa": (2500,), "mmvet": (218,), "mmmu": (900,),
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
        longest: tokens of its longest answer, where the benchmark's own bound may be too low.
    """

    benchmark: ModuleType
    rows: list[dict]
    data_hash: Any
    notes: dict[str, Any] | None
    remedy: str
    longest: int = 0

    @property
    def max_new_tokens(self) -> int:
        """The longest answer."""
        return max(self.benchmark.MAX_NEW_TOKENS, self.longest)


def load_task(task: str, data: str | Path, split: str | None = None, limit: int | None = None) -> TaskData:
    """Reads a task's questions.

    Args:
        task: a name in WORLD or REAL.
        data: the embedded world's folder; the benchmark's folder or data set; for actions also a file of one's own.
        split: of the embedded world, "eval" (where None) or "eval_held_out".
        limit: only the first so many.

    Raises:
        ConfigError: an unknown split, or one of what is not the embedded world.
        DataError: missing or broken files.
    """
    if task == "actions" and Path(data).is_file():
        return _own_actions(Path(data), split, limit)
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


def _own_actions(file: Path, split: str | None, limit: int | None) -> TaskData:
    if split:
        raise ConfigError(f"A file has no split `{split}`", "--split", "Leave it out: splits are the embedded world's.")
    rows = world.with_functions(read_requests(file, limit), file.parent)
    return TaskData(WORLD["actions"], rows, file_hash(file), None, f"Put the pictures below {file.parent}.", longest_answer(rows))


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
    return Prompt(data.benchmark.prompt(row), tuple(seen[one] for one in row["shown"]), data.max_new_tokens)
