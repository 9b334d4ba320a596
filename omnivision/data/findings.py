"""What is known of data before they train, and what is wrong with them, row by row."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from omnivision.constants import IGNORE_INDEX
from omnivision.data.fitting import TooLong, Unsupervised, fitted, kind_of, sides_or_json
from omnivision.data.overlap import Evaluation, look_at
from omnivision.data.pictures import Packed, locate
from omnivision.data.rows import Row, load_rows
from omnivision.errors import DataError
from omnivision.functions import FunctionSet
from omnivision.model.conversation import encode_conversation


@dataclass
class Problem:
    """A kind of fault: whether it makes a row bad, and the rows that have it."""

    bad: bool
    rows: list[str] = field(default_factory=list)  # source: what is wrong


@dataclass
class Found:
    """What a check has found so far."""

    problems: dict[str, Problem] = field(default_factory=dict)
    bad_rows: set[str] = field(default_factory=set)

    def add(self, kind: str, source: str, what: str, bad: bool = True) -> None:
        """One row more of a kind of fault."""
        self.problems.setdefault(kind, Problem(bad)).rows.append(f"{source}: {what}")
        if bad:
            self.bad_rows.add(source)


class Checked(NamedTuple):
    """What json.dumps takes, and the rows that could be read."""

    report: dict[str, Any]
    rows: list[Row]


def check(files: list[str], root: str, tokenizer, image_tokens: int, max_length: int, evaluation: Evaluation | None = None,
          each: Callable[[Callable, Iterable, str, int], Iterable] | None = None, urls: str | None = None, function_set: FunctionSet | None = None) -> Checked:
    """Reads rows and pictures whole.

    Args:
        files: data of any kind that records.py reads. root: folder of the pictures. tokenizer: of the model to be trained.
        image_tokens: of one picture. max_length: as in the stage. evaluation: what must not train.
        each: (function, things, name, their number) -> results in order; parallel and with a bar in the command.
        urls: as of read_rows. function_set: of that model, if it has one.

    Raises:
        DataError: a file of which nothing can be read.
    """
    each = each or (lambda function, things, name, count: map(function, things))
    found, rows, counts = Found(), [], {}
    for file in files:
        loaded = load_rows(file, urls=urls)
        for error in loaded.bad:
            found.add("unreadable row", error.where, error.what)
        rows += loaded.rows
        counts[file] = {"rows": len(loaded.rows), "unreadable": len(loaded.bad), "formats": dict(Counter(row.format for row in loaded.rows))}
    texts = _check_texts(rows, tokenizer, image_tokens, max_length, found, function_set)
    pictures = _check_pictures(rows, root, found, evaluation, each)
    _check_duplicates(rows, found)
    if evaluation is not None:
        for row in rows:
            asked = [turn["text"] for turn in row.turns if turn["role"] == "user"] + [row.prompt, row.request]
            if any(evaluation.asks(question) for question in asked):
                found.add("question of an evaluation set", row.source, next(q for q in asked if evaluation.asks(q))[:80], bad=False)
    total = sum(one["rows"] + one["unreadable"] for one in counts.values())
    problems = {kind: {"bad": one.bad, "count": len(one.rows), "rows": one.rows} for kind, one in sorted(found.problems.items())}
    report = {"files": counts, "rows": total, "bad_rows": len(found.bad_rows), "bad_fraction": len(found.bad_rows) / max(1, total), "problems": problems}
    held = {} if evaluation is None else {"against": {"pictures": len(evaluation.names), "questions": len(evaluation.questions), **evaluation.told()}}
    return Checked({**report, **texts, **pictures, **held}, rows)


def _check_texts(rows: list[Row], tokenizer, image_tokens: int, max_length: int, found: Found, function_set: FunctionSet | None) -> dict[str, Any]:
    lengths, turns, supervised, total = [], [], 0, 0
    control = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)) or "(?!)")  # one pass, however many functions have tokens
    for row in rows:  # in this thread: a tokenizer's settings are not for several
        told, why = sides_or_json(row, tokenizer, function_set)
        if why:
            found.add("calls that the model's own functions cannot say", row.source, why, bad=False)
        sides = [encode_conversation(tokenizer, side, len(row.images), image_tokens) for side in told]
        longest = max(len(side.input_ids) for side in sides)
        lengths.append(longest)
        turns.append(sum(turn["role"] == "user" for turn in row.turns) or 1)
        supervised += sum(label != IGNORE_INDEX for side in sides for label in side.labels)
        total += sum(len(side.input_ids) for side in sides)
        if row.prompt and row.chosen == row.rejected:
            found.add("chosen = rejected", row.source, row.chosen[:80])
        texts = [*(turn["text"] for turn in row.turns), row.prompt, row.chosen, row.rejected, row.request]
        if spelt := next(filter(None, map(control.search, texts)), None):
            found.add("spells a control token, which is read as letters", row.source, spelt[0], bad=False)
        if longest > max_length:
            kind, bad = _what_is_left(row, tokenizer, image_tokens, max_length)
            found.add(kind, row.source, f"{longest} tokens", bad)
    return {"kinds": dict(Counter(map(kind_of, rows))), "tokens": _spread(lengths), "questions": _spread(turns), "tokens_total": total,
            "supervised_share": supervised / max(1, total), "lengths": lengths, "turns": turns}


def _what_is_left(row: Row, tokenizer, image_tokens: int, max_length: int) -> tuple[str, bool]:
    """The fault of a row that is too long, and whether a run leaves it out."""
    if not row.turns:
        return "too long", True
    try:
        fitted(row, tokenizer, image_tokens, max_length)
    except TooLong:
        return "too long", True
    except Unsupervised:
        return "loses all supervised answers to max_length", True
    return "loses its last answers to max_length", False


def _check_pictures(rows: list[Row], root: str, found: Found, evaluation: Evaluation | None, each) -> dict[str, Any]:
    users: dict[str | Packed, list[Row]] = defaultdict(list)
    for row in rows:
        for image in row.images:
            try:
                users[locate(image, root)].append(row)
            except DataError as error:
                found.add(f"image: {getattr(error, 'kind', 'broken')}", row.source, error.what)
    pictures = list(users)
    sizes, same = [], defaultdict(list)
    for picture, seen in zip(pictures, each(_seen, pictures, "pictures", len(pictures)), strict=True):
        if isinstance(seen, DataError):
            for row in users[picture]:
                found.add(f"image: {getattr(seen, 'kind', 'broken')}", row.source, f"{seen.what} ({seen.where})")
            continue
        digest, signed, size = seen
        sizes.append(size)
        same[digest].append(str(picture))
        match = evaluation.match(digest, signed) if evaluation is not None else None
        if match:
            for row in users[picture]:
                found.add("picture of an evaluation set", row.source, f"{picture} is {match}")
    for names in same.values():
        if len(names) > 1:
            found.add("one picture under several names", names[0], ", ".join(names[1:5]), bad=False)
    return {"pictures": len(pictures), "picture_rows": sum(bool(row.images) for row in rows), "widths": _spread([width for width, _ in sizes]),
            "heights": _spread([height for _, height in sizes]), "sizes": sizes}


def _seen(picture: str | Packed):
    try:
        return look_at(picture)
    except DataError as error:
        return error


def _check_duplicates(rows: list[Row], found: Found) -> None:
    ids: dict[str, str] = {}  # -> the first row's source
    contents: dict[bytes, str] = {}
    for row in rows:
        if row.id in ids:
            found.add("one id for several rows", row.source, f"as {ids[row.id]} ({row.id})", bad=False)
        content = [[*map(str, row.images)], row.turns, row.prompt, row.chosen, row.rejected, row.request, row.calls]
        digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).digest()
        if digest in contents:
            found.add("the same row again", row.source, f"as {contents[digest]}", bad=False)
        ids.setdefault(row.id, row.source)
        contents.setdefault(digest, row.source)


def _spread(values: list[int]) -> dict[str, float]:
    """Least, median, 95th percentile and most."""
    if not values:
        return {}
    ordered = sorted(values)
    at = {"least": 0, "median": len(ordered) // 2, "p95": min(len(ordered) - 1, int(0.95 * len(ordered))), "most": -1}
    return {name: ordered[place] for name, place in at.items()}
