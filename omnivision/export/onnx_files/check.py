"""Does an ONNX export answer as its checkpoint did? Its reference questions, asked of the runner in onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from omnivision.errors import DataError, one_line
from omnivision.export.folder import check_hashes, count_bytes, not_applied_lines, print_bytes
from omnivision.export.onnx_files.command import VARIANTS
from omnivision.export.packages import needed
from omnivision.export.reference import Question, read_reference
from omnivision.runs import read_json_lines

if TYPE_CHECKING:
    from omnivision.export.onnx_files.runner import Runner

FORMAT = "onnx"
ROUNDED_FILE = "rounded.jsonl"  # what the checkpoint says next with its weights rounded to FP16


class Gate(NamedTuple):
    """What a variant must reach."""

    next_tokens: float  # per cent equal to the checkpoint's in fp32
    logprob: float  # largest difference
    answers: float  # per cent equal
    engine: float = float("inf")  # largest difference of a log-probability from PyTorch with the same weights


GATES = dict(zip(VARIANTS, (Gate(99, 1e-3, 98, 1e-3), Gate(99, 5e-2, 90, 1e-3), Gate(90, float("inf"), 0)), strict=True))


def verify(folder: str | Path, compute: str = "auto") -> dict:
    """Run every variant of an export on its reference.

    Args:
        folder: what `export onnx` wrote.
        compute: has no meaning here: the graphs say what they compute in.

    Returns:
        {"bytes": {file: n}, "questions": n, "engine": name and version, "variants": {name: {"top1_agreement": per cent of
        equal next tokens, "max_abs_logprob_diff": over the reference's best tokens, as far as the answers are equal,
        "max_abs_engine_diff": the same against PyTorch with the variant's own weights (None for int8: PyTorch has no such
        products), "equal_answers": of the questions, "equal_tokens": per cent before the first difference}}, "not_applied": as Checkpoint's}

    Raises:
        ConfigError: no export there. DataError: a file that changed, graphs that do not load, or another prompt.
    """
    folder = Path(folder)
    manifest = check_hashes(folder)
    rows = list(read_reference(folder))
    if not rows:
        raise DataError("the reference is empty", str(folder), "Export again with at least one question.")
    engine = needed("onnxruntime", "export verify")
    variants = named_variants(folder)
    return {
        "bytes": count_bytes(folder),
        "questions": len(rows),
        "engine": f"onnxruntime {engine.__version__}",
        "not_applied": manifest.get("not_applied", {}),
        "variants": {name: _compare(_runner(folder, name), rows, _expected(folder, name, rows)) for name in variants},
    }


def named_variants(folder: Path) -> list[str]:
    """The variants that an export holds.

    Raises:
        DataError: the runner's settings are missing or broken, or name none or others than there are.
    """
    from omnivision.export.onnx_files.runner import SETTINGS

    try:
        variants = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["variants"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("the runner's settings are missing or broken", str(folder / SETTINGS), "Export again.") from error
    if not isinstance(variants, list) or not variants or not set(map(str, variants)) <= set(GATES):
        raise DataError("the export names no variant", str(folder / SETTINGS), "Export again.")
    return variants


def _runner(folder: Path, variant: str) -> Runner:
    from omnivision.export.onnx_files.runner import Runner

    try:
        return Runner(folder, variant, threads=torch.get_num_threads())
    except Exception as error:  # onnxruntime has a class for each of its faults, tokenizers none
        raise DataError(f"the {variant} graphs do not load: {one_line(error)}", str(folder), "Export again.") from error


def _compare(runner: Runner, rows: list[tuple[Question, dict]], rounded: list[list[float]] | None) -> dict:
    from omnivision.export.onnx_files.runner import open_picture

    differences, engine, first, equal, same = [], [], 0, 0, 0
    for number, (question, row) in enumerate(rows):
        picture = open_picture(question.image) if question.image else None
        if runner.prompt(question.text, picture is not None) != row["input_ids"]:
            raise DataError("the runner builds another prompt than the checkpoint", f"question {question.text!r}", "Export again.")
        for place, (step, logits_V) in enumerate(zip(row["steps"], runner.steps(question.text, picture))):
            logprobs_V = _log_softmax(logits_V)
            differences.append(np.abs(logprobs_V[step["top_ids"]] - step["top_logprobs"]).max())
            if place == 0 and rounded:
                engine.append(np.abs(logprobs_V[step["top_ids"]] - rounded[number]).max())
            if int(logprobs_V.argmax()) != step["id"]:
                break
            first += place == 0
            same += 1
        else:
            equal += 1
    return {
        "top1_agreement": round(100 * first / len(rows), 3),
        "max_abs_logprob_diff": float(np.max(differences)),
        "max_abs_engine_diff": float(np.max(engine)) if rounded else None,
        "equal_answers": equal,
        "equal_tokens": round(100 * same / sum(len(row["steps"]) for _, row in rows), 3),
    }


def _log_softmax(logits_V: np.ndarray) -> np.ndarray:
    logits_V = logits_V.astype(np.float64) - logits_V.max()
    return logits_V - np.log(np.exp(logits_V).sum())


def write_rounded(folder: Path, logprobs: Iterable[list[float]]) -> None:
    """Writes, for every row of the reference, the log-probabilities of its first best tokens that rounded weights give."""
    (folder / ROUNDED_FILE).write_text("".join(json.dumps(row) + "\n" for row in logprobs), encoding="utf-8")


def _expected(folder: Path, variant: str, rows: list[tuple[Question, dict]]) -> list[list[float]] | None:
    """What PyTorch says next with a variant's own weights."""
    if variant == "fp32":
        return [row["top_logprobs"] for _, row in rows]
    if variant != "fp16":
        return None
    file = folder / ROUNDED_FILE
    try:
        expected = read_json_lines(file)
    except (OSError, ValueError) as error:
        raise DataError("no answers of the rounded weights, or broken ones", str(file), "Export again.") from error
    if [len(one) for one in expected] != [len(row["top_ids"]) for _, row in rows]:
        raise DataError("other answers of the rounded weights than the reference asks for", str(file), "Export again.")
    return expected


def check_gate(result: dict, folder: str | Path) -> None:
    """Raises DataError where a variant is too far from the checkpoint."""
    for name, found in result["variants"].items():
        gate, engine = GATES[name], found["max_abs_engine_diff"]
        # A NaN difference fails too: every comparison with it is false.
        if not (found["top1_agreement"] >= gate.next_tokens and found["max_abs_logprob_diff"] <= gate.logprob
                and 100 * found["equal_answers"] >= gate.answers * result["questions"] and (engine is None or engine <= gate.engine)):
            raise DataError(
                f"{name}: {_found(found, result['questions'])}; the gate is {gate.next_tokens:g} % of next tokens, {gate.logprob:g} "
                f"({gate.engine:g} with the same weights) and {gate.answers:g} % of answers",
                str(folder), "This variant changes the model's answers: take another --quantize.")


def show(result: dict) -> None:
    """The result as a few lines for a reader."""
    print_bytes(result["bytes"])
    for line in not_applied_lines(result):
        print(line)
    for name, found in result["variants"].items():
        print(f"{name} in {result['engine']}, {result['questions']} questions: {_found(found, result['questions'])}")


def _found(found: dict, questions: int) -> str:
    engine = found["max_abs_engine_diff"]
    same = "" if engine is None else f" ({engine:.2g} from PyTorch with the same weights)"
    return (f"next token equal to fp32 on {found['top1_agreement']:.2f} %, largest log-probability difference "
            f"{found['max_abs_logprob_diff']:.2g}{same}, {found['equal_answers']} of {questions} answers equal")
