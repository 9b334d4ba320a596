"""Loads a SigLIP tower from open_clip's weights (mapped by name) or from transformers' own, always as safetensors.

open_clip's SigLIP runs a timm trunk; the tower here is transformers' SiglipVisionModel. Both compute the same
features from the same weights (tests/test_model_vision.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import SiglipVisionConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from omnivision.errors import ConfigError, one_line
from omnivision.model.checkpoints import MissingTensors, load_whole
from omnivision.model.processing import siglip_image_processor, siglip_settings

# short names of open_clip's pretrained towers -> repository on the hub
OPEN_CLIP_HUB = {"webli": "timm/ViT-SO400M-14-SigLIP-384"}
CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
TRUNK_PREFIX = "visual.trunk."

# timm trunk -> (heads, activation): what a state dict cannot tell. Source: timm 1.0.31 models/vision_transformer.py
KNOWN_TRUNKS = {
    "vit_base_patch16_siglip_224": (12, "gelu"),
    "vit_base_patch16_siglip_256": (12, "gelu"),
    "vit_base_patch16_siglip_384": (12, "gelu"),
    "vit_base_patch16_siglip_512": (12, "gelu"),
    "vit_large_patch16_siglip_256": (16, "gelu"),
    "vit_large_patch16_siglip_384": (16, "gelu"),
    "vit_so400m_patch14_siglip_224": (16, "gelu"),
    "vit_so400m_patch14_siglip_378": (16, "gelu"),
    "vit_so400m_patch14_siglip_384": (16, "gelu"),
    "vit_so400m_patch16_siglip_256": (16, "gelu_pytorch_tanh"),
    "vit_so400m_patch16_siglip_384": (16, "gelu_pytorch_tanh"),
}

# timm name -> transformers name; qkv, q + kv and the position table change shape and stand in _convert_one
NAMES = {
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "norm": "post_layernorm",
    "attn_pool.proj": "head.attention.out_proj",
    "attn_pool.norm": "head.layernorm",
    "attn_pool.mlp.fc1": "head.mlp.fc1",
    "attn_pool.mlp.fc2": "head.mlp.fc2",
}


def timm_to_transformers(trunk: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames and reshapes a timm SigLIP trunk's tensors into SiglipVisionModel's.

    Args:
        trunk: the trunk's state dict, without open_clip's prefix; with or without the pooling head (attn_pool).

    Raises:
        ValueError: a tensor that has no counterpart (it would be dropped silently).
    """
    out: dict[str, Tensor] = {}
    for name, tensor in trunk.items():
        if name.startswith("attn_pool.q.") or name.startswith("attn_pool.kv."):
            continue  # joined below
        out.update(_convert_one(name, tensor))
    for kind in ("weight", "bias"):
        if f"attn_pool.q.{kind}" in trunk:
            out[f"head.attention.in_proj_{kind}"] = torch.cat([trunk[f"attn_pool.q.{kind}"], trunk[f"attn_pool.kv.{kind}"]])
    return out


def _convert_one(name: str, tensor: Tensor) -> dict[str, Tensor]:
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    plain = re.fullmatch(r"(.+)\.(weight|bias)", name)
    if name == "pos_embed":
        return {"embeddings.position_embedding.weight": tensor[0]}
    if name == "attn_pool.latent":
        return {"head.probe": tensor}
    if block and block[2] == "attn.qkv":
        parts = zip("qkv", tensor.chunk(3))
        return {f"encoder.layers.{block[1]}.self_attn.{part}_proj.{block[3]}": piece for part, piece in parts}
    if block and block[2] in NAMES:
        return {f"encoder.layers.{block[1]}.{NAMES[block[2]]}.{block[3]}": tensor}
    if plain and plain[1] in NAMES:
        return {f"{NAMES[plain[1]]}.{plain[2]}": tensor}
    raise ValueError(f"The timm tensor {name} of shape {tuple(tensor.shape)} has no place in transformers' SigLIP tower; "
                     "only plain SigLIP trunks (class_token=False, attention pooling) can be loaded.")


