"""What the model itself says about the pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omnivision.data.pictures import Packed, locate
from omnivision.data.rows import Row
from omnivision.data.sources import source_hash
from omnivision.errors import ConfigError, DataError
from omnivision.pairs.journal import Journal
from omnivision.pairs.teacher import Task
from omnivision.runs import file_hash

CHUNK = 512  # answers between two writes


def questions_of(rows: list[Row]) -> list[tuple[Row, str, str]]:
    """(row, its first question, the reference answer) of rows with one picture that is a file.

    Raises:
        DataError: there are none.
    """
    found = []
    for row in rows:
        if len(row.images) != 1 or isinstance(row.images[0], Packed):
            continue
        if row.turns:
            spoken = [turn for turn in row.turns if turn["role"] != "system"]
            found.append((row, spoken[0]["text"], spoken[1]["text"]))
        elif row.prompt:
            found.append((row, row.prompt, row.chosen))
    if not found:
        raise DataError("No row asks a question about one picture that is a file", rows[0].source, "Give conversations with one picture each.")
    return found


def model_hash(folder: Path) -> str:
    """What identifies a checkpoint: its config and weights."""
    return "".join(file_hash(file)[:16] for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]))


def sample_answers(options, rows: list[Row], work: Path) -> list[Task]:
    """The model's answers as tasks for a teacher; those that an earlier run gave are taken from its journal.

    Args:
        options: main.parser()'s. rows: of options.data. work: folder of the journals.

    Raises:
        ConfigError: no model in the folder.
    """
    folder, root = Path(options.model), options.image_root
    if not (folder / "config.json").is_file():
        raise ConfigError("There is no model in the folder", str(folder), "Give the final/ folder of a stage.")
    asked = questions_of(rows)
    settings = {"data": source_hash(options.data), "model": model_hash(folder), "temperature": options.temperature, "seed": options.seed,
                "max_new_tokens": options.max_new_tokens}
    keys = [(f"{number}/{sample}", *one) for number, one in enumerate(asked) for sample in range(options.samples)]
    with Journal(work, "answers", settings) as journal:
        missing = [one for one in keys if one[0] not in journal.done]
        if missing:
            speaker = _Speaker(folder, root, options)
            for start in range(0, len(missing), CHUNK):
                part = missing[start : start + CHUNK]
                journal.add(dict(zip([key for key, *_ in part], speaker.answers(part), strict=True)))
                print(f"answers: {len(journal.done)}/{len(keys)}", file=sys.stderr, flush=True)
        tasks, seen = [], set()
        for key, row, question, reference in keys:
            answer = journal.done[key]
            if (number := key.partition("/")[0], answer) not in seen:  # one answer sampled twice is one task
                seen.add((number, answer))
                tasks.append(Task(key, row, locate(row.images[0], root), question, answer, reference))
    return tasks


class _Speaker:
    """The model, loaded when something is to be said."""

    def __init__(self, folder: Path, root: str, options) -> None:
        from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
        from omnivision.data.features import FeatureCache

        self.model = OmniVisionForConditionalGeneration.from_pretrained(folder).eval()
        self.processor = OmniVisionProcessor.from_pretrained(folder)
        self.cache = FeatureCache(options.feature_cache, self.model, self.processor) if options.feature_cache else None
        self.root, self.options = root, options

    def answers(self, part: list[tuple[str, Row, str, str]]) -> list[str]:
        """Of (key, row, question, reference); the seed of a sampled answer is its key's, whatever stands beside it."""
        from omnivision.generation import generate_answers

        paths = [locate(row.images[0], self.root) for _, row, _, _ in part]
        images: list[Any] = paths
        if self.cache is not None:
            unique = list(dict.fromkeys(paths))
            known = dict(zip(unique, self.cache.features(unique), strict=True))
            images = [known[path] for path in paths]
        more = {}
        if self.options.temperature > 0:
            more = {"temperature": self.options.temperature, "seeds": [f"{self.options.seed}/{key}" for key, *_ in part]}
        return generate_answers(self.model, self.processor, [question for _, _, question, _ in part], images, self.options.max_new_tokens, **more)
