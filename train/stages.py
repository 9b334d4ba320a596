"""The model of a stage: what it starts from, and what of it trains."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from omnivision.errors import ConfigError
from omnivision.model.configuration import OmniVisionConfig
from omnivision.runs import read_hand_over, stages_among
from omnivision_train import lora
from omnivision_train.attention import set_attention
from omnivision_train.config import ADAPTER, FOLLOWS, TRAINS, StageConfig, new_shape
from omnivision_train.frozen_layers import hold_layers
from omnivision_train.last_layer import narrow_last_layer
from omnivision_train.launch import rank_and_ranks
from omnivision_train.lean_layers import set_lean_layers
from omnivision_train.memory import check_memory, count_parts, device_memory, held_by_parts, on_meta
from omnivision_train.precision import resolved

PARTS = {"vision_tower": "model.vision_tower", "projector": "model.projector", "language_model": "model.language_model"}


def open_model(config: StageConfig, stage: str):
    """(model, processor) as the stage trains them: those of `start`, checked, or new ones, with layers that compute no more than the stage reads."""
    model, processor = plain_model(config, stage)
    set_lean_layers(model, config)
    narrow_last_layer(model, config)
    return model, processor


def plain_model(config: StageConfig, stage: str):
    """The same with transformers' own layers."""
    from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
    from omnivision.model.build import build_model
    from omnivision.model.checkpoints import load_whole

    torch.manual_seed(config.seed)
    if FOLLOWS[stage] and config.start is None:
        raise ConfigError(f"`{stage}` starts from a finished stage ({' or '.join(stages_among(FOLLOWS[stage]))}), and none is given", "start",
                          "Give start=<run>/<stage>/final.")
    if not FOLLOWS[stage] and config.start is not None:
        raise ConfigError(f"`{stage}` is the first stage and starts from `preset`, `vision` and `language`", f"start: {config.start}",
                          "Remove `start`.")
    if config.start is None:
        shape = new_shape(config)
    else:
        read_hand_over(Path(config.start), FOLLOWS[stage], stage)
        shape = OmniVisionConfig.from_pretrained(config.start)
        check_projector(config, shape)
    if (memory := device_memory()) is not None:
        _, ranks = rank_and_ranks()
        check_memory(held_by_parts(count_parts(on_meta(shape, config), config), config, stage, resolved(config), ranks), config, stage, ranks, memory)
    if config.start is None:
        model, processor = build_model(shape, vision=config.vision, language=config.language)
    else:
        start = Path(config.start)
        model = load_whole(OmniVisionForConditionalGeneration, start, dtype=torch.float32, use_safetensors=True)
        processor = OmniVisionProcessor.from_pretrained(start)
    set_attention(model, config)
    return model, processor


def check_projector(config: StageConfig, start: OmniVisionConfig) -> None:
    """A later stage keeps the projector that it starts from, whatever the defaults are.

    Raises:
        ConfigError: the config asks for another one.
    """
    for key, found in (("projector", start.projector_layout), ("projector_gelu", start.projector_gelu)):
        asked = getattr(config, key)
        if asked not in (getattr(StageConfig, key), found):
            raise ConfigError(f"`{key}` is {asked}, and the model it starts from has {found}", f"{key}: {asked}",
                              f"Remove `{key}`: only `align` makes a new projector.")


def set_trainable(model: nn.Module, stage: str, extra: Iterable[str] = (), main: bool = True, frozen_layers: int = 0) -> dict[str, tuple[bool, int]]:
    """Freezes all but the stage's parts, or all but adapters where the model has them, and the layers that are held; prints and returns
    part -> (trains, parameters)."""
    adapters = lora.adapter_parameters(model)
    trained = () if adapters else (*TRAINS[stage], *extra)
    model.requires_grad_(False)
    table = {}
    for part, path in PARTS.items():
        module = model.get_submodule(path)
        module.requires_grad_(part in trained)
        if part == "vision_tower" and hasattr(module, "head"):
            module.head.requires_grad_(False)  # pools for another model: nothing flows through it here
        table[part] = (part in trained, sum(p.numel() for name, p in module.named_parameters() if not lora.is_adapter(name)))
    if adapters:
        table[ADAPTER] = (True, sum(p.requires_grad_(True).numel() for p in adapters.values()))
    if "language_model" in trained:
        model.lm_head.requires_grad_(True)  # where it is not tied
    if frozen_layers:
        names = hold_layers(model, frozen_layers)
        held = sum(p.numel() for name, p in model.named_parameters() if name in names and not lora.is_adapter(name))
        table["projector"] = (False, table["projector"][1])
        table["language_model"] = (table["language_model"][0], table["language_model"][1] - held)
        table["frozen_layers"] = (False, held)
    if main:
        for part, (trains, count) in table.items():
            print(f"{stage}: {part:<15} {count:>13,} parameters  {'trains' if trains else 'frozen'}", file=sys.stderr)
    return table


def check_vision(config: StageConfig) -> bool:
    """Whether the vision tower trains.

    Raises:
        ConfigError: it is to train on features that were computed before.
    """
    trains = getattr(config, "vision_lr", None) is not None
    if trains and config.feature_cache:
        raise ConfigError("The vision tower is to train, and its features are cached", f"feature_cache: {config.feature_cache}",
                          "Remove `feature_cache`, or leave `vision_lr` empty.")
    return trains
