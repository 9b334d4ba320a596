"""Does an export answer as its checkpoint did? Run on the export's own reference answers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

import omnivision
from omnivision.errors import ConfigError, DataError, OmniError
from omnivision.export.checkpoint import load_checkpoint
from omnivision.export.reference import PICTURE_FOLDER, next_token, read_reference

MANIFEST = "export.json"
GATE = 99.0  # per cent of the questions whose next token must agree
COMPUTE = ("auto", "float32", "float16")


def verify_export(folder: str | Path, compute: str = "auto") -> dict:
    """Reload an export through transformers' Auto classes and compare next tokens.

    Args:
        folder: what `export fp16` wrote.
        compute: the type of the arithmetic on the FP16 weights. "auto" is float16 on a GPU and
            float32 on a CPU, where half-precision kernels are slow or absent.

    Returns:
        {"bytes": {file: n}, "top1_agreement": per cent, "questions": n,
        "max_abs_logprob_diff": over the reference's best tokens, "compute": type and device}

    Raises:
        ConfigError: no export there. DataError: a file that changed, weights that are not FP16,
        or a tokenizer or template that builds another prompt.
    """
    folder = Path(folder)
    check_hashes(folder)
    model, processor = load_checkpoint(folder, dtype="auto")
    other = sorted({str(value.dtype) for value in model.parameters()} - {"torch.float16"})
    if other:
        raise DataError(f"weights in {', '.join(other)}", str(folder), "This is no FP16 export: export again.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if compute == "auto":
        compute = "float16" if device == "cuda" else "float32"
    model.to(device, getattr(torch, compute))
    agree, questions, furthest = 0, 0, 0.0
    for question, row in read_reference(folder):
        ids_L, logprobs_V = next_token(model, processor, question)
        if ids_L != row["input_ids"]:
            raise DataError(
                f"the prompt has changed: {len(ids_L)} tokens, {len(row['input_ids'])} in the reference, first different "
                f"at {_first_difference(ids_L, row['input_ids'])}",
                f"question {question.text!r}",
                "Tokenizer or chat template differ from the checkpoint's: export again.",
            )
        expected_K = torch.tensor(row["top_logprobs"])
        furthest = max(furthest, float((logprobs_V[row["top_ids"]] - expected_K).abs().max()))
        agree += int(logprobs_V.argmax()) == row["top_ids"][0]
        questions += 1
    if not questions:
        raise DataError("the reference is empty", str(folder), "Export again with at least one question.")
    return {
        "bytes": count_bytes(folder),
        "top1_agreement": round(100 * agree / questions, 3),
        "questions": questions,
        "max_abs_logprob_diff": furthest,
        "compute": f"{compute} on {device}",
    }


def verify_in_new_process(folder: str | Path, compute: str = "auto") -> dict:
    """verify_export in a fresh interpreter: nothing that the exporting process holds can help.

    Raises:
        As verify_export; DataError too where the process dies.
    """
    home = str(Path(omnivision.__file__).parent.parent)
    path = os.pathsep.join(part for part in (home, os.environ.get("PYTHONPATH")) if part)
    command = [sys.executable, "-m", "omnivision.export.verify", str(Path(folder).resolve()), compute]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        tail = " ".join(done.stderr.split())[-300:]
        raise DataError(f"verification died with exit code {done.returncode}: {tail}", str(folder)) from error
    if "error" in answer:
        raise (ConfigError if answer["exit_code"] == ConfigError.exit_code else DataError)(*answer["error"])
    return answer


def check_gate(result: dict, folder: str | Path) -> None:
    """Raises DataError where too few next tokens agree."""
    # A NaN difference fails too: every comparison with it is false.
    if not (result["top1_agreement"] >= GATE and result["max_abs_logprob_diff"] < float("inf")):
        raise DataError(
            f"the next token agrees on {result['top1_agreement']:.2f} % of {result['questions']} questions, "
            f"the gate is {GATE:g} % (largest log-probability difference {result['max_abs_logprob_diff']:.3g})",
            str(folder),
            "FP16 changes this model's answers: keep it in fp32 or bf16, or train on before exporting.",
        )


def check_hashes(folder: Path) -> None:
    """Every file must be as it was written: safetensors notices a cut file, not a flipped bit."""
    file = folder / MANIFEST
    try:
        hashes = json.loads(file.read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("no export", str(file), "Give a folder that `omnivision export fp16` wrote.") from error
    for name, wanted in hashes.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{name} is missing", str(folder), "Copy the export again.")
        if file_hash(path) != wanted:
            raise DataError(f"{name} has changed since it was exported", str(folder), "Copy the export again.")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def all_files(folder: Path) -> list[Path]:
    """Files of an export in order of their names, without the manifest."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def count_bytes(folder: Path) -> dict[str, int]:
    """Bytes per file; the reference pictures count as one entry."""
    counts: dict[str, int] = {}
    for path in all_files(folder):
        name = path.relative_to(folder).as_posix()
        name = f"{PICTURE_FOLDER}/" if name.startswith(f"{PICTURE_FOLDER}/") else name
        counts[name] = counts.get(name, 0) + path.stat().st_size
    return counts


def _first_difference(left: list[int], right: list[int]) -> int:
    return next(
        (index for index, pair in enumerate(zip(left, right)) if pair[0] != pair[1]), min(len(left), len(right))
    )


def _child() -> int:
    try:
        print(json.dumps(verify_export(*sys.argv[1:])))
        return 0
    except OmniError as error:
        print(json.dumps({"error": [error.what, error.where, error.remedy], "exit_code": error.exit_code}))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(_child())
