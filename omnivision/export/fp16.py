"""FP16 safetensors in the hub's layout, with reference answers, proved before they appear."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch

import omnivision
from omnivision.constants import FUNCTION_FILE
from omnivision.errors import ConfigError, DataError
from omnivision.export.checkpoint import load_checkpoint, refuse_activations, scan_weights, watch_activations
from omnivision.export.reference import PICTURE_FOLDER, plain_questions, read_questions, write_reference
from omnivision.export.verify import MANIFEST, all_files, check_gate, file_hash, verify_in_new_process
from omnivision.functions import FunctionSet, functional_tokens


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
        What verify_export returns, and {"out", "weights", "activations"}.

    Raises:
        ConfigError: no checkpoint, or out_dir exists. DataError: numbers that FP16 cannot hold,
        broken files, or fewer than 99 % of next tokens equal to fp32.
    """
    out, source = Path(out_dir), Path(model_dir)
    if out.exists():
        raise ConfigError(
            "the output folder exists already", str(out), "Choose another --out or remove it: nothing is overwritten."
        )
    if count < 1:
        raise ConfigError(f"{count} questions prove nothing", "--count", "Give at least 1.")
    with torch.random.fork_rng(), _whole_or_nothing(out) as folder, tempfile.TemporaryDirectory() as drawn:
        asked = read_questions(questions, image_root, count) if questions else plain_questions(Path(drawn), count)
        model, processor = load_checkpoint(source, torch.float32)
        weights = scan_weights(model)
        if weights.refused:
            raise DataError(
                f"{len(weights.refused)} tensors do not fit FP16: {'; '.join(weights.refused[:3])}",
                str(source),
                "Keep this checkpoint in fp32 or bf16, or take one from before it diverged.",
            )
        with watch_activations(model) as largest:
            write_reference(folder, model, processor, asked)
        layer, value = refuse_activations(largest)
        _write(folder, source, model, processor)
        del model
        manifest = {
            "format": "fp16 safetensors",
            "version": omnivision.__version__,
            "weights": {
                "largest": weights.largest,
                "tensor": weights.largest_tensor,
                "flushed_to_zero": weights.flushed_to_zero,
            },
            "activations": {"largest": value, "layer": layer},
            "sha256": {path.relative_to(folder).as_posix(): file_hash(path) for path in all_files(folder)},
        }
        _write_manifest(folder, manifest)
        result = verify_in_new_process(folder)
        check_gate(result, out)
        _write_manifest(folder, {**manifest, "verified": result})
    return {**result, "out": str(out), "weights": manifest["weights"], "activations": manifest["activations"]}


@contextmanager
def _whole_or_nothing(out: Path):
    """A working folder on the same disk that becomes `out` at the end, or vanishes on any error or signal."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        os.rename(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, source: Path, model, processor) -> None:
    model.half().save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)
    if (source / FUNCTION_FILE).is_file():
        functions = FunctionSet.load(source)
        functional_tokens(processor.tokenizer, functions)  # raises where they do not belong to this checkpoint
        functions.save(folder)


def _write_manifest(folder: Path, manifest: dict) -> None:
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def print_result(result: dict) -> None:
    """The result as a few lines for a reader."""
    width = max(len(name) for name in result["bytes"])
    for name, number in result["bytes"].items():
        print(f"{name:<{width}}  {number:>15,} bytes")
    total = sum(number for name, number in result["bytes"].items() if name != f"{PICTURE_FOLDER}/")
    print(f"{'total':<{width}}  {total:>15,} bytes (without the reference pictures)")
    print(
        f"next token equal to fp32 on {result['top1_agreement']:.2f} % of {result['questions']} questions "
        f"(fp16 weights, computed in {result['compute']}), largest log-probability difference {result['max_abs_logprob_diff']:.2g}",
    )
