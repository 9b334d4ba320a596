"""Tiny random models of other families, with processors of their own: what a hub id would give."""

from __future__ import annotations

import torch
from eval_world import byte_tokenizer
from transformers import (CLIPImageProcessor, CLIPVisionConfig, Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor,
                          Idefics3Processor, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, Qwen2VLConfig,
                          Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor)

TEMPLATE = ("{% for m in messages %}{{ m['role'] + ': ' }}{% for p in m['content'] %}{% if p['type'] == 'image' %}IMAGE{% else %}{{ p['text'] }}"
            "{% endif %}{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}")
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}


def _tokenizer(*control: str):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(list(control), special_tokens=True)
    return tokenizer


def _text(tokenizer) -> dict:
    return {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "max_position_embeddings": 1024, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}


def llava():
    """LLaVA: CLIP's 4 patches of 28 px."""
    tokenizer = _tokenizer("<image>")
    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION, image_size=28), text_config=LlamaConfig(**_text(tokenizer)),
                         image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(images, tokenizer, patch_size=14, vision_feature_select_strategy="default", image_token="<image>",
                               num_additional_image_tokens=1, chat_template=TEMPLATE.replace("IMAGE", "<image>"))
    return LlavaForConditionalGeneration(config), processor


def qwen2_vl():
    """Qwen2-VL: as many tokens as the picture's size asks for, here 4."""
    tokenizer = _tokenizer("<|video_pad|>")
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in (
        ("image", "<|image_pad|>"), ("video", "<|video_pad|>"), ("vision_start", "<|vision_start|>"), ("vision_end", "<|vision_end|>"))}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14, "spatial_merge_size": 2}
    config = Qwen2VLConfig(vision_config=vision, text_config={**_text(tokenizer), "rope_parameters": rope}, **ids)
    tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
    processor = Qwen2VLProcessor(Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=56 * 56), tokenizer, Qwen2VLVideoProcessor(),
                                 chat_template=TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"))
    return Qwen2VLForConditionalGeneration(config), processor


def idefics3():
    """Idefics3, SmolVLM's family: 4 tokens between marks."""
    tokenizer = _tokenizer("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    config = Idefics3Config(vision_config={**VISION, "image_size": 56}, text_config=LlamaConfig(**_text(tokenizer)), scale_factor=2,
                            image_token_id=tokenizer.convert_tokens_to_ids("<image>"))
    images = Idefics3ImageProcessor(size={"longest_edge": 56}, max_image_size={"longest_edge": 56}, do_image_splitting=False)
    return Idefics3ForConditionalGeneration(config), Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=TEMPLATE.replace("IMAGE", "<image>"))


FAMILIES = {"llava": llava, "qwen2_vl": qwen2_vl, "idefics3": idefics3}


def make(name: str):
    """A model whose answers depend on its picture, and its processor."""
    torch.manual_seed(0)
    model, processor = FAMILIES[name]()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    return model.eval(), processor
