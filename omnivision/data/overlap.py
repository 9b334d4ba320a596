"""What training data share with evaluation sets: pictures, also stored anew or scaled a little, and questions."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from omnivision.data.formats import PLACEHOLDER, QUESTIONS
from omnivision.data.image import FORMATS, decode, read_image
from omnivision.data.pictures import Packed, from_data_uri
from omnivision.data.records import read_records
from omnivision.data.signatures import Signatures, signature
from omnivision.data.tables import HUB
from omnivision.errors import DataError

SUFFIXES = tuple(f".{name.lower()}" for name in (*FORMATS, "jpg", "jfif"))
TEXTS = (".json", ".jsonl", ".ndjson", ".parquet", ".tar")
ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")  # in which nobody looks
SAVED = {"dataset_info.json", "state.json"}  # in a folder that `datasets` wrote
FOLDERS_ABOVE = 3  # of an evaluation file, from which the pictures that it names may lie
FEW_WORDS = 4  # shorter questions are everybody's: "What is this?"


@dataclass
class Evaluation:
    """Pictures and questions that must not train."""

    hashes: dict[str, str] = field(default_factory=dict)  # of the file's bytes -> its name
    names: list[str] = field(default_factory=list)
    signatures: Signatures = field(default_factory=Signatures)  # of the names
    questions: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)  # pictures that rows name, and that nobody found
    unread: list[str] = field(default_factory=list)  # files of rows or archives that nobody could look into

    def match(self, digest: str, wanted: np.ndarray) -> str | None:
        """The name of the picture that is the same, byte by byte or nearly."""
        if digest in self.hashes:
            return self.hashes[digest]
        near = self.signatures.near(wanted)
        return None if near is None else self.names[near]

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


def plain(question: str) -> str:
    """A question without case, punctuation and the image's mark; "" where it has few words."""
    words = re.findall(r"\w+", question.replace(PLACEHOLDER, " ").casefold())
    return " ".join(words) if len(words) >= FEW_WORDS or any(len(word) > 3 * FEW_WORDS for word in words) else ""


def read_evaluation(paths: Sequence[str], each: Callable[[Callable, Iterable], Iterable] = map, root: str = ".") -> Evaluation:
    """Everything that evaluation sets hold: their pictures, packed, inside rows or named by them too, and the questions of their rows.

    Args:
        paths: files of questions or pictures, folders, or hub:NAME[:SPLIT]. each: applies a function to many, in parallel perhaps.
        root: a folder from which rows may name pictures, beside the file's own and those above it.

    Raises:
        DataError: a path that is not there, or of which nothing can be read.
    """
    found, signatures = Evaluation(), []
    for path in paths:
        questions: set[str] = set()
        seen = [one for one in each(_named, _held(path, root, questions, found)) if one is not None]
        questions.discard("")
        if not seen and not questions:
            raise DataError(f"The evaluation set holds neither pictures nor questions of {FEW_WORDS} words or more that can be read", path,
                            "Give pictures, or JSON, JSON lines, Parquet, tar shards or saved data sets.")
        found.questions |= questions
        for name, (digest, signed, _) in seen:
            found.hashes[digest] = name
            found.names.append(name)
            signatures.append(signed)
    files = {os.path.basename(name) for name in found.names}
    found.missing = {name for name in found.missing if os.path.basename(name) not in files}
    found.signatures = Signatures(signatures)
    return found


def _held(path: str, root: str, questions: set[str], found: Evaluation) -> Iterator[str | Packed]:
    """The pictures of an evaluation set, and what may be one; its questions are added to `questions`, what is missing to `found`."""
    named = Path(path).is_file()  # by the user: its content decides, not its suffix
    places: set[str] = set()
    for source in _sources(path):
        above = [] if source.startswith(HUB) else [Path(source).parent, *Path(source).resolve().parents[1 : 1 + FOLDERS_ABOVE]]
        place_of = cache(partial(_place, (*above, Path(root))))  # an evaluation file asks several questions of a picture
        if named or source.lower().endswith(SUFFIXES):
            yield source
        if named or source.startswith(HUB) or source.lower().endswith(TEXTS) or Path(source).is_dir():
            for raw in _records(source, found.unread):
                questions.update(map(plain, asked(raw)))
                for picture in _pictures(raw, source):
                    place = picture if isinstance(picture, Packed) else place_of(picture)
                    if place is None:
                        found.missing.add(picture)
                    elif isinstance(place, Packed) or place not in places:
                        places.add(str(place))
                        yield place
        elif source.lower().endswith(ARCHIVES):
            found.unread.append(source)


def _place(folders: tuple[Path, ...], name: str) -> str | None:
    """Where a picture lies that a row names, if anywhere."""
    return next((str(folder / name) for folder in folders if (folder / name).is_file()), None)


def _named(picture: str | Packed):
    try:
        return str(picture), look_at(picture)
    except DataError:
        return None  # an evaluation set's own broken picture cannot be trained on


def _sources(path: str) -> Iterator[str]:
    """The files of a folder and below; a folder that `datasets` wrote is one source."""
    if path.startswith(HUB) or Path(path).is_file():
        yield path
        return
    if not Path(path).is_dir():
        raise DataError("There is no evaluation set", path, "Check --against.")
    seen: set[str] = set()
    for folder, inner, files in os.walk(path, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # a ring of links, or a second link to the same
            inner.clear()
            continue
        seen.add(real)
        inner.sort()
        yield from [folder] if SAVED <= set(files) else (os.path.join(folder, name) for name in sorted(files))


def _records(source: str, unread: list[str]) -> Iterator[dict]:
    """Records of a source of questions; none of a file beside them: annotations, scores, another format."""
    try:
        yield from (record.raw for record in read_records(source) if isinstance(record.raw, dict))
    except DataError:
        unread.append(source)


def _pictures(value: Any, name: str) -> Iterator[Packed | str]:
    """Pictures inside a record, wherever they stand in it, and names of picture files."""
    if isinstance(value, Packed):
        yield value
    elif isinstance(value, str):
        if value.startswith("data:image/"):
            try:
                yield from_data_uri(value, f"a data URI of {name}")
            except ValueError:
                return
        elif value.lower().endswith(SUFFIXES) and len(value) < 4096 and "\n" not in value and "\0" not in value:
            yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _pictures(one, name)


def asked(raw: dict[str, Any]) -> Iterable[str]:
    """The questions of a record of any kind, leniently: evaluation files have no answers."""
    for key in (*QUESTIONS, "prompt", "request"):
        if isinstance(raw.get(key), str):
            yield raw[key]
    for key in ("conversations", "messages", "turns"):
        for turn in raw[key] if isinstance(raw.get(key), list) else ():
            text = next((turn[name] for name in ("value", "content", "text") if isinstance(turn.get(name), str)), "") if isinstance(turn, dict) else ""
            if text and turn.get("from", turn.get("role")) in ("human", "user"):
                yield text
