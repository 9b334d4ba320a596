"""`omnivision data check`: everything that is known of data before they train, and what is wrong with them, row by row.

    omnivision data check rows.jsonl --image-root pictures --against pope/ --html check.html
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnivision.constants import IGNORE_INDEX
from omnivision.data.overlap import Evaluation, look_at, read_evaluation
from omnivision.data.pictures import Packed, locate
from omnivision.data.rows import Row, load_rows
from omnivision.data.writing import stand_in_tokenizer
from omnivision.errors import DataError
from omnivision.model.conversation import encode_conversation
from omnivision.runs import write_text

SHOWN = 8  # names of rows in the text; the JSON has all
SAMPLES = 12  # pictures on the page


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


def check(files: list[str], root: str, tokenizer, image_tokens: int, max_length: int, evaluation: Evaluation | None = None,
          each: Callable[[Callable, Iterable, str, int], Iterable] | None = None, urls: str | None = None) -> dict[str, Any]:
    """Reads rows and pictures whole; returns the report, which json.dumps takes.

    Args:
        files: data of any kind that records.py reads. root: folder of the pictures. tokenizer: of the model to be trained.
        image_tokens: of one picture. max_length: as in the stage. evaluation: what must not train.
        each: (function, things, name, their number) -> results in order; parallel and with a bar in the command.
        urls: as of read_rows.

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
    texts = _check_texts(rows, tokenizer, image_tokens, max_length, found)
    pictures = _check_pictures(rows, root, found, evaluation, each)
    _check_duplicates(rows, found)
    if evaluation is not None:
        for row in rows:
            asked = [turn["text"] for turn in row.turns if turn["role"] == "user"] + [row.prompt, row.request]
            if any(evaluation.asks(question) for question in asked):
                found.add("question of an evaluation set", row.source, next(q for q in asked if evaluation.asks(q))[:80], bad=False)
    total = sum(one["rows"] + one["unreadable"] for one in counts.values())
    return {
        "files": counts, "rows": total, "bad_rows": len(found.bad_rows), "bad_fraction": len(found.bad_rows) / max(1, total),
        "problems": {kind: {"bad": one.bad, "count": len(one.rows), "rows": one.rows} for kind, one in sorted(found.problems.items())},
        **texts, **pictures,
    }  # fmt: skip


def kind_of(row: Row) -> str:
    """conversation, preference or action."""
    return "conversation" if row.turns else "action" if row.calls or row.request else "preference"


def sides_of(row: Row) -> list[list[dict]]:
    """The conversations that a row is encoded as: one, for preferences two."""
    if row.turns:
        return [list(row.turns)]
    asked = {"role": "user", "text": row.prompt or row.request, "loss": False}
    answers = [row.chosen, row.rejected] if row.prompt else [json.dumps(list(row.calls), ensure_ascii=False)]
    return [[asked, {"role": "assistant", "text": answer, "loss": True}] for answer in answers]


def _check_texts(rows: list[Row], tokenizer, image_tokens: int, max_length: int, found: Found) -> dict[str, Any]:
    lengths, turns, supervised, total = [], [], 0, 0  # in this thread: a tokenizer's settings are not for several

    def measure(row: Row) -> list[tuple[int, int]]:
        encoded = [encode_conversation(tokenizer, side, len(row.images), image_tokens) for side in sides_of(row)]
        return [(len(one.input_ids), sum(label != IGNORE_INDEX for label in one.labels)) for one in encoded]

    for row, sides in zip(rows, map(measure, rows), strict=True):
        longest = max(length for length, _ in sides)
        lengths.append(longest)
        turns.append(sum(turn["role"] == "user" for turn in row.turns) or 1)
        supervised, total = supervised + sum(count for _, count in sides), total + sum(length for length, _ in sides)
        if row.prompt and row.chosen == row.rejected:
            found.add("chosen = rejected", row.source, row.chosen[:80])
        if longest > max_length:
            first = row.turns[: 2 + (row.turns[0]["role"] == "system")] if row.turns else ()
            fits = bool(first) and len(encode_conversation(tokenizer, first, len(row.images), image_tokens).input_ids) <= max_length
            found.add("loses its last answers to max_length" if fits else "too long", row.source, f"{longest} tokens", bad=not fits)
    return {"kinds": dict(Counter(map(kind_of, rows))), "tokens": _spread(lengths), "questions": _spread(turns), "tokens_total": total,
            "supervised_share": supervised / max(1, total), "lengths": lengths, "turns": turns}


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
    ids, contents = defaultdict(list), defaultdict(list)
    for row in rows:
        ids[row.id].append(row.source)
        contents[json.dumps([[*map(str, row.images)], row.turns, row.prompt, row.chosen, row.rejected, row.request, row.calls], sort_keys=True)].append(row.source)
    for kind, groups in (("one id for several rows", ids), ("the same row again", contents)):
        for name, sources in groups.items():
            for source in sources[1:]:
                found.add(kind, source, f"as {sources[0]}" + (f" ({name})" if groups is ids else ""), bad=False)


