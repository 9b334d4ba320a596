"""What the model itself says about the pictures."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from omnivision.data.image import read_image
from omnivision.data.pictures import Packed, locate
from omnivision.data.rows import Row
from omnivision.data.sources import source_hash
from omnivision.errors import ConfigError, DataError
from omnivision.pairs.journal import Journal, digest
from omnivision.pairs.teacher import Task
from omnivision.runs import file_hash

CUT = "answer cut"  # in the report
CHUNK = 64  # answers between two writes: what a kill may cost


class Asked(NamedTuple):
    """What is asked of the model, and how many rows are passed over, by reason."""

    questions: list[tuple[Row, str, str]]  # row, its first question, the reference answer
    passed_over: dict[str, int]


def questions_of(rows: list[Row]) -> Asked:
    """The first question of every row with one picture that is a file.

    Raises:
        DataError: there are none.
    """
    found, passed_over = [], Counter()
    for row in rows:
        if reason := _reason(row):
            passed_over[reason] += 1
        elif row.turns:
            found.append((row, row.turns[0]["text"], row.turns[1]["text"]))
        else:
            found.append((row, row.prompt, row.chosen))
    if not found:
        raise DataError("No row asks a question about one picture that is a file", rows[0].source, "Give conversations with one picture each.")
    return Asked(found, dict(passed_over))


def _reason(row: Row) -> str:
    """Why a row is passed over; "" where it is not. Pairs have no system text, and the model was trained to answer behind it."""
    if row.request:
        return "request"
    if len(row.images) != 1:
        return "several pictures" if row.images else "no picture"
    if any(turn["role"] == "system" for turn in row.turns):
        return "system text"
    return "picture inside the data" if isinstance(row.images[0], Packed) else ""


def model_hash(folder: Path) -> str:
    """What identifies a checkpoint: its config and weights."""
    return "".join(file_hash(file)[:16] for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]))


def sample_answers(options, asked: Asked, work: Path) -> list[Task]:
    """The model's answers as tasks for a teacher; those that an earlier run gave are taken from its journal.

    Answers that `--max-new-tokens` cut are none: their rest may be right or wrong. `asked.passed_over` counts them.

    Args:
        options: main.parser()'s. asked: of options.data. work: folder of the journals.

    Raises:
        ConfigError: no model in the folder. ImageError: a picture that cannot be read.
    """
    folder, root = Path(options.model), options.image_root
    if not (folder / "config.json").is_file():
        raise ConfigError("There is no model in the folder", str(folder), "Give the final/ folder of a stage.")
    settings = {"data": source_hash(options.data), "model": model_hash(folder), "temperature": options.temperature, "seed": options.seed,
                "max_new_tokens": options.max_new_tokens, "cut": None}
    pictures = [locate(row.images[0], root) for row, _, _ in asked.questions]
    digests = {picture: digest(read_image(picture)) for picture in dict.fromkeys(pictures)}  # another picture of the same name is asked about anew
    tasks = [Task(f"{number}/{sample}", row, picture, question, "", reference)
             for number, (picture, (row, question, reference)) in enumerate(zip(pictures, asked.questions, strict=True))
             for sample in range(options.samples)]
    with Journal(work, "answers", settings) as journal:
        keys = [f"{task.key}/{digests[task.picture]}" for task in tasks]
        missing = [(key, task) for key, task in zip(keys, tasks, strict=True) if key not in journal.done]
        speaker = _Speaker(folder, options) if missing else None
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK]
            journal.add(dict(zip([key for key, _ in part], speaker.answers([task for _, task in part]), strict=True)))
            print(f"answers: {len(keys) - len(missing) + start + len(part)}/{len(keys)}", file=sys.stderr, flush=True)
        answered: dict[tuple[str, str], Task] = {}
        for key, task in zip(keys, tasks, strict=True):
            number, answer = task.key.partition("/")[0], journal.done[key]
            if answer is None:
                asked.passed_over[CUT] = asked.passed_over.get(CUT, 0) + 1
                continue
            answered.setdefault((number, answer), task._replace(answer=answer))  # one answer sampled twice is one task
    return list(answered.values())


class _Speaker:
    """The model, loaded when something is to be said."""

    def __init__(self, folder: Path, options) -> None:
        from omnivision.data.features import FeatureCache
        from omnivision.hardware import fast_precision
        from omnivision.model.checkpoints import load_checkpoint

        self.model, self.processor = load_checkpoint(folder)
        self.cache = None
        if options.feature_cache:
            self.cache = FeatureCache(options.feature_cache, self.model, self.processor, fast_precision(), options.cache_gib)
        self.options = options

    def answers(self, tasks: list[Task]) -> list[str | None]:
        """One a task, None where it was cut; the seed of a sampled answer is its key's, whatever stands beside it."""
        from omnivision.generation import generate_whole

        images: list[Any] = [task.picture for task in tasks]
        if self.cache is not None:
            unique = list(dict.fromkeys(images))
            known = dict(zip(unique, self.cache.get(unique).float(), strict=True))
            images = [known[path] for path in images]
        more = {}
        if self.options.temperature > 0:
            more = {"temperature": self.options.temperature, "seeds": [f"{self.options.seed}/{task.key}" for task in tasks]}
        return generate_whole(self.model, self.processor, [task.question for task in tasks], images, self.options.max_new_tokens, **more)
