"""`omnivision export onnx`: three graphs, their companions and a runner, proved in onnxruntime before they appear."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

import omnivision
from omnivision.errors import ConfigError
from omnivision.export import fp16
from omnivision.export.checkpoint import load_checkpoint, refuse_weights, scan_weights
from omnivision.export.folder import hashes_of, whole_or_nothing, write_manifest
from omnivision.export.onnx_files.check import FORMAT, GATES, check_gate, show, write_answers
from omnivision.export.packages import needed
from omnivision.export.reference import Question, plain_questions, read_questions, write_reference
from omnivision.export.verify import verify_in_new_process
from omnivision.generation import generate_ids

HELP = "ONNX graphs for onnxruntime and transformers.js"
DESCRIPTION = "Writes vision, embedding and decoder graphs and a runner without torch; runs them in onnxruntime in a new process; keeps them only if they agree."
EXAMPLE = "omnivision export onnx --model runs/quickstart/functions/final --out phone --quantize fp16 int8"
ANSWERS, ANSWER_TOKENS = 50, 32  # greedy answers that travel with an export, and the longest of them
__all__ = ["add_arguments", "export_onnx", "run", "show"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shared flags and the variants."""
    fp16.add_arguments(parser)
    parser.add_argument("--quantize", nargs="+", choices=tuple(GATES), default=["fp32"], metavar="TYPE",
                        help="one or more of fp32 (default), fp16 (stored so, computed in fp32) and int8 (products of whole numbers)")


def run(args: argparse.Namespace) -> dict:
    """Export as the flags say."""
    return export_onnx(args.model, args.out, args.quantize, args.questions, args.image_root, args.count)


def export_onnx(model_dir: str | Path, out_dir: str | Path, variants: Sequence[str] = ("fp32",), questions: str | Path | None = None,
                image_root: str | Path | None = None, count: int = 200) -> dict:
    """Write a checkpoint as ONNX and prove it; the folder appears whole or not at all.

    Args:
        variants: some of fp32, fp16 and int8. The rest as fp16.export_fp16.

    Returns:
        What verify_folder returns, and {"out"}.

    Raises:
        ConfigError: no checkpoint, out_dir exists, or an architecture that cannot be expressed. DataError: broken files,
        weights that are not finite, or answers too far from the checkpoint's. ResumableError: a full disk.
    """
    out, source = Path(out_dir), Path(model_dir)
    variants = [name for name in GATES if name in variants]
    for name in ("onnx_ir", "onnxscript", "onnxruntime", "tokenizers"):
        needed(name, "export onnx")
    from omnivision.export.onnx_files.layout import write_layout  # these need the packages
    from omnivision.export.onnx_files.writing import write_graphs

    if count < 1:
        raise ConfigError(f"{count} questions prove nothing", "--count", "Give at least 1.")
    with torch.random.fork_rng(), whole_or_nothing(out) as folder, tempfile.TemporaryDirectory() as drawn:
        asked = read_questions(questions, image_root, count) if questions else plain_questions(Path(drawn), count)
        model, processor = load_checkpoint(source, torch.float32)
        if "fp16" in variants:
            refuse_weights(scan_weights(model), str(source))
        write_reference(folder, model, processor, asked)
        write_answers(folder, _answers(model, processor, asked))
        external = write_graphs(folder / "onnx", model, variants)
        write_layout(folder, source, model, processor, variants, external)
        del model
        manifest = {"format": FORMAT, "version": omnivision.__version__, "sha256": hashes_of(folder)}
        write_manifest(folder, manifest)
        result = verify_in_new_process(folder)
        check_gate(result, out)
        write_manifest(folder, {**manifest, "verified": result})
    return {**result, "out": str(out)}


def _answers(model, processor, asked: list[Question]) -> list[tuple[int, list[int]]]:
    """Greedy answers to questions spread over the reference."""
    count = min(ANSWERS, len(asked))
    numbers = [index * len(asked) // count for index in range(count)]
    ids = generate_ids(model, processor, [asked[number].text for number in numbers], [asked[number].image for number in numbers], ANSWER_TOKENS)
    return list(zip(numbers, ids, strict=True))
