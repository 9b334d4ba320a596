"""The tiny SigLIP tower as open_clip builds it: one timm trunk and one model config.

open_clip finds a vision tower by its name in timm's registry and a whole model by its name among the
JSON configs, so that `create_model` needs nothing else. `register` adds ours; nothing happens at import.
"""

from __future__ import annotations

import json
from pathlib import Path

TRUNK_NAME = "vit_omnivision_tiny_patch8_siglip_216"
TRUNK_SHAPE = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "image_size": 216,
    "patch_size": 8,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}


def register() -> None:
    """Make the tiny trunk known to timm (idempotent)."""
    import timm
    from timm.models import VisionTransformer, register_model

    if timm.is_model(TRUNK_NAME):
        return

    def trunk(pretrained: bool = False, **kwargs):
        shape = TRUNK_SHAPE
        return VisionTransformer(
            img_size=shape["image_size"],
            patch_size=shape["patch_size"],
            embed_dim=shape["hidden_size"],
            depth=shape["num_hidden_layers"],
            num_heads=shape["num_attention_heads"],
            mlp_ratio=shape["intermediate_size"] / shape["hidden_size"],
            class_token=False,
            global_pool=kwargs.pop("global_pool", "map"),
            num_classes=kwargs.pop("num_classes", 0),
            weight_init="skip",
        )

    trunk.__name__ = trunk.__qualname__ = TRUNK_NAME
    trunk.__module__ = __name__
    globals()["__all__"] = [TRUNK_NAME]  # timm reads the module's __all__ when it registers
    register_model(trunk)


def model_config(vocab_size: int, context_length: int) -> dict:
    """The open_clip model config of the tiny SigLIP pair (vision trunk and text tower)."""
    return {
        "embed_dim": TRUNK_SHAPE["hidden_size"],
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": TRUNK_SHAPE["image_size"],
            "timm_model_name": TRUNK_NAME,
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": context_length,
            "vocab_size": vocab_size,
            "hf_tokenizer_name": "tokenizer",
            "width": TRUNK_SHAPE["hidden_size"],
            "heads": 4,
            "layers": 2,
            "mlp_ratio": 4.0,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        },
    }


def preprocess_config() -> dict:
    """SigLIP's preprocessing: bicubic squash, mean and standard deviation one half."""
    half = [0.5, 0.5, 0.5]
    return {"mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "squash"}


def write_config(folder: Path, vocab_size: int, context_length: int) -> None:
    """Write open_clip's own description of the model, with the shapes a state dict cannot tell."""
    config = {"model_cfg": model_config(vocab_size, context_length), "preprocess_cfg": preprocess_config(), "omnivision_vision": TRUNK_SHAPE}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
