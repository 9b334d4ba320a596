"""FP16 safetensors in the hub's layout, with reference answers, proved before they appear."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch

import omnivision
from omnivision.constants import FUNCTION_FILE
from omnivision.errors import ConfigError
from omnivision.export.checkpoint import Checkpoint, open_checkpoint
from omnivision.export.folder import count_bytes, hashes_of, whole_or_nothing, write_manifest
from omnivision.export.fp16_check import FORMAT, check_gate
from omnivision.export.fp16_limits import is_kept, refuse_activations, refuse_beyond, refuse_not_finite, scan_weights, watch_activations
from omnivision.export.model_card import add_card
from omnivision.export.reference import gather_questions, next_token, plain_questions, write_reference
from omnivision.export.safetensors_file import Planned, write_safetensors
from omnivision.export.stored import WHOLE
from omnivision.export.verify import verify_in_new_process
from omnivision.functions import FunctionSet, functional_tokens
from omnivision.memory import peak_bytes

SCAN_PICTURES = 200  # over which activations are looked at, at the least


def export_fp16(
    model_dir: str | Path,
    out_dir: str | Path,
    questions: str | Path | None = None,
    image_root: str | Path | None = None,
    count: int = 200,
    keep: tuple[str, ...] = (),
    license_id: str = "other",
    scan_pictures: int = SCAN_PICTURES,
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
        keep: names of layers that stay in fp32.
        license_id: for the model card, the hub's identifier.
        scan_pictures: over how many pictures activations are looked at; drawn ones fill up where the questions have fewer.

    Returns:
        What verify_folder returns, and {"out", "weights", "activations", "writing_peak_bytes": of this process}.

    Raises:
        ConfigError: no checkpoint, or out_dir exists. DataError: numbers that FP16 cannot hold,
        broken files, or fewer than 99 % of next tokens equal to fp32.
    """
    out, source = Path(out_dir), Path(model_dir)
    if count < 1:
        raise ConfigError(f"{count} questions prove nothing", "--count", "Give at least 1.")
    with torch.random.fork_rng(), whole_or_nothing(out, source) as folder, tempfile.TemporaryDirectory() as drawn:
        asked = gather_questions(questions, image_root, count, Path(drawn))
        checkpoint = open_checkpoint(source)
        model, processor = checkpoint.running_model(), checkpoint.processor
        _check_layers(model, keep)
        weights = scan_weights(checkpoint.tensors(), keep)
        refuse_not_finite(weights, str(source))
        refuse_beyond(weights, str(source))
        pictures = {one.image for one in asked if one.image is not None}
        more = plain_questions(Path(drawn) / "more", scan_pictures)[len(pictures):]  # the first ones may have been asked about already
        with watch_activations(model) as largest:
            write_reference(folder, model, processor, asked)
            for question in more:
                next_token(model, processor, question)
        layer, value = refuse_activations(largest, keep)
        del model
        _write(folder, checkpoint, keep)
        peak = peak_bytes()
        manifest = {
            "format": FORMAT,
            "version": omnivision.__version__,
            "kept_in_fp32": list(keep),
            "weights": {
                "largest": weights.largest,
                "tensor": weights.largest_tensor,
                "flushed_to_zero": weights.flushed_to_zero,
            },
            "activations": {"largest": value, "layer": layer, "pictures": len(pictures) + len(more)},
            "writing_peak_bytes": peak,
            "sha256": hashes_of(folder),
        }
        write_manifest(folder, manifest)
        result = verify_in_new_process(folder)
        check_gate(result, out)
        manifest = add_card(folder, manifest, source, license_id, _figures(result, manifest))
        result["bytes"] = count_bytes(folder)
        write_manifest(folder, {**manifest, "verified": result})
    return {**result, "out": str(out), "weights": manifest["weights"], "activations": manifest["activations"], "writing_peak_bytes": peak}


def _figures(result: dict, manifest: dict) -> list[str]:
    """What was measured, for the model card."""
    weights, activations = manifest["weights"], manifest["activations"]
    return [
        f"next token equal to fp32 on {result['top1_agreement']:.2f} % of {result['questions']} questions ({result['compute']} on FP16 weights)",
        f"largest difference of a log-probability: {result['max_abs_logprob_diff']:.3g}",
        f"largest activation over {activations['pictures']} pictures: {activations['largest']:.4g} in {activations['layer']} (FP16 ends at 65504)",
        f"largest weight: {weights['largest']:.4g} in {weights['tensor']}; {weights['flushed_to_zero']} weights became zero",
        f"layers kept in fp32: {', '.join(manifest['kept_in_fp32']) or 'none'}",
        f"bytes of the weights: {result['bytes'][WHOLE]:,}",
    ]


def _check_layers(model, keep: tuple[str, ...]) -> None:
    known = dict(model.named_modules())
    unknown = [layer for layer in keep if layer not in known or not layer]
    if unknown:
        raise ConfigError(f"there is no layer {unknown[0]!r}", "--keep-fp32", "Give names such as model.projector.linear_1.")
    idle = [layer for layer in keep if isinstance(known[layer], torch.nn.ModuleList) or not any(True for _ in known[layer].parameters())]
    if model.config.tie_word_embeddings and "lm_head" in keep and "model.language_model" not in keep:
        # what embeddings in fp32 give would meet blocks in FP16
        raise ConfigError("the head's weights are those of the embeddings", "--keep-fp32 lm_head", "Give both: lm_head model.language_model.")
    if idle:
        raise ConfigError(f"{idle[0]!r} has no weights, or is a list of layers that does not run itself", "--keep-fp32", "Give the layer around it.")


def _write(folder: Path, checkpoint: Checkpoint, keep: tuple[str, ...]) -> None:
    plan = {name: Planned(torch.float32 if is_kept(name, keep) else torch.float16, shape, partial(checkpoint.load, name))
            for name, shape in checkpoint.shapes.items()}
    write_safetensors(folder / WHOLE, plan)
    config, model = checkpoint.config, checkpoint.hollow_model()
    config.architectures, config.dtype = [type(model).__name__], torch.float16
    if keep or getattr(config, "keep_fp32", None):  # an FP16 export that is exported again has a list of its own
        config.keep_fp32 = list(keep) or None
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    checkpoint.processor.save_pretrained(folder)
    if (checkpoint.folder / FUNCTION_FILE).is_file():
        functions = FunctionSet.load(checkpoint.folder)
        functional_tokens(checkpoint.processor.tokenizer, functions)  # raises where they do not belong to this checkpoint
        functions.save(folder)
