"""Saved answers of other tools, record by record, in the keys of LLaVA's files: question_id, text, prompt, category."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omnivision.data.raw import Record, broken
from omnivision.data.records import read_records, separator_of

ID_KEYS = ("question_id", "id")
TEXT_KEYS = ("text", "response", "prediction")  # of LLaVA, of MMMU, of VLMEvalKit
QUESTION_AND_ANSWER = {"question", "answer"}  # all that POPE's own code writes; in longer records `answer` is the true one
ORDER = "#"  # before the place of an answer in its file, which is its id where it has no other
FLOAT_ID = re.compile(r"\d+\.0")
LONGEST_CELL = 2**31 - 1  # of a table; Python's own limit is 131,072 letters


def records_of(file: Path) -> Iterator[Record]:
    """The records of a file: as `read_records`, or the rows of a table of text (CSV, TSV), as VLMEvalKit writes them."""
    with file.open("rb") as start:
        separator = separator_of(start.read(4096))
    return read_records(file) if separator is None else _table(file, separator)


def _table(file: Path, separator: str) -> Iterator[Record]:
    csv.field_size_limit(LONGEST_CELL)
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.DictReader(text, delimiter=separator)
        try:
            for row in rows:
                source = f"{file}:{rows.line_num}"
                yield broken("it has more or fewer cells than the first line", source) if None in row or None in row.values() else Record(row, source)
        except (csv.Error, UnicodeDecodeError) as error:
            yield broken(str(error), f"{file}:{rows.line_num}")


def plain(raw: dict[str, Any]) -> dict[str, Any]:
    """A record in LLaVA's keys, where it is one of lmms-eval, VLMEvalKit or POPE's own code; else as it is."""
    if isinstance(raw.get("doc"), dict) and isinstance(raw.get("filtered_resps"), list):
        doc, said = raw["doc"], raw["filtered_resps"]
        while isinstance(said, list) and len(said) == 1:
            said = said[0]
        key = _own_id(doc)
        if key is None and isinstance(doc.get("question"), str):  # which is compared at that place
            key = f"{ORDER}{raw.get('doc_id')}"
        return _filled(question_id=key, text=said, prompt=doc.get("question"), category=doc.get("category"))
    if "prediction" in raw and "index" in raw:
        return _filled(question_id=_own_id(raw), text=raw["prediction"], prompt=raw.get("question"), category=raw.get("category"))
    if QUESTION_AND_ANSWER <= raw.keys() <= {*QUESTION_AND_ANSWER, *ID_KEYS, "model_id"}:
        return _filled(question_id=_own_id(raw), text=raw["answer"], prompt=raw["question"], model_id=raw.get("model_id"))
    return raw


def key_of(raw: dict[str, Any], place: int) -> str | None:
    """A record's id; its place where it has none and its question is there to be compared; None where it is not."""
    key = _own_id(raw)
    if (isinstance(key, float) and key.is_integer()) or (isinstance(key, str) and FLOAT_ID.fullmatch(key)):  # as pandas writes a column with a gap
        key = int(float(key))
    if key is None and isinstance(raw.get("prompt"), str):
        return f"{ORDER}{place}"
    return str(key) if isinstance(key, str | int) and not isinstance(key, bool) else None


def _own_id(raw: dict[str, Any]) -> Any:
    return next((raw[name] for name in ID_KEYS if raw.get(name) is not None), None)


def _filled(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
