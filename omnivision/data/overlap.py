"""What training data share with evaluation sets: pictures, also stored anew or scaled a little, and questions."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
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
from omnivision.data.shards import OTHER_PICTURES
from omnivision.data.signatures import Signatures, signature
from omnivision.data.tables import HUB
from omnivision.errors import DataError

SUFFIXES = tuple(f".{name.lower()}" for name in (*FORMATS, "jpg", "jfif"))
TEXTS = (".json", ".jsonl", ".ndjson", ".parquet", ".tar")
PICTURES = (*SUFFIXES, *OTHER_PICTURES, ".heif", ".jp2", ".jxl", ".svg")  # tried by their content, and told where it is of another kind
STARTS = re.compile(rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP", re.DOTALL)  # of a file that is a picture whatever its name
UNREAD = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".csv", ".tsv", ".xls", ".xlsx", ".ods", ".arrow", ".feather", ".avro", ".orc",
          ".h5", ".hdf5", ".npy", ".npz", ".pkl", ".pickle", ".mat", ".db", ".sqlite", ".lmdb", ".mdb", ".tfrecord")  # data in which nobody looks
SAVED = {"dataset_info.json", "state.json"}  # in a folder that `datasets` wrote
BESIDE = {*SAVED, "dataset_dict.json", "dataset_infos.json"}  # which hold no rows
TURNS = ("conversations", "messages", "turns")
FOLDERS_ABOVE = 3  # of an evaluation file, from which the pictures that it names may lie
FEW_WORDS = 4  # shorter questions are everybody's: "What is this?"
TOLD = {  # key of a report -> what is said of the number of its names
    "named_and_not_found": "pictures that these sets name were not found, and are not compared",
    "not_read": "of their files are not read, or hold neither pictures nor questions that are known as such",
    "unreadable_pictures": "of their pictures cannot be read, and are not compared",
    "broken_rows": "of their rows cannot be read",
}


@dataclass
class Evaluation:
    """Pictures and questions that must not train."""

    hashes: dict[str, str] = field(default_factory=dict)  # of the file's bytes -> its name
    names: list[str] = field(default_factory=list)
    signatures: Signatures = field(default_factory=Signatures)  # of the names
    questions: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)  # pictures that rows name, and that nobody found
    unread: list[str] = field(default_factory=list)  # files of rows, tables or archives that gave nothing, or broke off
    unreadable: list[str] = field(default_factory=list)  # pictures that are there and cannot be decoded
    broken: list[str] = field(default_factory=list)  # rows: file:line, file[number] or shard::key

    def told(self) -> dict[str, list[str]]:
        """Names of what is not compared, by the keys of TOLD."""
        return dict(zip(TOLD, (sorted(self.missing), self.unread, self.unreadable, self.broken), strict=True))

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
    found, signatures, gathered = Evaluation(), [], _Gathered()
    for path in paths:
        questions: set[str] = set()
        seen = list(each(_named, _held(path, root, questions, found, gathered)))
        questions.discard("")
        if not questions and all(one is None for _, one in seen):
            raise DataError(f"The evaluation set holds neither pictures nor questions of {FEW_WORDS} words or more that can be read", path,
                            "Give pictures, or JSON, JSON lines, Parquet, tar shards or saved data sets.")
        found.questions |= questions
        for name, one in seen:
            if one is None:
                found.unreadable.append(name)
            elif one[0] not in found.hashes:  # rows may each carry the same picture
                found.hashes[one[0]] = name
                found.names.append(name)
                signatures.append(one[1])
    found.unread, found.unreadable, found.broken = (list(dict.fromkeys(names)) for names in (found.unread, found.unreadable, found.broken))
    found.missing = gathered.missing()
    found.signatures = Signatures(signatures)
    return found


class _Gathered:
    """Pictures by where they lie, and those that rows name and that do not lie where the rows say."""

    def __init__(self) -> None:
        self.lying: set[tuple[str, str]] = set()  # (the file, behind links; its path)
        self.wanted: dict[str, set[str]] = defaultdict(set)  # name -> ids of the rows

    def missing(self) -> set[str]:
        """Names to which no path leads. A path has to end with the parts of the name; ScienceQA's bare `image.png` lies in the folder of its row's id."""
        missing, ends = set(), cache(self._ends)
        for name, ids in self.wanted.items():
            parts = _parts(name)
            if len(parts) > 1:
                missing |= set() if parts in ends(len(parts)) else {name}
            elif there := {one for one in ids if (one, *parts) in ends(2)}:
                missing |= {f"{one}/{name}" if one else name for one in ids - there}
            elif len(ends(1).get(parts, ())) != 1:
                missing.add(name)
        return missing

    def _ends(self, length: int) -> dict[tuple[str, ...], set[str]]:
        files: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for file, path in self.lying:
            files[_parts(path)[-length:]].add(file)
        return files


def _parts(name: str) -> tuple[str, ...]:
    """Of a path or the path of a URL, whatever it starts from."""
    path = os.path.normpath(re.sub(r"^\w+://[^/]*", "", name).replace("\\", "/"))
    return tuple(part for part in path.split("/") if part not in ("", ".", ".."))


def _held(path: str, root: str, questions: set[str], found: Evaluation, gathered: _Gathered) -> Iterator[str | Packed]:
    """The pictures of an evaluation set, and what may be one, each file once; its questions are added to `questions`, what is not read to `found`."""
    named = Path(path).is_file()  # by the user: its content decides, not its suffix
    files: set[str] = set()

    def first(place: str) -> bool:
        file = os.path.realpath(place)
        gathered.lying.add((file, os.path.abspath(place)))
        known = file in files
        files.add(file)
        return not known

    for source in _sources(path):
        above = [] if source.startswith(HUB) else [Path(source).parent, *Path(source).resolve().parents[1 : 1 + FOLDERS_ABOVE]]
        place_of = cache(partial(_place, (*above, Path(root))))  # an evaluation file asks several questions of a picture
        if _is_picture(source) if named else source.lower().endswith(PICTURES):
            if first(source):
                yield source
        elif named or source.startswith(HUB) or source.lower().endswith(TEXTS) or Path(source).is_dir():
            holds = False
            for raw, row in _records(source, found):
                for question in _asked_within(raw):
                    holds = True
                    questions.add(plain(question))
                for picture in _pictures(raw, row, found.unreadable):
                    holds = True
                    place = picture if isinstance(picture, Packed) else place_of(picture)
                    if place is None:
                        own = raw.get("id") if isinstance(raw, dict) else None
                        gathered.wanted[picture].add(str(own) if isinstance(own, str | int) else "")
                    elif isinstance(place, Packed) or first(place):
                        yield place
            if not holds:
                found.unread.append(source)
        elif source.lower().endswith(UNREAD):
            found.unread.append(source)


def _is_picture(file: str) -> bool:
    try:
        with open(file, "rb") as start:
            return STARTS.match(start.read(12)) is not None
    except OSError:
        return False  # the reader of rows says why


def _place(folders: tuple[Path, ...], name: str) -> str | None:
    """Where a picture lies that a row names, if anywhere."""
    return next((str(folder / name) for folder in folders if (folder / name).is_file()), None)


def _named(picture: str | Packed):
    try:
        return str(picture), look_at(picture)
    except DataError:
        return str(picture), None  # an evaluation set's own broken picture stops nothing


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
        yield from [folder] if SAVED <= set(files) else (os.path.join(folder, name) for name in sorted(files) if name not in BESIDE)


def _records(source: str, found: Evaluation) -> Iterator[tuple[Any, str]]:
    """What stands in a source of questions, or in a file beside them: annotations, scores, another format."""
    try:
        for record in read_records(source):
            if record.error:
                found.broken.append(record.source)
            else:
                yield record.raw, record.source
    except DataError:
        found.unread.append(source)


def _pictures(value: Any, name: str, unreadable: list[str]) -> Iterator[Packed | str]:
    """Pictures inside a record, wherever they stand in it, and names of picture files."""
    if isinstance(value, Packed):
        yield value
    elif isinstance(value, str):
        if value.startswith("data:image/"):
            try:
                yield from_data_uri(value, f"a data URI of {name}")
            except ValueError:
                unreadable.append(f"a data URI of {name}")
        elif value.lower().endswith(PICTURES) and len(value) < 4096 and "\n" not in value and "\0" not in value:
            yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _pictures(one, name, unreadable)


def _asked_within(value: Any) -> Iterator[str]:
    """The questions of a record, or of the records in one that asks nothing itself: VQA's {"questions": [...]}, Visual Genome's `qas`."""
    if isinstance(value, dict) and (own := list(asked(value))):
        yield from own
    elif isinstance(value, dict | list):
        for inner in value if isinstance(value, list) else (inner for key, inner in value.items() if key not in TURNS):
            yield from _asked_within(inner)


def asked(raw: dict[str, Any]) -> Iterable[str]:
    """The questions of a record of any kind, leniently: evaluation files have no answers."""
    for key in (*QUESTIONS, "prompt", "request"):
        if isinstance(raw.get(key), str):
            yield raw[key]
    for key in TURNS:
        for turn in raw[key] if isinstance(raw.get(key), list) else ():
            text = next((turn[name] for name in ("value", "content", "text") if isinstance(turn.get(name), str)), "") if isinstance(turn, dict) else ""
            if text and turn.get("from", turn.get("role")) in ("human", "user"):
                yield text
