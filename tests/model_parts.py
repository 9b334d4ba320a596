"""Small parts for the model's tests: a byte-level BPE tokenizer with Qwen2.5's control tokens, configs, models, folders."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from omnivision import OmniVisionConfig, OmniVisionForConditionalGeneration, OmniVisionProcessor
from omnivision.model.processing import siglip_image_processor

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<nexa_0>", "<nexa_3>", "<nexa_end>"]
CORPUS = ["Is there a red cat in the image? Yes No", "How many apples are there? two three", "system user assistant",
          "You are a helpful assistant.", "图中有几只猫？ 两只。"]
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
         "image_size": 54, "patch_size": 6, "hidden_act": "gelu", "layer_norm_eps": 1e-6}  # 9 x 9 = 81 patches


@lru_cache(maxsize=1)
def _backend() -> str:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    bpe.train_from_iterator(CORPUS, trainer)
    return bpe.to_str()


def make_tokenizer(control: list[str] = CONTROL) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_backend()))
    tokenizer.add_special_tokens({"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>",
                                  "additional_special_tokens": control})
    tokenizer.padding_side = "left"
    return tokenizer


def make_config(**overrides) -> OmniVisionConfig:
    text = {"model_type": "qwen2", "vocab_size": 448, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
            "bos_token_id": None, "eos_token_id": None, "initializer_range": 0.3}
    image_id = make_tokenizer().convert_tokens_to_ids("<|image_pad|>")
    return OmniVisionConfig(**{"vision_config": SHAPE, "text_config": text, "projector_hidden_size": 64,
                               "image_token_id": image_id, **overrides})


def make_model(seed: int = 0, **overrides) -> OmniVisionForConditionalGeneration:
    """A random model whose tower and embeddings are large enough that images change the answers."""
    torch.manual_seed(seed)
    model = OmniVisionForConditionalGeneration(make_config(**overrides)).eval()
    model.generation_config.pad_token_id = make_tokenizer().pad_token_id
    model.generation_config.eos_token_id = make_tokenizer().convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    return model


def make_processor(model: OmniVisionForConditionalGeneration) -> OmniVisionProcessor:
    return OmniVisionProcessor(siglip_image_processor(model.config.vision_config.image_size), make_tokenizer(),
                               image_seq_length=model.config.image_seq_length)


def make_image(seed: int, size: tuple[int, int] = (70, 50)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def save_open_clip(folder: Path, shape: dict, trunk: dict[str, torch.Tensor], name: str = "vit_of_the_test",
                   described: bool = True) -> Path:
    """A folder as open_clip writes it: its config, and safetensors of the whole pair."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": {"embed_dim": shape["hidden_size"],
                            "vision_cfg": {"image_size": shape["image_size"], "timm_model_name": name, "timm_pool": "map"}},
              "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}}
    if described:
        config["omnivision_vision"] = shape
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {f"visual.trunk.{key}": value.contiguous() for key, value in trunk.items()}
    save_file({**state, "text.token_embedding.weight": torch.zeros(2, 2)}, folder / "open_clip_model.safetensors")
    return folder