def load_tower(source: str, dtype: torch.dtype = torch.float32) -> tuple[SiglipVisionModel, SiglipImageProcessorPil]:
    """Loads a tower and its own preprocessing.

    Args:
        source: "webli" (open_clip's ViT-SO400M-14-SigLIP-384 from the hub), a folder in open_clip's layout, or a
            folder or hub id of a transformers SigLIP.
        dtype: of the weights.

    Raises:
        ConfigError: nothing is there, or no safetensors, or a shape that cannot be read.
    """
    folder = Path(source).expanduser()
    if source in OPEN_CLIP_HUB:
        config, weights = _download(OPEN_CLIP_HUB[source])
        return load_open_clip(config, weights, dtype)
    if (folder / CONFIG_FILE).is_file():
        return load_open_clip(folder / CONFIG_FILE, folder / WEIGHTS_FILE, dtype)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(f"The folder holds neither {CONFIG_FILE} nor config.json", f"vision: {source}",
                          "Give a folder in open_clip's or transformers' layout.")
    return _load_transformers(source, dtype)


def _download(repository: str) -> tuple[Path, Path]:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, CONFIG_FILE)), Path(hf_hub_download(repository, WEIGHTS_FILE))
    except Exception as error:  # offline, gated, renamed: huggingface_hub has a class for each, with one remedy
        raise ConfigError(f"The vision weights cannot be had from the hub ({type(error).__name__})", f"vision: {repository}",
                          f"Connect to the hub once, or name a local folder with {CONFIG_FILE} and {WEIGHTS_FILE}.") from error


