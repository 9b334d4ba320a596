"""Actions of one's own: rows of the stage `functions`, such as `omnivision data requests --held-out` writes; pictures lie below the file's folder."""

from __future__ import annotations

import json
from pathlib import Path

from omnivision.data.image import contained
from omnivision.data.records import read_records
from omnivision.data.rows import Row, read_rows
from omnivision.errors import DataError

ABOUT = ("language", "kind")  # what rows may say of themselves, for the tables


def read_requests(file: Path, limit: int | None = None) -> list[dict]:
    """Rows as the embedded world's questions are; one without a picture is a `unit` of its own.

    Args:
        file: of any kind that the stage reads. limit: only the first so many.

    Raises:
        DataError: a row that cannot be read, is no request with calls, has several pictures or one outside of the folder, or an id twice.
    """
    found: dict[str, dict] = {}
    for record, row in zip(read_records(file), read_rows(file, limit)):  # a request with calls is one record
        if not row.calls or len(row.images) > 1:
            what = f"has {len(row.images)} pictures, and one is shown" if row.calls else "is no request with calls"
            raise DataError(f"Row {row.id} {what}", row.source, "Give rows of the stage functions, with one picture or none.")
        if row.id in found:
            raise DataError(f"The id {row.id!r} stands twice", row.source, "Make ids unique.")
        found[row.id] = _question(row, file.parent) | {key: record.raw[key] for key in ABOUT if isinstance(record.raw.get(key), str)}
    return list(found.values())


def _question(row: Row, folder: Path) -> dict:
    pictures = [str(contained(folder, one)) if isinstance(one, str) else one for one in row.images]
    named = {"image": str(row.images[0])} if pictures else {"image": None, "unit": row.id}
    return {"question_id": row.id, **named, "pictures": pictures, "text": row.request, "calls": [_whole(call) for call in row.calls]}


def _whole(call: dict) -> dict:
    """A call with its arguments, which a row leaves out where there are none."""
    nested = {name: _whole(one) for name, one in call.get("nested", {}).items()}
    return {"name": call["name"], "arguments": call.get("arguments", {}), **({"nested": nested} if nested else {})}


def longest_answer(rows: list[dict]) -> int:
    """More tokens than the calls of any row have: as many as the letters of their JSON, which is longer than their text."""
    return max(len(json.dumps(row["calls"])) for row in rows)
