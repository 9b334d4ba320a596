"""`omnivision export onnx`: three graphs, their companions and a runner, proved in onnxruntime before they appear."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import omnivision
from omnivision.errors import ConfigError
from omnivision.export.checkpoint import Checkpoint, open_checkpoint
from omnivision.export.folder import hashes_of, whole_or_nothing, write_manifest
from omnivision.export.fp16_limits import refuse_beyond, refuse_not_finite, scan_weights
from omnivision.export.onnx_files.check import FORMAT, check_gate, write_rounded
from omnivision.export.onnx_files.command import VARIANTS
from omnivision.export.packages import needed
from omnivision.export.reference import gather_questions, next_token, read_reference, write_reference
from omnivision.export.verify import verify_in_new_process
from omnivision.memory import peak_bytes

def export_onnx(model_dir: str | Path, out_dir: str | Path, variants: Sequence[str] = ("fp32",), questions: str | Path | None = None,
                image_root: str | Path | None = None, count: int = 50, new_tokens: int = 32) -> dict:
    """Write a checkpoint as ONNX and prove it; the folder appears whole or not at all.

    Args:
        variants: some of fp32, fp16 and int8.
        new_tokens: the longest greedy answer that travels with the export. The rest as fp16.export_fp16.

    Returns:
        What verify_folder returns, and {"out", "writing_peak_bytes": of this process}.

    Raises:
        ConfigError: no checkpoint, out_dir exists, or an architecture that cannot be expressed. DataError: broken files,
        weights that are not finite, or answers too far from the checkpoint's. ResumableError: a full disk.
    """
    out, source = Path(out_dir), Path(model_dir)
    variants = [name for name in VARIANTS if name in variants]
    for name in ("onnx_ir", "onnxscript", "onnxruntime", "tokenizers"):
        needed(name, "export onnx")
    from omnivision.export.onnx_files.layout import write_layout  # these need the packages
    from omnivision.export.onnx_files.writing import write_graphs

    if count < 1 or new_tokens < 2:
        raise ConfigError(f"{count} questions and {new_tokens} tokens prove nothing", "--count, --tokens", "Give at least 1 and 2.")
    with torch.random.fork_rng(), whole_or_nothing(out, source) as folder, tempfile.TemporaryDirectory() as drawn:
        asked = gather_questions(questions, image_root, count, Path(drawn))
        checkpoint = open_checkpoint(source)
        weights = scan_weights(checkpoint.tensors())
        refuse_not_finite(weights, str(source))  # answers need not show them: of embeddings only the rows that are asked for are read
        if "fp16" in variants:
            refuse_beyond(weights, str(source), "Take --quantize fp32, or a checkpoint from before it diverged.")
        external = write_graphs(folder / "onnx", checkpoint, variants)
        write_reference(folder, checkpoint.running_model(), checkpoint.processor, asked, new_tokens)
        if "fp16" in variants:
            write_rounded(folder, _rounded(folder, checkpoint))
        write_layout(folder, checkpoint, variants, external)
        peak = peak_bytes()
        manifest = {"format": FORMAT, "version": omnivision.__version__, "not_applied": checkpoint.not_applied, "writing_peak_bytes": peak,
                    "sha256": hashes_of(folder)}
        write_manifest(folder, manifest)
        result = verify_in_new_process(folder)
        check_gate(result, out)
        write_manifest(folder, {**manifest, "verified": result})
    return {**result, "out": str(out), "writing_peak_bytes": peak}


def _rounded(folder: Path, checkpoint: Checkpoint) -> Iterator[list[float]]:
    """Asks the reference's questions again of a model whose tables are rounded as store_fp16 stores them."""
    from omnivision.export.onnx_files.storage import is_large

    model = checkpoint.running_model(lambda values: values.half().float() if is_large(values) else values)
    for question, row in read_reference(folder):
        _, logprobs_V = next_token(model, checkpoint.processor, question)
        yield logprobs_V[row["top_ids"]].tolist()
