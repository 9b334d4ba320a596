"""The internal row: a picture and what is said about it, with its place of origin; read from files of any known kind."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omnivision.data.formats import to_internal
from omnivision.data.pictures import Packed, UrlPicture, from_data_uri
from omnivision.data.raw import bad_row
from omnivision.data.records import read_records
from omnivision.errors import DataError

MAX_TURNS = 1000  # of one conversation
MAY_NOT_BE_EMPTY = {"prompt": "a question", "request": "a request", "chosen": "an answer", "rejected": "an answer", "calls": "the list of calls"}


@dataclass(frozen=True)
class Row:
    """One training row.

    Exactly one of the three is filled: turns (captions, questions), prompt/chosen/rejected (preferences),
    or request/calls (actions).
    """

    id: str
    images: tuple[str | Packed, ...]  # paths relative to the image root, or pictures packed in the data's own files
    source: str  # file:line, file[number] or shard::key
    turns: tuple[dict, ...] = ()  # {"role", "text", "loss"}
    prompt: str = ""
    chosen: str = ""
    rejected: str = ""
    edit_spans: dict = field(default_factory=dict)
    request: str = ""
    calls: tuple[dict, ...] = ()
    regions: tuple[dict, ...] = ()  # {"box": [left, top, right, bottom] as fractions of the sides, "label", "kind"}
    format: str = ""  # which of formats.FORMATS it was written in
    part: int = 0  # which of a run's files it came from


class Loaded(NamedTuple):
    """The good rows of a file, and what is wrong with the others."""

    rows: list[Row]
    bad: list[DataError]

    @property
    def bad_fraction(self) -> float:
        """Bad rows among all."""
        return len(self.bad) / max(1, len(self.rows) + len(self.bad))


def read_rows(path: str | Path, limit: int | None = None, urls: str | None = None) -> list[Row]:
    """Reads a file in which every row has to be good. Args as of each_row.

    Raises:
        DataError: no such file, no rows, or the first row that cannot be read; names file and line.
    """
    loaded = load_rows(path, limit, urls)
    if loaded.bad:
        raise loaded.bad[0]
    return loaded.rows


def load_rows(path: str | Path, limit: int | None = None, urls: str | None = None) -> Loaded:
    """Reads a file and keeps apart what is bad. Args as of each_row; limit: only the first so many good rows.

    Raises:
        DataError: no such file, or nothing of it can be read.
    """
    loaded = Loaded([], [])
    for one in each_row(path, urls):
        (loaded.bad if isinstance(one, DataError) else loaded.rows).append(one)
        if len(loaded.rows) == limit:
            break
    if not loaded.rows and loaded.bad:
        raise DataError(f"None of {len(loaded.bad)} rows can be read; the first: {loaded.bad[0].what}", loaded.bad[0].where, "Fix the file.")
    if not loaded.rows:
        raise DataError("The data file holds no rows", str(path), "Give a file with one row a line, or another of the known kinds.")
    return loaded


def each_row(path: str | Path, urls: str | None = None) -> Iterator[Row | DataError]:
    """The rows of a file in order, and what is wrong with a bad one in its place.

    Args:
        path: the file, a data set's folder, or hub:NAME[:SPLIT], see records.py.
        urls: folder for pictures that rows name by URL; None refuses such rows.

    Raises:
        DataError: no such file, or it cannot be read at all.
    """
    for record in read_records(path):
        if record.error is not None:
            yield record.error
            continue
        try:
            raws = to_internal(record.raw)
            rows = [_row(raw, record.source if len(raws) == 1 else f"{record.source}/{number}", urls) for number, raw in enumerate(raws)]
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, ZeroDivisionError, OverflowError) as error:
            yield bad_row(f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else error, record.source)
        else:
            yield from rows


def _row(raw: dict, source: str, urls: str | None) -> Row:
    name = str(source if raw["id"] is None else raw["id"])
    filled: dict[str, Any] = {key: raw[key] for key in ("prompt", "chosen", "rejected", "request") if key in raw}
    for key, value in filled.items():
        _check_text(value, f"`{key}`")
    for key in ("turns", "calls"):
        if key in raw:
            filled[key] = _mappings(raw[key], key)
    if "turns" in filled:
        _check_turns(filled["turns"], bool(raw["images"]))
    for key, what in MAY_NOT_BE_EMPTY.items():
        if key in filled and not (says_something(filled[key]) if isinstance(filled[key], str) else filled[key]):
            raise ValueError(f"{what} is empty")
    for call in filled.get("calls", ()):
        _check_call(call)
    _check_text(name, "`id`")
    for key in ("calls", "regions", "edit_spans"):
        if raw.get(key):
            _check_text(json.dumps(raw[key], ensure_ascii=False), f"`{key}`")
    images = tuple(_place(image, f"{source}#{at}", urls) for at, image in enumerate(raw["images"]))
    return Row(id=name, images=images, source=source, regions=_regions(raw.get("regions", [])), edit_spans=raw.get("edit_spans", {}),
               format=raw["format"], **filled)


def _check_call(call: Any) -> None:
    """Name, arguments and nested calls are what they have to be; whether a function takes them its schema says."""
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise ValueError(f"a call without a name is {call!r}")
    if more := [key for key in call if key not in ("name", "arguments", "nested")]:
        raise ValueError(f"the call {call['name']!r} has {more[0]!r}; known are name, arguments and nested")
    for key in ("arguments", "nested"):
        if not isinstance(call.get(key, {}), dict):
            told = ": write the object, not its JSON text" if isinstance(call[key], str) else ""
            raise ValueError(f"`{key}` of the call {call['name']!r} is {call[key]!r}, no object{told}")
    for one in call.get("nested", {}).values():
        _check_call(one)


def _place(image: str | Packed, name: str, urls: str | None) -> str | Packed:
    if isinstance(image, Packed):
        return image
    _check_text(image, "an image")
    if image.startswith("data:"):
        return from_data_uri(image, name)
    if image.lower().startswith(("http://", "https://")):
        if urls is None:
            raise ValueError(f"the image {image[:80]!r} lies on the web, and `urls` names no folder to keep it in")
        return UrlPicture(image, urls)
    return image


def _check_text(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} has half a character (a lone surrogate) at {error.start}") from error


def says_something(text: str) -> bool:
    """Whether anybody can see some of it: a zero width space or a null byte is no answer."""
    return any(not letter.isspace() and unicodedata.category(letter) not in ("Cc", "Cf") for letter in text)


def _mappings(value: Any, name: str) -> tuple[dict, ...]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"`{name}` is {str(value)[:80]!r}, not a list of mappings")
    return tuple(value)


def _check_turns(turns: tuple[dict, ...], pictured: bool) -> None:
    """A system text if any, then questions and answers in turn; no answer that is to be learnt is empty."""
    if len(turns) > MAX_TURNS:
        raise ValueError(f"it has {len(turns)} turns; at most {MAX_TURNS}")
    for turn in turns:
        if turn["role"] not in ("system", "user", "assistant"):
            raise ValueError(f"a turn is of {str(turn['role'])[:40]!r}")
        _check_text(turn["text"], f"a turn of `{turn['role']}`")
    spoken = [turn for number, turn in enumerate(turns) if number or turn["role"] != "system"]
    for number, turn in enumerate(spoken):
        if turn["role"] != ("user", "assistant")[number % 2]:
            raise ValueError(f"turn {number + 1} is of `{turn['role']}`: questions and answers have to follow each other")
    if not any(turn["role"] == "assistant" and turn.get("loss", True) for turn in turns):
        raise ValueError("no assistant turn is supervised")
    if len(spoken) % 2:
        raise ValueError("it ends with a question")
    for number, turn in enumerate(spoken):
        if not says_something(turn["text"]) and (number % 2 == 1 or number > 0 or not pictured):
            raise ValueError("an answer is empty" if number % 2 else "a question is empty")


def _regions(value: Any) -> tuple[dict, ...]:
    for one in _mappings(value, "regions"):
        box, label = one["box"], one["label"]
        numbers = isinstance(box, list) and len(box) == 4 and all(type(at) in (int, float) and -1 <= at <= 2 for at in box)
        if not numbers or box[0] > box[2] or box[1] > box[3]:
            raise ValueError(f"a region's box is {box!r}, not left, top, right, bottom as fractions of the sides")
        if not isinstance(label, str) or not label.strip() or not isinstance(one["kind"], str):
            raise ValueError(f"a region is {one!r}, without a text as label or kind")
    return tuple(value)
