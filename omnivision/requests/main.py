"""Training requests for a set of functions, from templates or a teacher, each checked before it is written.

    omnivision data requests --functions FILE --out FILE --per-function N
    omnivision data requests ... --held-out FILE --languages en,zh --negatives 0.5 --parallel 0.2 --nested 0.1 --teacher URL --teacher-model NAME

What became of everything stands in `.report.json` beside the rows, a teacher's ledger in `.work/`: a run that was killed goes on there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
from pathlib import Path
from typing import Any

from omnivision.data.flags import output_file, refuse_clashes, within
from omnivision.endpoint import Kind
from omnivision.endpoint.flags import LIMITS, add_endpoint_flags, endpoint_of
from omnivision.endpoint.tally import AGAIN, MOST_UNANSWERED
from omnivision.errors import ConfigError, ResumableError
from omnivision.functions import FunctionSet
from omnivision.functions.function_set import IRRELEVANT
from omnivision.pairs.factory import lines
from omnivision.requests import prompts
from omnivision.requests.checks import Checks
from omnivision.requests.composed import nested_rows, parallel_rows
from omnivision.requests.drawing import HELD_OUT, TRAIN
from omnivision.requests.negatives import negative_rows
from omnivision.requests.report import report_of, short_of, table
from omnivision.requests.sieve import Sieve
from omnivision.requests.teacher import Teacher
from omnivision.requests.templates import NONE, function_rows, template_rows
from omnivision.requests.user_templates import Sentences
from omnivision.requests.words import LANGUAGES
from omnivision.runs import RunLock, write_json, write_text

ROWS_FOR_HELD_OUT = 5  # of training, for each held-out one, unless told
LONGEST_REPLY = 4096  # tokens: ten requests with their arguments
SPARE = 1.2  # rows made for each that is wanted, where some will be refused


def main(argv: list[str]) -> int:
    """`omnivision data requests`."""
    options = parser().parse_args(argv)
    with contextlib.redirect_stdout(sys.stderr):  # libraries' logs: stdout is for the result
        report = run(options)
    print(json.dumps(report, ensure_ascii=False) if options.json else table(report))
    return 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Makes rows, writes them and the report; returns the report.

    Raises:
        ConfigError: a function set, templates or flags that cannot be used, or a teacher that answers nothing. ResumableError: the endpoint's budget is
            spent, or too many questions have no answer.
    """
    _refuse_what_clashes(options)
    function_set = FunctionSet.from_json(options.functions)
    sentences = Sentences.read(Path(options.templates), function_set) if options.templates else NONE
    wanted = {TRAIN: options.per_function}
    if options.held_out:
        wanted = {HELD_OUT: options.held_out_per_function or -(-options.per_function // ROWS_FOR_HELD_OUT), **wanted}
    work = options.out.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    sieve = Sieve(Checks(function_set))
    with RunLock(work):
        with open_teacher(options, function_set, sieve, work) as teacher:
            kinds = {split: make(options, function_set, sieve, split, number, teacher or sentences) for split, number in wanted.items()}
            if teacher:
                teacher.tally.check()
            report = {**report_of(function_set, sieve, wanted, kinds, options.languages), "seed": options.seed, "shared_sentences": sentences.shared(), **told_by(teacher)}
        for split, file in ((TRAIN, options.out), (HELD_OUT, options.held_out)):
            if file:
                write_text(file, lines(shuffled(sieve.kept[split], options.seed)))
        write_json(options.out.with_suffix(".report.json"), report)
    if teacher and any(report["short"].values()) and teacher.tally.left > MOST_UNANSWERED * teacher.tally.endings.total():
        raise ResumableError(f"{teacher.tally.left} of {teacher.tally.endings.total()} questions have no answer of the teacher, and rows are missing; what there is has been written",
                             str(options.out), AGAIN)
    return report


def _refuse_what_clashes(options: argparse.Namespace) -> None:
    """Flags that would do nothing, or write over each other."""
    read = {"--functions": options.functions, "--templates": options.templates, "--left-out": options.left_out}
    written = {"--out": options.out, "--held-out": options.held_out, "the report": options.out.with_suffix(".report.json"), "the work folder": options.out.with_suffix(".work")}
    refuse_clashes(read, written)
    defaults = parser()
    for needed, flags in (("held_out", ["held_out_per_function"]), ("teacher", ["teacher_model", *LIMITS, "temperature", "second_look"])):
        idle = [] if getattr(options, needed) else [flag for flag in flags if getattr(options, flag) != defaults.get_default(flag)]
        if idle:
            named, given = (f"--{flag.replace('_', '-')}" for flag in (needed, idle[0]))
            raise ConfigError(f"Without {named} it would do nothing", given, f"Add {named}, or leave it out.")
    for flag, what in (("templates", "its own sentences"), ("left_out", "negatives without a file of functions")):
        if options.teacher and getattr(options, flag):
            raise ConfigError(f"A teacher writes {what}", f"--teacher, --{flag.replace('_', '-')}", "Give one of the two; rows of both can train together.")


def shuffled(rows: list[dict], seed: int) -> list[dict]:
    """Rows in another order: requests that stand side by side may become one conversation, which should not be all of one function."""
    return random.Random(f"{seed}/order").sample(rows, len(rows))


def make(options: argparse.Namespace, function_set: FunctionSet, sieve: Sieve, split: str, number: int, writer: Teacher | Sentences) -> dict[str, int]:
    """The rows of one split: single calls first, then what is made in their proportion; returns how many of each kind that should be."""
    languages, seed = options.languages, options.seed
    if isinstance(writer, Teacher):
        names = [function.name for function in function_set.functions if function.name != IRRELEVANT]
        counts = dict.fromkeys(names, number) | {IRRELEVANT: round(options.negatives * number * len(names))}
        writer.write({(name, language): count for at, name in enumerate(counts) for language, count in shares(counts[name], languages, at).items() if count}, split)
    else:
        sieve.take_all(template_rows(function_set, number, seed, split, languages, writer), split, "single")
        for name, missing in short_of(function_set, sieve, split, number).items():  # some were refused: draw others
            rows = function_rows(function_set[name], number, f"{seed}/again", split, languages, writer)
            sieve.take_all([{**row, "id": f"{row['id']}-again"} for row in rows], split, "single", most=missing)
    singles = [row for row in sieve.kept[split] if row["kind"] == "single"]
    negatives, parallel, nested = (round(share * len(singles)) for share in (options.negatives, options.parallel, options.nested))
    if isinstance(writer, Sentences):
        left_out = FunctionSet.from_json(options.left_out) if options.left_out else None
        sieve.take_all(negative_rows(function_set, round(SPARE * negatives), seed, split, languages, left_out), split, "negative", most=negatives)
    sieve.take_all(parallel_rows(singles, round(SPARE * parallel), seed, split), split, "parallel", most=parallel)
    sieve.take_all(nested_rows(function_set, round(SPARE * nested), seed, split, languages), split, "nested", most=nested)
    return {"negative": negatives, "parallel": parallel, "nested": nested}


def shares(number: int, languages: list[str], first: int) -> dict[str, int]:
    """A number of rows shared out to languages; where it does not go up, those from number `first` on have one more."""
    turns = [languages[(first + at) % len(languages)] for at in range(number)]
    return {language: turns.count(language) for language in languages}


@contextlib.contextmanager
def open_teacher(options: argparse.Namespace, function_set: FunctionSet, sieve: Sieve, work: Path):
    """The endpoint's teacher; None without --teacher."""
    if not options.teacher:
        yield None
        return
    from omnivision.endpoint import Client, Ledger

    endpoint = endpoint_of(options, "teacher", temperature=options.temperature, max_tokens=LONGEST_REPLY, seed=options.seed,
                           extra={"response_format": {"type": "json_object"}})
    with Ledger(work / "ledger.jsonl") as ledger, Client(endpoint, ledger) as client:
        yield Teacher(client, function_set, sieve, options.seed, options.second_look)


def told_by(teacher: Teacher | None) -> dict[str, Any]:
    """What a report says about the teacher."""
    if teacher is None:
        return {"teacher": "templates"}
    return {"teacher": teacher.name, "teacher_prompt": prompts.HASH, "questions_failed": {kind.value: count for kind, count in teacher.tally.endings.items() if kind is not Kind.ANSWERED},
            "possibly_billed": len(teacher.client.ledger.possibly_billed())}


def read_languages(word: str) -> list[str]:
    """A `type` for argparse: languages with commas between.

    Raises:
        ConfigError: another language, or one twice.
    """
    found = word.split(",")
    if len(set(found)) < len(found) or not set(found) <= set(LANGUAGES):
        raise ConfigError(f"The languages {word!r} cannot be used", "--languages", f"Give {', '.join(LANGUAGES)} or one of them.")
    return found


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    arguments = argparse.ArgumentParser(
        prog="omnivision data requests", description="Training requests for a set of functions, each checked before it is written.",
        epilog="example: omnivision data requests --functions functions.json --out requests.jsonl --held-out held_out.jsonl --per-function 100 --negatives 0.5",
    )
    arguments.add_argument("--functions", required=True, metavar="FILE", help="tools in OpenAI's format; `returns` beside `parameters` says what one gives back")
    arguments.add_argument("--out", required=True, type=output_file, metavar="FILE", help="rows of the stage `functions`, JSON lines")
    arguments.add_argument("--held-out", type=output_file, metavar="FILE", help="rows with other sentences and other open values")
    arguments.add_argument("--per-function", required=True, type=within("--per-function", int, 1), metavar="N", help="requests with one call, for each function")
    arguments.add_argument("--held-out-per-function", type=within("--held-out-per-function", int, 1), metavar="N", help="default: a fifth of --per-function")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--languages", type=read_languages, default=["en"], metavar="en,zh", help="in turn (default en)")
    arguments.add_argument("--templates", metavar="FILE", help='sentences of your own: {"function": {"en": ["Play {song}."]}}')
    arguments.add_argument("--json", action="store_true", help="one JSON object on stdout")
    shares = arguments.add_argument_group("in proportion to the requests with one call")
    shares.add_argument("--negatives", type=within("--negatives", float, 0), default=0.0, metavar="SHARE", help="requests that no function serves")
    shares.add_argument("--left-out", metavar="FILE", help="functions that the set does not have: half of the negatives ask for them")
    shares.add_argument("--parallel", type=within("--parallel", float, 0), default=0.0, metavar="SHARE", help="requests with two or three calls")
    shares.add_argument("--nested", type=within("--nested", float, 0), default=0.0, metavar="SHARE", help="requests in which one call gives another's argument")
    endpoint = arguments.add_argument_group("an endpoint as the teacher")
    endpoint.add_argument("--teacher", metavar="URL", help="address of an OpenAI-compatible endpoint, such as https://api.openai.com/v1")
    add_endpoint_flags(endpoint, "teacher")
    arguments.add_argument("--temperature", type=within("--temperature", float, 0), default=0.8, help="of the teacher (default %(default)s)")
    arguments.add_argument("--second-look", action="store_true", help="ask the teacher which function serves each request; refuse where it is another")
    return arguments
