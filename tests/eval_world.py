"""A small hand-made data folder and a tiny random model for the evaluation tests."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from omnivision_eval.ours import Ours
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from omnivision.constants import END_OF_TEXT, IMAGE_TOKEN, TURN_END, TURN_START, VISION_END, VISION_START
from omnivision.model.build import build_model
from omnivision.model.configuration import OmniVisionConfig

FUNCTIONS = [{"type": "function", "function": {"name": name, "description": f"{name} a thing", "parameters": {
    "type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}}} for name in ("order", "find")]
OBJECTS = ("cat", "dog", "apple", "kite", "bus", "cup")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the chat format's control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    control = [END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE_TOKEN]
    return PreTrainedTokenizerFast(tokenizer_object=bytes_only, eos_token=TURN_END, pad_token=END_OF_TEXT,
                                   extra_special_tokens=control)


def random_model(seed: int = 0):
    """A model of two small layers with 729 patches, and its processor."""
    torch.manual_seed(seed)
    config = OmniVisionConfig(
        vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
                       "image_size": 54, "patch_size": 2},
        text_config={"model_type": "qwen2", "vocab_size": 288, "hidden_size": 32, "intermediate_size": 64,
                     "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}, "tie_word_embeddings": True,
                     "bos_token_id": None, "eos_token_id": None},
        projector_hidden_size=64)
    model, processor = build_model(config, tokenizer=byte_tokenizer())
    with torch.no_grad():  # random weights of ordinary size: a wrong image must change the answer
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    return model, processor


def write_world(folder: Path, images: int = 4) -> Path:
    """Question files, pictures and the function table; positives are shared by the three POPE splits."""
    rng = random.Random(0)
    for split in ("eval", "eval_held_out"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / split).mkdir()
        rows = {task: [] for task in ("pope_random", "pope_popular", "pope_adversarial", "chartqa", "open", "actions")}
        for i in range(images):
            name = f"images/{split}/{i}.png"
            Image.frombytes("RGB", (54, 54), rng.randbytes(54 * 54 * 3)).save(folder / name)
            for task in ("pope_random", "pope_popular", "pope_adversarial"):
                for number, (object_, label) in enumerate([(OBJECTS[i % 6], "Yes"), (rng.choice(OBJECTS), "No")]):
                    rows[task].append({"question_id": f"{task}/{i}/{number}", "image": name, "label": label, "language": "en",
                                       "kind": "exist", "text": f"Is there a {object_} in the image?"})
            rows["chartqa"].append({"question_id": f"c{i}", "image": name, "text": "How many?", "label": "5", "language": "en",
                                    "kind": "chart_value"})
            rows["actions"].append({"question_id": f"a{i}", "image": name, "text": "Order the thing on the left.",
                                    "language": "zh" if i % 2 else "en",
                                    "calls": [{"name": "order", "arguments": {"item": "cat"}}]})
            rows["open"].append({"question_id": f"o{i}", "image": name, "text": "What place is this?", "label": "kitchen",
                                 "language": "en", "kind": "place"})
        for task, lines in rows.items():
            (folder / split / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "functions.json").write_text(json.dumps(FUNCTIONS))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small world."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def model():
    """The random model, open."""
    return Ours(*random_model())


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    """Its folder."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model.model.save_pretrained(folder)
    model.processor.save_pretrained(folder)
    return folder
