"""What stock llama.cpp can run, and why the rest is refused."""

from __future__ import annotations

from omnivision.errors import ConfigError
from omnivision.model.configuration import OmniVisionConfig
from omnivision.model.layouts import TILES

LAYOUTS = ("block", "raster")
GELUS = ("gelu", "gelu_pytorch_tanh")
LEAST_TOKENS, MOST_TOKENS = 64, 1024  # the lfm2 reader resizes pictures outside these bounds
LARGEST_PICTURE = 512  # above it (times a tolerance) the lfm2 reader cuts a picture into tiles


def refuse_what_does_not_fit(config: OmniVisionConfig, where: str) -> None:
    """Raises ConfigError where a part of the model has no counterpart in stock llama.cpp's qwen2 and lfm2 graphs."""
    reasons = [*_language(config), *_projector(config), *_tower(config)]
    if reasons:
        remedy = "Export it with `omnivision export fp16` or `onnx`, or train one with `projector: block` and a Qwen2 language model."
        raise ConfigError(f"stock llama.cpp cannot run this model: {'; '.join(reasons)}", where, remedy)


def _language(config: OmniVisionConfig) -> list[str]:
    text = config.text_config
    if text.model_type != "qwen2":
        return [f"the language model is {text.model_type!r}, only qwen2 is written"]
    rope = text.rope_parameters or {}
    found = []
    if rope.get("rope_type", "default") != "default":
        found.append(f"rope_type is {rope['rope_type']!r}, only 'default' is written")
    if getattr(text, "use_sliding_window", False):
        found.append("the language model uses a sliding window")
    if getattr(text, "head_dim", None) not in (None, text.hidden_size // text.num_attention_heads):
        found.append(f"head_dim is {text.head_dim}, qwen2's is hidden_size / heads")
    if text.hidden_act != "silu":
        found.append(f"the language model's activation is {text.hidden_act!r}, qwen2's is 'silu'")
    return found


def _projector(config: OmniVisionConfig) -> list[str]:
    if config.projector_layout not in LAYOUTS:
        return [f"projector_layout is {config.projector_layout!r}, possible are {' and '.join(LAYOUTS)}"]
    if config.projector_group != 9:
        return [f"projector_group is {config.projector_group}, only 9 patches a token stay within {LEAST_TOKENS} to {MOST_TOKENS} tokens of a picture"]
    if config.patch_grid % TILES[9][0]:
        return [f"{config.patch_grid} patches a side are no multiple of {TILES[9][0]}"]
    if not LEAST_TOKENS <= config.image_seq_length <= MOST_TOKENS:
        return [f"a picture has {config.image_seq_length} tokens, pictures of {LEAST_TOKENS} to {MOST_TOKENS} are taken as they are"]
    return []


def _tower(config: OmniVisionConfig) -> list[str]:
    vision, found = config.vision_config, []
    if vision.hidden_act not in GELUS:
        found.append(f"the tower's activation is {vision.hidden_act!r}, possible are {' and '.join(GELUS)}")
    side = config.patch_grid * vision.patch_size
    if side > LARGEST_PICTURE:
        found.append(f"pictures of {side} px would be cut into tiles, {LARGEST_PICTURE} px are the most")
    if vision.num_channels != 3:
        found.append(f"the tower takes {vision.num_channels} channels, not 3")
    return found
