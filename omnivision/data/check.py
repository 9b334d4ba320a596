"""`omnivision data check`: everything that is known of data before they train, and what is wrong with them, row by row.

    omnivision data check rows.jsonl --image-root pictures --against pope/ --html check.html
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from omnivision.data.findings import check
from omnivision.data.flags import output_file, within
from omnivision.data.overlap import TOLD, read_evaluation
from omnivision.data.parallel import cores, in_order
from omnivision.data.writing import stand_in_tokenizer
from omnivision.functions import FunctionSet
from omnivision.runs import write_text

SHOWN = 8  # names of rows in the text; the JSON has all
SAMPLES = 12  # pictures on the page


def text(report: dict[str, Any], max_bad_fraction: float) -> str:
    """The report for a terminal."""
    lines = []
    for file, one in report["files"].items():
        formats = ", ".join(f"{count:,} {name}" for name, count in one["formats"].items())
        lines.append(f"{file}: {one['rows']:,} rows ({formats})" + (f", {one['unreadable']:,} unreadable" if one["unreadable"] else ""))
    lines += ["", "rows        " + ", ".join(f"{count:,} {kind}s" for kind, count in report["kinds"].items()),
              f"pictures    {report['pictures']:,}, in {report['picture_rows']:,} rows"
              + _range(report["widths"], " px wide") + _range(report["heights"], " px high"),
              f"questions   {_range(report['questions'], ' a row')[2:]}", f"tokens      {report['tokens_total']:,}{_range(report['tokens'], ' a row')}",
              f"supervised  {report['supervised_share']:.1%} of the tokens", ""]
    if held := report.get("against"):
        lines += [f"against     {held['pictures']:,} different pictures and {held['questions']:,} questions of evaluation sets"]
        for key, said in TOLD.items():
            names = held[key]
            lines += [f"note  {len(names):,} {said}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"] if names else []
        lines += [""]
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
        def each(function, things, name=None, count=None):
            from rich.console import Console
            from rich.progress import track

            console, results = Console(stderr=True), in_order(threads, options.workers, function, things)
            return track(results, name, total=count, console=console, disable=not console.is_terminal) if count else results

        evaluation = read_evaluation(options.against, each, options.image_root) if options.against else None
        report, rows = check(options.files, options.image_root, tokenizer, image_tokens, options.max_length, evaluation, each, options.urls, FunctionSet.beside(options.model))
    if options.html:
        from omnivision.data.check_page import page

        write_text(options.html, page(report, random.Random(0).sample(rows, min(SAMPLES, len(rows))), options.image_root))
    shown = {key: value for key, value in report.items() if key not in ("lengths", "turns", "sizes")}
    print(json.dumps(shown, ensure_ascii=False) if options.json else text(report, options.max_bad_fraction))
    if options.html:
        print(f"page: {options.html}", file=sys.stderr)
    leaked = "picture of an evaluation set" in report["problems"]
    return 3 if report["bad_fraction"] > options.max_bad_fraction or leaked else 0


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    arguments = argparse.ArgumentParser(
        prog="omnivision data check", description="Reads data whole and says what is in them and what is wrong.",
        epilog="example: omnivision data check world/sft.jsonl --image-root world --html check.html",
    )
    arguments.add_argument("files", nargs="+", metavar="FILE", help="JSON, JSON lines, Parquet, tar shards, data sets' folders, hub:NAME:SPLIT")
    arguments.add_argument("--image-root", default=".", metavar="DIR", help="folder of the pictures (default: here)")
    arguments.add_argument("--model", default="tiny", metavar="DIR", help="a checkpoint or tokenizer, for counting tokens (default: the stand-in); calls count as its functions' tokens, else as JSON")
    arguments.add_argument("--max-length", type=within("--max-length", int, 1), default=2048, metavar="N", help="as in the stage (default 2048)")
    arguments.add_argument("--max-bad-fraction", type=within("--max-bad-fraction", float, 0, 1), default=0.01, metavar="X",
                           help="as in the stage (default 0.01)")
    arguments.add_argument("--against", nargs="+", default=[], metavar="PATH",
                           help="evaluation sets: files, folders or hub:NAME:SPLIT whose pictures must not train")
    arguments.add_argument("--urls", metavar="DIR", help="fetch pictures that rows name by URL into this folder")
    arguments.add_argument("--workers", type=within("--workers", int, 1), default=cores(), metavar="N", help="threads (default: one a core)")
    arguments.add_argument("--html", type=output_file, metavar="FILE", help="a page with histograms and sample pictures")
    arguments.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return arguments
