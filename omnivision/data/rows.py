"""The internal row: a picture and what is said about it, read from JSON lines with its place of origin."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from omnivision.errors import DataError


@dataclass(frozen=True)
class Row:
    """One training row.

    Exactly one of the three is filled: turns (captions, questions), prompt/chosen/rejected (preferences),
    or request/calls (actions).
    """

    id: str
    images: tuple[str, ...]  # paths relative to the image root
    source: str  # file:line
    turns: tuple[dict, ...] = ()  # {"role", "text", "loss"}
    prompt: str = ""
    chosen: str = ""
    rejected: str = ""
    edit_spans: dict = field(default_factory=dict)
    request: str = ""
    calls: tuple[dict, ...] = ()
    regions: tuple[dict, ...] = ()  # {"box": [left, top, right, bottom] as fractions of the sides, "label", "kind"}


def read_rows(path: str | Path, limit: int | None = None) -> list[Row]:
    """Reads a JSON-lines file of internal rows.

    Args:
        path: the file. limit: only the first so many rows.

    Raises:
        DataError: no such file, a line that is not JSON, or a row without the fields of its kind; names file and line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would also cut at U+2028 inside a text
    except OSError as error:
        raise DataError("The data file cannot be read", str(path), f"{error.strerror}; check `data` in the config.") from error
    except UnicodeDecodeError as error:
        raise DataError("The data file cannot be read", str(path), f"It is not UTF-8 text (byte {error.start}).") from error
    rows = [_row(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise DataError("The data file holds no rows", str(path), "Give a JSON-lines file with one row a line.")
    return rows[:limit]


def _row(line: str, source: str) -> Row:
    try:
        raw = json.loads(line)
        kinds = {"turns": ("turns",), "preference": ("prompt", "chosen", "rejected"), "action": ("request", "calls")}
        kind = next((name for name, keys in kinds.items() if all(key in raw for key in keys)), None)
        if kind is None:
            raise ValueError("it has neither turns, nor prompt/chosen/rejected, nor request/calls")
        filled = {key: raw[key] for key in kinds[kind]}
        for key in ("turns", "calls"):
            if key in filled:
                filled[key] = _list_of(dict, filled[key], key)
        _check(filled)
        filled["regions"] = _regions(raw.get("regions", []))
        images = _list_of(str, raw.get("images", []), "images")
        return Row(id=str(raw.get("id", source)), images=images, source=source,
                   edit_spans=raw.get("edit_spans", {}), **filled)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"The row cannot be read: {error}", source, "Mend or remove the line.") from error


def _list_of(kind: type, value, name: str) -> tuple:
    if not isinstance(value, list) or not all(isinstance(one, kind) for one in value):
        raise ValueError(f"`{name}` is {value!r}, not a list of {'texts' if kind is str else 'mappings'}")
    return tuple(value)


def _regions(value) -> tuple[dict, ...]:
    for one in _list_of(dict, value, "regions"):
        box, label = one["box"], one["label"]
        numbers = isinstance(box, list) and len(box) == 4 and all(type(at) in (int, float) and -1 <= at <= 2 for at in box)
        if not numbers or box[0] > box[2] or box[1] > box[3]:
            raise ValueError(f"a region's box is {box!r}, not left, top, right, bottom as fractions of the sides")
        if not isinstance(label, str) or not label.strip() or not isinstance(one["kind"], str):
            raise ValueError(f"a region is {one!r}, without a text as label or kind")
    return tuple(value)


def _check(filled: dict) -> None:
    for key, value in filled.items():
        if key not in ("turns", "calls") and not isinstance(value, str):
            raise ValueError(f"`{key}` is {value!r}, not a text")
    for call in filled.get("calls", ()):
        if not isinstance(call.get("name"), str):
            raise ValueError(f"a call without a name is {call!r}")
    for turn in filled.get("turns", ()):
        if turn["role"] not in ("system", "user", "assistant") or not isinstance(turn["text"], str):
            raise ValueError(f"a turn is {turn!r}")
    if "turns" in filled and not any(turn["role"] == "assistant" and turn.get("loss", True) for turn in filled["turns"]):
        raise ValueError("no assistant turn is supervised")