def load_open_clip(config_file: Path, weights_file: Path,
                   dtype: torch.dtype = torch.float32) -> tuple[SiglipVisionModel, SiglipImageProcessorPil]:
    """Loads the vision trunk of a model in open_clip's layout."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not weights_file.is_file():
        raise ConfigError(f"{weights_file.name} is missing", str(weights_file.parent),
                          "Weights are read from safetensors only; put the file beside open_clip_config.json.")
    try:
        description = json.loads(config_file.read_text(encoding="utf-8"))
        state = load_file(weights_file)
    except (json.JSONDecodeError, SafetensorError) as error:
        raise ConfigError(f"The vision checkpoint cannot be read: {error}", str(config_file.parent), "Copy it again.") from error
    trunk = {name.removeprefix(TRUNK_PREFIX): tensor for name, tensor in state.items() if name.startswith(TRUNK_PREFIX)}
    if not trunk:
        raise ConfigError(f"No tensor's name begins with {TRUNK_PREFIX}", str(weights_file),
                          "Only open_clip models with a timm trunk (SigLIP) are supported.")
    try:
        weights = timm_to_transformers(trunk)
        tower = _fill(trunk_config(description, trunk), weights, dtype)
    except (ValueError, KeyError) as error:
        raise ConfigError(str(error).strip("'\""), str(config_file), "Give a plain SigLIP model.") from error
    return tower, _preprocessing(description.get("preprocess_cfg", {}), tower.config.image_size, str(config_file))


def trunk_config(description: Mapping[str, Any], trunk: Mapping[str, Tensor]) -> SiglipVisionConfig:
    """Reads the tower's shape from tensors, and heads and activation from the description or KNOWN_TRUNKS.

    Args:
        description: open_clip_config.json. Towers trained here carry their shape under "omnivision_vision",
            for open_clip's own format has no place for the heads.
        trunk: tensors by timm name.

    Raises:
        ValueError: the heads cannot be known, or the image size does not fit the position table.
    """
    vision = description["model_cfg"]["vision_cfg"]
    ours = description.get("omnivision_vision", {})
    name = vision.get("timm_model_name")
    if not ours and name not in KNOWN_TRUNKS:
        raise ValueError(f"The number of heads of {name} is not known; known are {', '.join(KNOWN_TRUNKS)}")
    heads, activation = KNOWN_TRUNKS.get(name, (None, "gelu"))
    width, _, patch, _ = trunk["patch_embed.proj.weight"].shape
    size = ours.get("image_size", vision["image_size"])
    patches, expected = trunk["pos_embed"].shape[1], (size // patch) ** 2
    if patches != expected:
        raise ValueError(f"The position table has {patches} places, but {size} px in patches of {patch} px give {expected}")
    return SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=trunk["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=1 + max(int(key.split(".")[1]) for key in trunk if key.startswith("blocks.")),
        num_attention_heads=ours.get("num_attention_heads", heads),
        image_size=size,
        patch_size=patch,
        hidden_act=ours.get("hidden_act", activation),
        layer_norm_eps=ours.get("layer_norm_eps", 1e-6),
        vision_use_head=any(key.startswith("attn_pool.") for key in trunk),
    )


def _fill(config: SiglipVisionConfig, weights: dict[str, Tensor], dtype: torch.dtype) -> SiglipVisionModel:
    with torch.device("meta"):
        tower = SiglipVisionModel._from_config(config)
    missing = set(tower.state_dict()) ^ set(weights)
    if missing:
        raise ValueError(f"The trunk's tensors and the tower's differ, e.g. in {sorted(missing)[0]}")
    tower = tower.to_empty(device="cpu")
    tower.embeddings.position_ids.copy_(torch.arange(tower.embeddings.num_positions)[None])  # not in the state dict
    tower.load_state_dict(weights)
    return tower.to(dtype).eval()


def _preprocessing(settings: Mapping[str, Any], image_size: int, where: str) -> SiglipImageProcessorPil:
    found = settings.get("resize_mode", "squash"), settings.get("interpolation", "bicubic")
    if found != ("squash", "bicubic"):
        raise ConfigError(f"The tower wants {' / '.join(found)} images; only squash / bicubic (SigLIP's) is built in", where,
                          "Use a SigLIP tower.")
    half = [0.5, 0.5, 0.5]
    return siglip_image_processor(image_size, settings.get("mean", half), settings.get("std", half))


def _load_transformers(source: str, dtype: torch.dtype) -> tuple[SiglipVisionModel, SiglipImageProcessorPil]:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if config.model_type not in ("siglip", "siglip_vision_model"):
            raise ConfigError(f"The vision source is a {config.model_type}, not a SigLIP", f"vision: {source}",
                              "Give a SigLIP tower: webli, or a transformers checkpoint of type siglip.")
        try:
            tower = load_whole(SiglipVisionModel, source, dtype=dtype, use_safetensors=True)
        except MissingTensors as error:
            if not all(name.startswith("head.") for name in error.names):
                raise
            tower = load_whole(SiglipVisionModel, source, dtype=dtype, use_safetensors=True, vision_use_head=False)  # it pools for another model
    except (OSError, ValueError) as error:
        raise ConfigError("The vision weights are neither a local folder nor on the reachable hub, or hold no safetensors "
                          f"({one_line(error)})", f"vision: {source}",
                          f"Name {', '.join(OPEN_CLIP_HUB)}, an existing folder, or connect to the hub.") from error
    return tower.eval(), _their_preprocessing(source, tower.config.image_size)


def _their_preprocessing(source: str, image_size: int) -> SiglipImageProcessorPil:
    from transformers.utils import cached_file

    names = ("preprocessor_config.json", "processor_config.json")  # the second is how a processor of several parts is saved
    try:
        files = [file for name in names if (file := cached_file(source, name, _raise_exceptions_for_missing_entries=False))]
        if not files:  # a tower that was saved without: SigLIP's own
            return siglip_image_processor(image_size)
        settings = json.loads(Path(files[0]).read_text(encoding="utf-8"))
        found = siglip_settings(settings.get("image_processor", settings))
        if found.size["height"] != image_size:
            raise ValueError(f"Pictures are made {found.size['height']} px wide, and the tower's are {image_size}.")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"The tower's preprocessing cannot be taken: {one_line(error)}", f"vision: {source}",
                          "Fix its preprocessor_config.json, or use another SigLIP tower.") from error
    return found
