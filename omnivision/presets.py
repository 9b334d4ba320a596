"""Named shapes: 968m (OmniVision's), small (minutes on one GPU), tiny (the embedded world on a CPU)."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from omnivision.errors import ConfigError
from omnivision.model.configuration import OmniVisionConfig


def _full(**overrides: Any) -> OmniVisionConfig:
    return OmniVisionConfig(**overrides)


def _small(**overrides: Any) -> OmniVisionConfig:
    vision = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536,
              "image_size": 384, "patch_size": 14, "hidden_act": "gelu"}
    # HuggingFaceTB/SmolLM2-135M's shape; its 49,152 rows are all taken, so control tokens add rows
    text = {"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
            "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2}
    return OmniVisionConfig(**{"vision_config": vision, "text_config": text, "projector_hidden_size": 1536,
                               "image_token_id": 49152, **overrides})


def _tiny(**overrides: Any) -> OmniVisionConfig:
    vision = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512,
              "image_size": 216, "patch_size": 8, "hidden_act": "gelu"}
    text = {"model_type": "qwen2", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None}
    return OmniVisionConfig(**{"vision_config": vision, "text_config": text, "projector_hidden_size": 512,
                               "image_token_id": 4095, **overrides})


PRESETS: dict[str, Callable[..., OmniVisionConfig]] = {"968m": _full, "small": _small, "tiny": _tiny}


def preset_config(name: str, **overrides: Any) -> OmniVisionConfig:
    """The configuration of a preset.

    Args:
        name: 968m, small or tiny.
        overrides: fields of OmniVisionConfig, e.g. projector_layout="block".

    Raises:
        ConfigError: an unknown preset or field, or a value that does not fit.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.3)
        raise ConfigError(f"There is no preset {name!r}", "preset",
                          f"Choose one of {', '.join(PRESETS)}" + (f"; did you mean {near[0]}?" if near else "."))
    fields = [key for key in OmniVisionConfig.__annotations__ if key != "tie_word_embeddings"]
    for key in overrides:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise ConfigError(f"There is no model setting {key!r}", f"preset {name}",
                              f"did you mean {near[0]}?" if near else f"Settings are {', '.join(fields)}.")
    try:
        return PRESETS[name](**overrides)
    except ValueError as error:
        raise ConfigError(str(error), f"preset {name}") from error
