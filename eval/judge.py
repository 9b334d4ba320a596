"""The judge of MM-Vet: who grades, what it may cost, and where its replies are kept."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omnivision.endpoint import Endpoint, Ledger
from omnivision.endpoint.flags import add_endpoint_flags, endpoint_of, is_address
from omnivision.endpoint.secret import Secret
from omnivision.errors import ConfigError

from .judge_endpoint import EndpointJudge
from .judge_grades import Judge, grade_rows
from .judge_prompt import Prompt, read_prompt
from .judge_recorded import RecordedJudge

LEDGER_FILE = "judge.ledger.jsonl"
FLAGS = ("judge", "judge-")  # what the endpoint is, and what its limits' flags begin with


def add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    """The judge's arguments, as a group."""
    judge = parser.add_argument_group("the judge of mmvet")
    judge.add_argument("--judge", metavar="WHO", help="the address of an OpenAI-compatible endpoint, e.g. https://api.openai.com/v1; "
                                                      f"or the {LEDGER_FILE} of an earlier judging, whose replies are used again. The official judge is gpt-4-0613")
    judge.add_argument("--judge-runs", type=int, default=1, metavar="N", help="grades of each answer (default 1; the paper has 5)")
    judge.add_argument("--judge-prompt", type=Path, metavar="FILE", help="a text, or the official mm-vet_evaluator.py; else our own")
    judge.add_argument("--judge-max-tokens", type=int, default=3, metavar="N", help="of a reply (default 3, as the official script)")
    add_endpoint_flags(judge, *FLAGS)


def check_judge(options: argparse.Namespace) -> Prompt:
    """Finds what would stop the judging before a model has answered for hours: settings, prompt, key, recorded ledger.

    Returns:
        The prompt.

    Raises:
        ConfigError: a setting that cannot be, or a key that is not set. DataError: a file that cannot be read.
    """
    if options.judge_runs < 1:
        raise ConfigError(f"--judge-runs is {options.judge_runs}", "--judge-runs", "Give 1 or more.")
    prompt = read_prompt(options.judge_prompt)
    if is_address(options.judge):
        Secret(_endpoint(options).key_variable)
    else:
        _recorded(options, prompt)
    return prompt


def judge_rows(rows: list[dict], answers: list[str | None], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Grades answers; whatever the judge does, a grade that it did not give is missing and never 0.

    Args:
        rows: from `mmvet.load`; get their `grades`.
        answers: one a row, None where it is missing.
        options: of `add_judge_arguments`.
        folder: gets judge.ledger.jsonl (an endpoint's; nothing in it is asked again) and grades.json, the official grades file,
            which `mmvet.attach_grades` reads back.

    Returns:
        What must be said beside the score: judge, prompt, runs, failures by kind, requests that may have been billed for nothing.

    Raises:
        ConfigError: as `check_judge`; or the endpoint refuses the key.
        DataError: as `check_judge`; or the ledger is broken.
        ResumableError: the budget is spent, the account has no credit, or the disk is full.
    """
    prompt = check_judge(options)
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(options, prompt, folder) as judge:
        return grade_rows(rows, answers, judge, prompt, options.judge_runs, folder)


@contextmanager
def _opened(options: argparse.Namespace, prompt: Prompt, folder: Path) -> Iterator[Judge]:
    if not is_address(options.judge):
        yield _recorded(options, prompt)
        return
    with Ledger(folder / LEDGER_FILE) as ledger:
        yield EndpointJudge(_endpoint(options), ledger)


def _recorded(options: argparse.Namespace, prompt: Prompt) -> RecordedJudge:
    return RecordedJudge(Path(options.judge), prompt.hash, options.judge_model)


def _endpoint(options: argparse.Namespace) -> Endpoint:
    """The endpoint's settings; without a seed, as the official script, so that runs can differ."""
    return endpoint_of(options, *FLAGS, max_tokens=options.judge_max_tokens, seed=None)
