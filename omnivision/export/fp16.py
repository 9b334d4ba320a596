"""FP16 safetensors in the hub's layout, with reference answers, proved before they appear."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

import omnivision
from omnivision.constants import FUNCTION_FILE
from omnivision.errors import ConfigError
from omnivision.export.checkpoint import load_checkpoint, refuse_activations, refuse_weights, scan_weights, watch_activations
from omnivision.export.folder import hashes_of, whole_or_nothing, write_manifest
from omnivision.export.fp16_check import FORMAT, check_gate, show
from omnivision.export.reference import plain_questions, read_questions, write_reference
from omnivision.export.verify import verify_in_new_process
from omnivision.functions import FunctionSet, functional_tokens

HELP = "FP16 safetensors in the hub's layout"
DESCRIPTION = (
    "Writes FP16 safetensors, reloads them in a new process and compares next tokens with fp32; below 99 % agreement nothing is left behind."
)
EXAMPLE = "omnivision export fp16 --model runs/quickstart/dpo/final --out phone --questions world/eval/open.jsonl --image-root world"
__all__ = ["add_arguments", "export_fp16", "run", "show"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that every target shares: the checkpoint, the new folder, the reference questions."""
    parser.add_argument("--model", required=True, metavar="DIR", help="a checkpoint in the hub's layout")
    parser.add_argument("--out", required=True, metavar="DIR", help="the new folder; must not exist")
    parser.add_argument("--questions", metavar="FILE", help="JSON lines with text and image (else simple drawn pictures)")
    parser.add_argument("--image-root", metavar="DIR", help="where image paths start (else the question file's folder)")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="reference questions (default %(default)s)")
    parser.add_argument("--keep-fp32", nargs="+", default=[], metavar="LAYER", help="layers that stay in fp32, such as model.projector.linear_1")


def run(args: argparse.Namespace) -> dict:
    """Export as the flags say."""
    return export_fp16(args.model, args.out, args.questions, args.image_root, args.count)


def export_fp16(
    model_dir: str | Path,
    out_dir: str | Path,
    questions: str | Path | None = None,
    image_root: str | Path | None = None,
    count: int = 200,
) -> dict:
    """Write a checkpoint in FP16 and prove it.

    The folder appears whole or not at all: everything is written beside it under another name, a
    new process reloads it and answers the reference questions, and only then it gets its name.

    Args:
        model_dir: a checkpoint in the hub's layout.
        out_dir: the new folder.
        questions: JSON lines with text and image; None draws simple pictures.
        image_root: where the image paths start; None is the question file's folder.
        count: reference questions.

    Returns:
        What verify_folder returns, and {"out", "weights", "activations"}.

    Raises:
        ConfigError: no checkpoint, or out_dir exists. DataError: numbers that FP16 cannot hold,
        broken files, or fewer than 99 % of next tokens equal to fp32.
    """
    out, source = Path(out_dir), Path(model_dir)
    if count < 1:
        raise ConfigError(f"{count} questions prove nothing", "--count", "Give at least 1.")
    with torch.random.fork_rng(), whole_or_nothing(out) as folder, tempfile.TemporaryDirectory() as drawn:
        asked = read_questions(questions, image_root, count) if questions else plain_questions(Path(drawn), count)
        model, processor = load_checkpoint(source, torch.float32)
        weights = scan_weights(model)
        refuse_weights(weights, str(source))
        with watch_activations(model) as largest:
            write_reference(folder, model, processor, asked)
        layer, value = refuse_activations(largest)
        _write(folder, source, model, processor)
        del model
        manifest = {
            "format": FORMAT,
            "version": omnivision.__version__,
            "weights": {
                "largest": weights.largest,
                "tensor": weights.largest_tensor,
                "flushed_to_zero": weights.flushed_to_zero,
            },
            "activations": {"largest": value, "layer": layer},
            "sha256": hashes_of(folder),
        }
        write_manifest(folder, manifest)
        result = verify_in_new_process(folder)
        check_gate(result, out)
        write_manifest(folder, {**manifest, "verified": result})
    return {**result, "out": str(out), "weights": manifest["weights"], "activations": manifest["activations"]}


def _write(folder: Path, source: Path, model, processor) -> None:
    model.half().save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)
    if (source / FUNCTION_FILE).is_file():
        functions = FunctionSet.load(source)
        functional_tokens(processor.tokenizer, functions)  # raises where they do not belong to this checkpoint
        functions.save(folder)
