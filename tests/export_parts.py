"""A small random checkpoint with functional tokens, for the tests of exports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from model_parts import CONTROL, make_model, make_tokenizer
from safetensors.torch import load_file, save_file

from omnivision import OmniVisionProcessor
from omnivision.constants import IMAGE_TOKEN
from omnivision.functions import FunctionSet, install_tokens
from omnivision.model.processing import siglip_image_processor


def save_checkpoint(folder: Path, functions: FunctionSet, control: list[str] = CONTROL, change: Callable | None = None, **overrides) -> Path:
    """Saves a model of make_model, changed, with its processor and functions; `control` are the tokenizer's own control tokens."""
    model, tokenizer = make_model(**overrides), make_tokenizer(control)
    processor = OmniVisionProcessor(siglip_image_processor(model.config.vision_config.image_size), tokenizer, image_seq_length=model.config.image_seq_length)
    model.config.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    install_tokens(model, tokenizer, functions)
    if change:
        with torch.no_grad():
            change(model)
    for part in (model, processor):
        part.save_pretrained(folder)
    functions.save(folder)
    return folder


def stored(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """What changes the tensors of a saved checkpoint's one file."""
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return edit
