"""Minimal-edit preference pairs: the model answers, a teacher corrects only the wrong words.

    omnivision data pairs --model DIR --data FILE --image-root DIR --out pairs.jsonl
    omnivision data pairs ... --teacher https://api.openai.com/v1 --teacher-model NAME --max-cost 5 --price-in 0.4 --price-out 1.6

An answer that is right gives no pair; one that cannot be fixed by a minimal edit gives none either; all are counted. What was
answered and asked stands beside the pairs, in `pairs.work/`, what became of it in `pairs.report.json`: a run that was killed goes on
there, and other gates ask nobody again.

Short answers are rarely fixed by a small edit: "No" for "Yes" is another answer. Such pairs move a model's readiness to say
"Yes" and teach nothing about pictures, see docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omnivision.data.flags import output_file, refuse_clashes, within
from omnivision.data.pictures import locate
from omnivision.data.room import MOST_GIB
from omnivision.data.rows import read_rows
from omnivision.endpoint import Client, Ledger
from omnivision.endpoint.flags import add_endpoint_flags, endpoint_of, is_address
from omnivision.endpoint.tally import AGAIN, MOST_UNANSWERED, nothing_answered
from omnivision.errors import ConfigError, ResumableError
from omnivision.pairs.answers import model_hash, questions_of, sample_answers
from omnivision.pairs.endpoint_teacher import FAILED, EndpointTeacher, unanswered
from omnivision.pairs.factory import correct_all, lines, pair_rows, statistics_of
from omnivision.pairs.gates import Limits
from omnivision.pairs.teacher import Oracle, Teacher
from omnivision.runs import RunLock, write_json, write_text

ON_PAGE = 60  # pairs that a page shows


def main(argv: list[str]) -> int:
    """`omnivision data pairs`."""
    options = parser().parse_args(argv)
    with contextlib.redirect_stdout(sys.stderr):  # libraries' logs: stdout is for the result
        report = run(options)
    print(json.dumps(report) if options.json else "  ".join(f"{name} {count}" for name, count in report["outcomes"].items()))
    return 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Answers, corrects, writes pairs, report and page; returns the report.

    Raises:
        ConfigError: no model, no teacher, a teacher that rejects everything, several samples that would be the same, one file twice. DataError: no questions, or no truth. ResumableError: the endpoint's budget is spent, or it leaves too many questions without an answer.
    """
    if options.samples > 1 and options.temperature == 0:
        raise ConfigError(f"{options.samples} samples at temperature 0 are all the same", "--samples", "Give --temperature, or one sample.")
    limits = Limits(options.most_edited, options.most_longer)
    out = options.out
    work = out.with_suffix(".work")
    refuse_clashes({"--data": options.data}, {"--out": out, "the report": out.with_suffix(".report.json"), "the work folder": work, "--html": options.html})
    work.mkdir(parents=True, exist_ok=True)
    rows = read_rows(options.data, options.limit)
    with RunLock(work):
        asked = questions_of(rows)
        oracle = Oracle(Path(options.image_root), [row for row, *_ in asked.questions]) if options.teacher == "oracle" else None  # first: a missing truth costs no answers
        tasks = sample_answers(options, asked, work)
        with open_teacher(options, oracle, work) as teacher:
            outcomes = correct_all(tasks, teacher, limits, not options.no_second_look)
            provenance = {"model": str(options.model), "model_hash": model_hash(Path(options.model)), "teacher": teacher.name,
                          "teacher_prompt": teacher.prompt, "seed": options.seed}
            pairs = pair_rows(outcomes, provenance)
            report = {**statistics_of(outcomes, pairs), "passed_over": asked.passed_over, **provenance, **spent(teacher)}
        check_taught(report, outcomes, teacher.name)
        write_text(out, lines(pairs))
        write_json(out.with_suffix(".report.json"), report)
        if options.html:
            write_text(options.html, page(pairs, report, options.image_root))
    print(f"{report['answers']} answers: {report['outcomes']}; rows skipped: {report['passed_over'] or 'none'}", file=sys.stderr)
    left = {kind: count for kind, count in report["outcomes"].items() if unanswered(kind)}
    if sum(left.values()) > MOST_UNANSWERED * report["answers"]:
        raise ResumableError(f"{sum(left.values())} of {report['answers']} questions have no answer of the teacher ({', '.join(left)}); {len(pairs)} pairs are written", str(out),
                             AGAIN)
    return report


def check_taught(report: dict[str, Any], outcomes: list, name: str) -> None:
    """Before anything is written.

    Raises:
        ResumableError, ConfigError: as `nothing_answered`.
    """
    failed = {kind: count for kind, count in report["outcomes"].items() if kind.startswith(FAILED)}
    if failed and sum(failed.values()) == report["answers"]:
        left = sum(count for kind, count in failed.items() if unanswered(kind))
        raise nothing_answered(report["answers"], left, f"{outcomes[-1].kind.removeprefix(FAILED)}, {outcomes[-1].verdict.detail}", name)


