"""Writes a checkpoint as GGUF files for stock llama.cpp, with what proves them and what a client needs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from PIL import Image

import omnivision
from omnivision.constants import FUNCTION_FILE
from omnivision.errors import ConfigError, DataError
from omnivision.export.checkpoint import Checkpoint, open_checkpoint, open_config
from omnivision.export.folder import count_bytes, hashes_of, not_applied_lines, whole_or_nothing, write_manifest
from omnivision.export.fp16_limits import is_kept
from omnivision.export.gguf import tiles
from omnivision.export.gguf.calls import TOKENIZER
from omnivision.export.gguf.check import FORMAT, check_gate
from omnivision.export.gguf.embeddings import write_embeddings
from omnivision.export.gguf.fits import refuse_what_does_not_fit
from omnivision.export.gguf.gbnf import GRAMMAR_FILE, gbnf
from omnivision.export.gguf.packages import gguf
from omnivision.export.gguf.picture_file import write_picture
from omnivision.export.gguf.text_file import table_rows, write_text
from omnivision.export.gguf.vocabulary import Vocabulary, vocabulary
from omnivision.export.gguf.writing import Planned
from omnivision.export.model_card import add_card
from omnivision.export.reference import Question, gather_questions, write_reference
from omnivision.export.verify import verify_in_new_process
from omnivision.functions import FunctionSet, functional_tokens
from omnivision.generation import stop_ids
from omnivision.memory import peak_bytes
from omnivision.model.configuration import OmniVisionConfig
from omnivision.model.conversation import TEMPLATE_FILE, default_template

CLIENT = "client.py"
PARTS = {"token_embd": "embeddings", "output.": "head", "v.": "tower", "mm.": "projector"}


def export_gguf(model_dir: str | Path, out_dir: str | Path, quantizations: list[str], questions: str | Path | None = None,
                image_root: str | Path | None = None, count: int = 24, new_tokens: int = 16, keep: tuple[str, ...] = (),
                license_id: str = "other", picture_type: str = "q8_0") -> dict:
    """Write GGUF files and prove them in llama.cpp.

    Args:
        model_dir: a checkpoint in the hub's layout.
        out_dir: the new folder; it appears whole or not at all.
        quantizations: of types.QUANTIZATIONS, one text file each.
        questions, image_root, count: as in export_fp16.
        new_tokens: greedy tokens of every reference answer.
        keep: checkpoint names of layers that stay in fp32.
        license_id: for the model card, the hub's identifier.
        picture_type: of types.PICTURE_TYPES, for the picture file beside quantised text files; beside f16 it is f16.

    Returns:
        What verify_folder returns, and {"out", "writing_peak_bytes": of this process}.

    Raises:
        ConfigError: no checkpoint, one that llama.cpp cannot run, or out_dir exists. DataError: a broken checkpoint, numbers
        that a type cannot hold, or an engine that answers otherwise. ResumableError: the disk is full.
    """
    out, source = Path(out_dir), Path(model_dir)
    if count < 1 or new_tokens < 2:
        raise ConfigError(f"{count} questions and {new_tokens} tokens prove nothing", "--count, --tokens", "Give at least 1 and 2.")
    with torch.random.fork_rng(), whole_or_nothing(out, source) as folder, tempfile.TemporaryDirectory() as drawn:
        asked = gather_questions(questions, image_root, count, Path(drawn))
        pictures = {one: one if one == "f16" else picture_type for one in quantizations}
        refuse_what_does_not_fit(open_config(source), str(source))
        checkpoint = open_checkpoint(source)
        if (resample := checkpoint.processor.image_processor.resample) != Image.Resampling.BICUBIC:
            raise ConfigError(f"{CLIENT} squashes pictures by filter {int(Image.Resampling.BICUBIC)} (bicubic), this model's by {int(resample)}", str(source), "Use omnivision export onnx.")
        _refuse_another_template(checkpoint)
        words = vocabulary(checkpoint.processor.tokenizer, table_rows(checkpoint.stored), stop_ids(checkpoint))
        _refuse_control_tokens(asked, words, questions)
        parts = _write_files(folder, checkpoint, words, pictures, keep)
        model = checkpoint.running_model()
        write_reference(folder, model, checkpoint.processor, asked, new_tokens)
        write_embeddings(folder, model, checkpoint.processor)
        del model
        peak = peak_bytes()
        manifest = {
            "format": FORMAT,
            "version": omnivision.__version__,
            "files": {one: [text_name(one), picture_name(picture)] for one, picture in pictures.items()},
            "picture": picture_settings(checkpoint.config),
            "stop_token_ids": sorted(stop_ids(checkpoint)),
            "not_applied": checkpoint.not_applied,
            "parts": parts,
            "writing_peak_bytes": peak,
            "sha256": hashes_of(folder),
        }
        write_manifest(folder, manifest)
        result = verify_in_new_process(folder)
        check_gate(result, out)
        manifest = add_card(folder, manifest, source, license_id, _figures(result), "gguf")
        result["bytes"] = count_bytes(folder)
        write_manifest(folder, {**manifest, "verified": result})
    return {**result, "out": str(out), "writing_peak_bytes": peak}


def _figures(result: dict) -> list[str]:
    """What was measured, for the model card."""
    return [f"{name} in llama.cpp on {found['questions']} questions: greedy answers equal to fp32 {found['answers_equal']}, parted at a tie "
            f"of fp32 {found['ties']}, parted elsewhere {found['apart']}, "
            f"image embeddings within {found['embedding_diff']:.2g}, log-probabilities within {found['logprob_diff']:.2g}"
            for name, found in result["quantizations"].items()] + not_applied_lines(result)


def text_name(quantization: str) -> str:
    """File of the language model."""
    return f"model-{quantization}.gguf"


def picture_name(picture_type: str) -> str:
    """File of tower and projector."""
    return f"mmproj-{picture_type}.gguf"


def picture_settings(config: OmniVisionConfig) -> dict:
    """How a client prepares a picture, for tiles.prepared."""
    vision = config.vision_config
    return {"image_size": vision.image_size, "patch_size": vision.patch_size, "raster": config.projector_layout == "raster"}


def _refuse_another_template(checkpoint: Checkpoint) -> None:
    """The text file gets the project's template as llama.cpp needs it; the reference asks single questions, where another may look the same."""
    if checkpoint.processor.chat_template.strip() != default_template().strip():
        raise ConfigError("the checkpoint has a chat template of its own, the file for llama.cpp would get the project's", str(checkpoint.folder),
                          "Use omnivision export onnx; or, where the model was trained with the project's, put that in its place: "
                          f"{TEMPLATE_FILE.name} of omnivision/model.")


