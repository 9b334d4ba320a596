"""Save, and load through the Auto classes, also in a new process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_parts import make_image, make_model, make_processor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor

READ = """
import sys, torch, omnivision
from transformers import AutoModelForImageTextToText, AutoProcessor
from omnivision.data.image import open_image
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
processor = AutoProcessor.from_pretrained(sys.argv[1])
messages = [{"role": "user", "content": [{"type": "image", "path": sys.argv[2]}, {"type": "text", "text": "How many?"}]}]
batch = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True)
with torch.no_grad():
    torch.save({"logits": model(**batch).logits, "pixels": batch["pixel_values"], "ids": batch["input_ids"]}, sys.argv[3])
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[OmniVisionForConditionalGeneration, OmniVisionProcessor, Path]:
    folder = tmp_path_factory.mktemp("checkpoint")
    model = make_model(projector_layout="block", projector_gelu="tanh", vision_feature_layer=-2)
    processor = make_processor(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, folder


def test_reload_in_a_new_process_is_bit_equal(saved, tmp_path):
    model, processor, folder = saved
    make_image(3).save(tmp_path / "image.png")
    subprocess.run([sys.executable, "-c", READ, str(folder), str(tmp_path / "image.png"), str(tmp_path / "out.pt")], check=True)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    messages = [{"role": "user", "content": [{"type": "image", "image": make_image(3)}, {"type": "text", "text": "How many?"}]}]
    batch = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True)
    assert torch.equal(found["ids"], batch["input_ids"]) and torch.equal(found["pixels"], batch["pixel_values"])
    with torch.no_grad():
        assert torch.equal(found["logits"], model(**batch).logits)


def test_auto_classes_give_our_classes_and_settings(saved):
    model, _, folder = saved
    again = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(again) is OmniVisionForConditionalGeneration
    assert type(AutoConfig.from_pretrained(folder)) is type(model.config)
    for field in ("projector_layout", "projector_gelu", "vision_feature_layer", "image_token_id", "image_seq_length"):
        assert getattr(again.config, field) == getattr(model.config, field), field
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_processor_keeps_image_tokens_template_and_pil_backend(saved):
    _, processor, folder = saved
    again = AutoProcessor.from_pretrained(folder)
    assert type(again) is OmniVisionProcessor and type(again.image_processor) is SiglipImageProcessorPil
    assert json.loads((folder / "processor_config.json").read_text())["image_seq_length"] == 9 == again.image_seq_length
    assert again.chat_template == processor.chat_template == (folder / "chat_template.jinja").read_text()
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()
    assert again.tokenizer.padding_side == "left"


def test_safetensors_hold_the_tied_head_once(saved):
    from safetensors import safe_open

    model, _, folder = saved
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "lm_head.weight" not in names and "model.language_model.embed_tokens.weight" in names
    assert {name.split(".")[1] for name in names} == {"vision_tower", "projector", "language_model"}
    assert not list(folder.glob("*.bin"))


def test_dtype_on_loading(saved):
    _, _, folder = saved
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