@contextlib.contextmanager
def open_teacher(options: argparse.Namespace, oracle: Oracle | None, work: Path) -> Iterator[Teacher]:
    """The oracle where there is one, an endpoint by its address, or a model by its folder or hub id.

    Raises:
        ConfigError: an address without --teacher-model, or no such model.
    """
    if oracle is not None:
        yield oracle
    elif is_address(options.teacher):
        endpoint = endpoint_of(options, "teacher", seed=options.seed, extra={"response_format": {"type": "json_object"}})
        with Ledger(work / "ledger.jsonl") as ledger, Client(endpoint, ledger) as client:
            yield EndpointTeacher(client)
    else:
        from omnivision.pairs.local_teacher import LocalTeacher

        with LocalTeacher(options.teacher, work) as teacher:
            yield teacher


def spent(teacher: Teacher) -> dict[str, Any]:
    """What an endpoint's ledger says: requests that may have been billed though they gave nothing."""
    ledger = getattr(getattr(teacher, "client", None), "ledger", None)
    return {} if ledger is None else {"possibly_billed": len(ledger.possibly_billed())}


def page(pairs: list[dict], report: dict[str, Any], root: str) -> str:
    """HTML: counts, and pairs with their edits in colour."""
    from omnivision.report.page import document, pairs_section, table

    counts = [f'<tr><td>{kind}</td><td class="n">{count:,}</td></tr>' for kind, count in report["outcomes"].items()]
    shown = [{**pair, "images": [locate(image, root) for image in pair["images"]]} for pair in pairs[:ON_PAGE]]
    facts = [("Answers", f"{report['answers']:,}"), ("Pairs", f"{len(pairs):,}"), ("Teacher", report["teacher"]), ("Model", report["model"])]
    return document("Minimal-edit pairs", f"The first {len(shown)} of {len(pairs)} pairs.", facts, [
        table('<th>outcome</th><th class="n">answers</th>', counts, "plain"), pairs_section(shown, "The teacher changes only the words that are wrong.")])


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    arguments = argparse.ArgumentParser(
        prog="omnivision data pairs", description="Minimal-edit preference pairs from a model's own answers.",
        epilog="example: omnivision data pairs --model runs/tiny/sft/final --data world/dpo.jsonl --image-root world --out pairs.jsonl",
    )
    arguments.add_argument("--model", required=True, metavar="DIR", help="a checkpoint: final/ of a stage")
    arguments.add_argument("--data", required=True, metavar="FILE", help="rows with one picture; the first question of each is asked")
    arguments.add_argument("--image-root", required=True, metavar="DIR", help="folder of the pictures; for the oracle the world's")
    arguments.add_argument("--out", required=True, type=output_file, metavar="FILE", help="preference rows, JSON lines")
    arguments.add_argument("--teacher", default="oracle", metavar="WHO",
                           help="oracle (the embedded world's), the address of an OpenAI-compatible endpoint, or a model's folder or hub id")
    arguments.add_argument("--limit", type=within("--limit", int, 1), metavar="N", help="only the first N rows")
    arguments.add_argument("--html", type=output_file, metavar="FILE", help="a page of pairs with the edits in colour")
    arguments.add_argument("--json", action="store_true", help="one JSON object on stdout")
    model = arguments.add_argument_group("the model's answers")
    model.add_argument("--feature-cache", metavar="DIR", help="cached features of the frozen tower")
    model.add_argument("--cache-gib", type=within("--cache-gib", float, 0), default=MOST_GIB, metavar="GIB",
                       help="the most that the cache may hold (default %(default)s)")
    model.add_argument("--max-new-tokens", type=within("--max-new-tokens", int, 1), default=64)
    model.add_argument("--temperature", type=within("--temperature", float, 0), default=0.0, help="0 (default): the most likely answer")
    model.add_argument("--samples", type=within("--samples", int, 1), default=1, metavar="N", help="answers to each question")
    model.add_argument("--seed", type=int, default=0)
    gates = arguments.add_argument_group("gates")
    gates.add_argument("--most-edited", type=within("--most-edited", float, 0.001, 1), default=Limits.most_edited, metavar="SHARE",
                       help="words that an edit may change (default %(default)s)")
    gates.add_argument("--most-longer", type=within("--most-longer", float, 1), default=Limits.most_longer, metavar="RATIO",
                       help="of the lengths, either way (default %(default)s)")
    gates.add_argument("--no-second-look", action="store_true", help="do not ask the teacher whether its correction is right")
    add_endpoint_flags(arguments.add_argument_group("an endpoint as the teacher"), "teacher")
    return arguments