def _refuse_control_tokens(asked: list[Question], words: Vocabulary, file: str | Path | None) -> None:
    """Of what a user types the server makes the tokens themselves, the checkpoint reads letters: no file can answer the same."""
    control = [token for token, kind in zip(words.tokens, words.types) if kind == gguf().TokenType.CONTROL]
    for question in asked:
        held = next((token for token in control if token in question.text), None)
        if held:
            raise DataError(f"the question {question.text[:100]!r} holds the control token {held}, which llama.cpp's server does not read as text",
                            str(file), "Leave the question out.")


def _write_files(folder: Path, checkpoint: Checkpoint, words: Vocabulary, pictures: dict[str, str], keep: tuple[str, ...]) -> dict:
    """Every file but the reference; returns bytes per part. `pictures` says which picture file goes with a text file, by their types."""
    source, config, stored, tokenizer = checkpoint.folder, checkpoint.config, checkpoint.stored, checkpoint.processor.tokenizer
    kept = _kept(checkpoint, keep)
    images, parts = checkpoint.processor.image_processor, {}
    for one in pictures:
        plan = write_text(folder / text_name(one), config, stored, words, one, source.resolve().name, kept)
        parts[text_name(one)] = _part_bytes(plan)
    for one in dict.fromkeys(pictures.values()):
        plan = write_picture(folder / picture_name(one), config, stored, one, source.resolve().name, images.image_mean, images.image_std, kept)
        parts[picture_name(one)] = _part_bytes(plan)
    shutil.copyfile(tiles.__file__, folder / CLIENT)
    if (source / FUNCTION_FILE).is_file():
        functions = FunctionSet.load(source)
        tokens = functional_tokens(tokenizer, functions)  # raises where they do not belong to this checkpoint
        functions.save(folder)
        grammar = gbnf(functions, tokens)
        if grammar.never:
            raise DataError(f"No arguments can be written for {', '.join(grammar.never)}: a device could never call it", str(source / FUNCTION_FILE),
                            "Fix its schema, or leave it out of the set.")
        (folder / GRAMMAR_FILE).write_text(grammar.text, encoding="utf-8")
        tokenizer.save_pretrained(folder / TOKENIZER)  # calls are read from ids
    return parts


def _kept(checkpoint: Checkpoint, layers: tuple[str, ...]) -> frozenset[str]:
    """The tensors of layers, each given by its name or the beginning of it up to a dot."""
    kept = set()
    for layer in layers:
        found = {name for name in checkpoint.shapes if is_kept(name, (layer,))}
        if not found:
            remedy = "Give names such as model.projector.linear_1; a tied lm_head is kept with model.language_model.embed_tokens."
            raise ConfigError(f"there is no layer {layer!r} with weights of its own", "--keep-fp32", remedy)
        kept |= found
    return frozenset(kept)


def _part_bytes(plan: list[Planned]) -> dict[str, int]:
    """Bytes of a file's tensors by what they belong to."""
    parts: dict[str, int] = {}
    for one in plan:
        part = next((part for start, part in PARTS.items() if one.name.startswith(start)), "blocks")
        parts[part] = parts.get(part, 0) + one.bytes
    return parts
