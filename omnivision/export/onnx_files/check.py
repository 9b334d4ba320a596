"""Does an ONNX export answer as its checkpoint did? Its reference questions, asked of the runner in onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from omnivision.errors import DataError
from omnivision.export.folder import check_hashes, count_bytes, print_bytes
from omnivision.export.packages import needed
from omnivision.export.reference import Question, read_reference

if TYPE_CHECKING:
    from omnivision.export.onnx_files.runner import Runner

FORMAT = "onnx"
ANSWER_FILE = "answers.jsonl"
# For each variant: per cent of equal next tokens, largest difference of a log-probability, per cent of equal answers.
GATES = {"fp32": (99.0, 1e-3, 98.0), "fp16": (99.0, 5e-2, 90.0), "int8": (90.0, float("inf"), 0.0)}


def verify(folder: str | Path, compute: str = "auto") -> dict:
    """Run every variant of an export on its reference.

    Args:
        folder: what `export onnx` wrote.
        compute: has no meaning here: the graphs say what they compute in.

    Returns:
        {"bytes": {file: n}, "questions": n, "engine": name and version, "variants": {name: {"top1_agreement": per cent of
        equal next tokens, "max_abs_logprob_diff": over the reference's best tokens, "answers": n, "equal_answers": n,
        "equal_answer_tokens": per cent before the first difference}}}

    Raises:
        ConfigError: no export there. DataError: a file that changed, graphs that do not load, or another prompt.
    """
    folder = Path(folder)
    check_hashes(folder)
    rows, answers = list(read_reference(folder)), _read_answers(folder)
    if not rows:
        raise DataError("the reference is empty", str(folder), "Export again with at least one question.")
    engine = needed("onnxruntime", "export verify")
    from omnivision.export.onnx_files.runner import SETTINGS

    variants = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["variants"]
    return {
        "bytes": count_bytes(folder),
        "questions": len(rows),
        "engine": f"onnxruntime {engine.__version__}",
        "variants": {name: _compare(_runner(folder, name), rows, answers) for name in variants},
    }


def _runner(folder: Path, variant: str) -> Runner:
    from omnivision.export.onnx_files.runner import Runner

    try:
        return Runner(folder, variant, threads=torch.get_num_threads())
    except Exception as error:  # onnxruntime has a class for each of its faults, tokenizers none
        raise DataError(f"the {variant} graphs do not load: {' '.join(str(error).split())[:300]}", str(folder), "Export again.") from error


def _compare(runner: Runner, rows: list[tuple[Question, dict]], answers: dict[int, list[int]]) -> dict:
    from omnivision.export.onnx_files.runner import open_picture

    agree, furthest, equal, same, tokens = 0, 0.0, 0, 0, 0
    for number, (question, row) in enumerate(rows):
        picture = open_picture(question.image) if question.image else None
        if runner.prompt(question.text, picture is not None) != row["input_ids"]:
            raise DataError("the runner builds another prompt than the checkpoint", f"question {question.text!r}", "Export again.")
        logprobs_V = _log_softmax(runner.logits(question.text, picture))
        agree += int(logprobs_V.argmax()) == row["top_ids"][0]
        furthest = max(furthest, float(np.abs(logprobs_V[row["top_ids"]] - row["top_logprobs"]).max()))
        if number in answers:
            expected = answers[number]
            given = runner.generate(question.text, picture, len(expected))
            equal += given == expected
            same += _equal_head(given, expected)
            tokens += len(expected)
    return {
        "top1_agreement": round(100 * agree / len(rows), 3),
        "max_abs_logprob_diff": furthest,
        "answers": len(answers),
        "equal_answers": equal,
        "equal_answer_tokens": round(100 * same / max(1, tokens), 3),
    }


def _log_softmax(logits_V: np.ndarray) -> np.ndarray:
    logits_V = logits_V.astype(np.float64) - logits_V.max()
    return logits_V - np.log(np.exp(logits_V).sum())


def _equal_head(given: list[int], expected: list[int]) -> int:
    return next((place for place, pair in enumerate(zip(given, expected)) if pair[0] != pair[1]), min(len(given), len(expected)))


def write_answers(folder: Path, answers: Iterable[tuple[int, list[int]]]) -> None:
    """Writes greedy answers beside the reference: the number of the question there, and the checkpoint's ids."""
    lines = (json.dumps({"reference": number, "ids": ids}) + "\n" for number, ids in answers)
    (folder / ANSWER_FILE).write_text("".join(lines), encoding="utf-8")


def _read_answers(folder: Path) -> dict[int, list[int]]:
    file = folder / ANSWER_FILE
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return {int(row["reference"]): list(row["ids"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("no greedy answers, or broken ones", str(file), "This is no export, or not a whole one: export again.") from error


def check_gate(result: dict, folder: str | Path) -> None:
    """Raises DataError where a variant is too far from the checkpoint."""
    for name, found in result["variants"].items():
        least, furthest, answers = GATES[name]
        # A NaN difference fails too: every comparison with it is false.
        if not (found["top1_agreement"] >= least and found["max_abs_logprob_diff"] <= furthest
                and found["equal_answers"] >= found["answers"] * answers / 100):
            raise DataError(
                f"{name}: {_found(found)}; the gate is {least:g} % of next tokens, {furthest:g} and {answers:g} % of answers",
                str(folder), "This variant changes the model's answers: take another --quantize.")


def show(result: dict) -> None:
    """The result as a few lines for a reader."""
    print_bytes(result["bytes"])
    for name, found in result["variants"].items():
        print(f"{name} in {result['engine']}, {result['questions']} questions: {_found(found)}")


def _found(found: dict) -> str:
    return (f"next token equal to fp32 on {found['top1_agreement']:.2f} %, largest log-probability difference "
            f"{found['max_abs_logprob_diff']:.2g}, {found['equal_answers']} of {found['answers']} greedy answers equal")