def _spread(values: list[int]) -> dict[str, float]:
    """Least, median, 95th percentile and most."""
    if not values:
        return {}
    ordered = sorted(values)
    return {"least": ordered[0], "median": ordered[len(ordered) // 2], "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], "most": ordered[-1]}


def text(report: dict[str, Any], max_bad_fraction: float) -> str:
    """The report for a terminal."""
    lines = []
    for file, one in report["files"].items():
        formats = ", ".join(f"{count:,} {name}" for name, count in one["formats"].items())
        lines.append(f"{file}: {one['rows']:,} rows ({formats})" + (f", {one['unreadable']:,} unreadable" if one["unreadable"] else ""))
    lines += ["", "rows        " + ", ".join(f"{count:,} {kind}s" for kind, count in report["kinds"].items()),
              f"pictures    {report['pictures']:,}, in {report['picture_rows']:,} rows" + _range(report["widths"], " px wide") + _range(report["heights"], " px high"),
              f"questions   {_range(report['questions'], ' a row')[2:]}", f"tokens      {report['tokens_total']:,}{_range(report['tokens'], ' a row')}",
              f"supervised  {report['supervised_share']:.1%} of the tokens", ""]
    for kind, one in report["problems"].items():
        lines.append(f"{'BAD ' if one['bad'] else 'note'}  {kind}: {one['count']:,}")
        lines += [f"        {row}" for row in one["rows"][:SHOWN]]
        lines += [f"        ... and {one['count'] - SHOWN:,} more (--json names all)"] if one["count"] > SHOWN else []
    lines.append(f"\n{report['bad_rows']:,} of {report['rows']:,} rows are bad ({report['bad_fraction']:.2%}; a run stops above {max_bad_fraction:.2%})")
    return "\n".join(lines)


def _range(spread: dict[str, float], unit: str) -> str:
    return f", {spread['least']:,} to {spread['most']:,}{unit} (median {spread['median']:,}, 95 % up to {spread['p95']:,})" if spread else ""


def main(argv: list[str]) -> int:
    """`omnivision data check`; exit code 3 where bad rows are more than a run accepts, or a picture belongs to an evaluation set."""
    options = parser().parse_args(argv)
    tokenizer, image_tokens = stand_in_tokenizer(options.model)
    with ThreadPoolExecutor(options.workers) as threads:
        def each(function, things, name, count):
            from rich.console import Console
            from rich.progress import track

            console = Console(stderr=True)
            return track(threads.map(function, things, chunksize=8), name, total=count, console=console, disable=not console.is_terminal)

        evaluation = read_evaluation(options.against, threads.map) if options.against else None
        report = check(options.files, options.image_root, tokenizer, image_tokens, options.max_length, evaluation, each, options.urls)
    if options.html:
        from omnivision.data.check_page import page

        write_text(Path(options.html), page(report, _samples(options), options.image_root))
    shown = {key: value for key, value in report.items() if key not in ("lengths", "turns", "sizes")}
    print(json.dumps(shown, ensure_ascii=False) if options.json else text(report, options.max_bad_fraction))
    if options.html:
        print(f"page: {options.html}", file=sys.stderr)
    leaked = "picture of an evaluation set" in report["problems"]
    return 3 if report["bad_fraction"] > options.max_bad_fraction or leaked else 0


def _samples(options: argparse.Namespace) -> list[Row]:
    rows = [row for file in options.files for row in load_rows(file, urls=options.urls).rows]
    return random.Random(0).sample(rows, min(SAMPLES, len(rows)))


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    arguments = argparse.ArgumentParser(
        prog="omnivision data check", description="Reads data whole and says what is in them and what is wrong.",
        epilog="example: omnivision data check world/sft.jsonl --image-root world --html check.html",
    )  # fmt: skip
    arguments.add_argument("files", nargs="+", metavar="FILE", help="JSON, JSON lines, Parquet, tar shards, data sets' folders, hub:NAME:SPLIT")
    arguments.add_argument("--image-root", default=".", metavar="DIR", help="folder of the pictures (default: here)")
    arguments.add_argument("--model", default="tiny", metavar="DIR", help="a checkpoint or tokenizer, for counting tokens (default: the stand-in)")
    arguments.add_argument("--max-length", type=int, default=2048, metavar="N", help="as in the stage (default 2048)")
    arguments.add_argument("--max-bad-fraction", type=float, default=0.01, metavar="X", help="as in the stage (default 0.01)")
    arguments.add_argument("--against", nargs="+", default=[], metavar="PATH", help="evaluation sets: files or folders whose pictures must not train")
    arguments.add_argument("--urls", metavar="DIR", help="fetch pictures that rows name by URL into this folder")
    arguments.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="threads (default: one a core)")
    arguments.add_argument("--html", metavar="FILE", help="a page with histograms and sample pictures")
    arguments.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return arguments
