"""What a teacher is asked and answers; the embedded world's oracle is one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from omnivision.data.pictures import Packed
from omnivision.data.rows import Row
from omnivision.errors import DataError
from omnivision.runs import read_json_lines

RIGHT, CORRECTED, UNMENDED = "right", "corrected", "unmended"


class Task(NamedTuple):
    """A model's answer to be looked at.

    Args:
        key: names it, the same in every run. picture: where it lies. reference: the row's own answer, "" if it has none.
        original: for a second look: what the model said, `answer` being its correction.
    """

    key: str
    row: Row
    picture: str | Packed
    question: str
    answer: str
    reference: str
    original: str = ""


class Verdict(NamedTuple):
    """What the teacher makes of it: right, corrected (with the text), unmended, or how asking failed."""

    kind: str
    text: str = ""
    wrong: tuple[str, ...] = ()  # the words that were false, where the teacher says so
    detail: str = ""


class Teacher(Protocol):
    """Corrects answers, in any order; a second look says whether a corrected answer is true."""

    name: str
    prompt: str  # hash of what it is told; "" for the oracle

    def correct(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Verdict]]:
        """One verdict a task."""

    def agrees(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Verdict]]:
        """About corrected answers: right, if the correction is true, the original was not, and nothing else was changed."""


class Oracle:
    """Knows what is true of every picture of an embedded world.

    Args:
        root: the world's folder. rows: those that will be asked about.

    Raises:
        DataError: the truth of a picture is not there.
    """

    name, prompt = "world oracle", ""

    def __init__(self, root: Path, rows: Iterable[Row]) -> None:
        self.truths = read_truths(root, [str(row.images[0]) for row in rows])

    def correct(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Verdict]]:
        from omnivision.world.oracle import correct

        for task in tasks:
            image = str(task.row.images[0])
            if image not in self.truths:
                raise DataError(f"The truth of {image} is not known", task.row.source, "Give the world that the data was built in.")
            fixed = correct(self.truths[image], task.question, task.answer, task.reference)
            if fixed is None or not fixed.answer.strip():
                yield task, Verdict(UNMENDED)
            elif fixed.answer == task.answer:
                yield task, Verdict(RIGHT)
            else:
                yield task, Verdict(CORRECTED, fixed.answer, tuple(fixed.wrong))

    def agrees(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Verdict]]:
        for task in tasks:
            ((_, verdict),) = self.correct([task._replace(answer=task.original)])
            yield task, Verdict(RIGHT if verdict.kind == CORRECTED and verdict.text == task.answer else UNMENDED)


def read_truths(world: Path, images: Iterable[str]) -> dict[str, object]:
    """The truth of pictures of a built world, by image path."""
    from omnivision.world.recipes import truth_from_row

    truths = {}
    for split in sorted({Path(image).parent.name for image in images}):
        file = world / "truth" / f"{split}.jsonl"
        if not file.is_file():
            raise DataError(f"The truth of the split `{split}` is missing", str(file), "The oracle knows the embedded world alone (`omnivision data world`): for other pictures give --teacher an endpoint's address or a model's folder.")
        for row in read_json_lines(file):
            truths[row["image"]] = truth_from_row(row)
    return truths
