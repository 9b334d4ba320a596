"""What training data share with evaluation sets: pictures, also stored anew or scaled a little, and questions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from omnivision.data.formats import PLACEHOLDER, QUESTIONS
from omnivision.data.image import FORMATS, decode, read_image
from omnivision.data.pictures import Packed
from omnivision.data.records import read_records
from omnivision.errors import DataError

SIDE = 32  # of a signature, in grey pixels: of 999 x 200 different charts none match, with 16 three do
NEAR_MEAN, NEAR_MOST = 2.0, 24  # levels of 255 between signatures of one picture stored twice
SUFFIXES = tuple(f".{name.lower()}" for name in (*FORMATS, "jpg"))
TEXTS = (".json", ".jsonl", ".parquet", ".tar")
FEW_WORDS = 4  # shorter questions are everybody's: "What is this?"


@dataclass
class Evaluation:
    """Pictures and questions that must not train."""

    hashes: dict[str, str] = field(default_factory=dict)  # of the file's bytes -> its name
    names: list[str] = field(default_factory=list)
    signatures: np.ndarray = field(default_factory=lambda: np.zeros((0, SIDE * SIDE), np.int16))
    questions: set[str] = field(default_factory=set)

    def match(self, digest: str, signature: np.ndarray) -> str | None:
        """The name of the picture that is the same, byte by byte or nearly."""
        if digest in self.hashes:
            return self.hashes[digest]
        if not self.names:
            return None
        apart = np.abs(self.signatures - signature.astype(np.int16))
        near = np.flatnonzero((apart.mean(axis=1) <= NEAR_MEAN) & (apart.max(axis=1) <= NEAR_MOST))
        return self.names[near[0]] if len(near) else None

    def asks(self, question: str) -> bool:
        """Whether the question is asked there, whatever its case and punctuation; short ones do not count."""
        return plain(question) in self.questions


def look_at(picture: str | Path | Packed) -> tuple[str, np.ndarray, tuple[int, int]]:
    """(hash of the bytes, signature, size) of a picture; decodes it whole.

    Raises:
        ImageError: it cannot be used.
    """
    data = read_image(picture)
    opened = decode(data, str(picture))
    return hashlib.sha256(data).hexdigest(), signature(opened), opened.size


def signature(picture: Image.Image) -> np.ndarray:
    """A picture in 32 x 32 levels of grey. Shape (1024,)."""
    return np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)).reshape(-1)


def plain(question: str) -> str:
    """A question without case, punctuation and the image's mark; "" where it has few words."""
    words = re.findall(r"\w+", question.replace(PLACEHOLDER, " ").casefold())
    return " ".join(words) if len(words) >= FEW_WORDS or any(len(word) > 3 * FEW_WORDS for word in words) else ""


def read_evaluation(paths: Sequence[str | Path], each: Callable[[Callable, Iterable], Iterable] = map) -> Evaluation:
    """Everything that files and folders of evaluation sets hold: their pictures, and the questions of their JSON and Parquet files.

    Args:
        paths: files of questions or pictures, or folders. each: applies a function to many, in parallel perhaps.

    Raises:
        DataError: a path that is not there.
    """
    found, signatures = Evaluation(), []
    files = [file for path in paths for file in _files(Path(path))]
    pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
    records = [record for file in files for record in _records(file)]
    packed = [one for raw in records for value in raw.values() for one in (value if isinstance(value, list) else [value]) if isinstance(one, Packed)]
    pictures += packed
    for file, seen in zip(pictures, each(_or_none, pictures), strict=True):
        if seen is not None:
            found.hashes[seen[0]] = str(file)
            found.names.append(str(file))
            signatures.append(seen[1])
    if signatures:
        found.signatures = np.stack(signatures).astype(np.int16)
    found.questions = {plain(question) for raw in records for question in asked(raw)} - {""}
    if not found.names and not found.questions:
        raise DataError("The evaluation sets hold neither pictures nor questions that can be read", ", ".join(map(str, paths)),
                        "Give pictures, or JSON, JSON lines, Parquet or tar shards.")
    return found


def _or_none(file: Path | Packed):
    try:
        return look_at(file)
    except DataError:
        return None  # an evaluation set's own broken picture cannot be trained on


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if not path.is_file():
        raise DataError("There is no evaluation set", str(path), "Check --against.")
    return [path]


def _records(file: Path) -> list[dict]:
    """Records of a file of questions; none of a file beside them: annotations, scores, another format."""
    if file.suffix.lower() not in TEXTS:
        return []
    try:
        return [record.raw for record in read_records(file) if isinstance(record.raw, dict)]
    except DataError:
        return []


def asked(raw: dict[str, Any]) -> Iterable[str]:
    """The questions of a record of any kind, leniently: evaluation files have no answers."""
    for key in (*QUESTIONS, "prompt", "request"):
        if isinstance(raw.get(key), str):
            yield raw[key]
    for key in ("conversations", "messages", "turns"):
        for turn in raw[key] if isinstance(raw.get(key), list) else ():
            text = next((turn[name] for name in ("value", "content", "text") if isinstance(turn.get(name), str)), "") if isinstance(turn, dict) else ""
            if text and isinstance(turn, dict) and turn.get("from", turn.get("role")) in ("human", "user"):
                yield text
