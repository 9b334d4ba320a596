"""What a batch leaves in memory between forward and backward, counted before anything loads.

The stage's forward pass runs on the meta device, and every tensor that torch keeps for the backward pass is counted once. It is
a lower bound: what kernels take and give back in between comes on top.

Legend as in modeling.py: B rows, L positions, D language width, I pictures, P patches, C vision width, T image tokens.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from omnivision.model.chunked_loss import padded, summed_cross_entropy
from omnivision.model.modeling import hidden_at
from omnivision_train.config import ADAPTER, StageConfig, passes_over, trained_parts
from omnivision_train.deepspeed_config import zero_settings
from omnivision_train.frozen_layers import hold_layers
from omnivision_train.last_layer import narrow_last_layer
from omnivision_train.lora import is_adapter

FUSED = "omnivision_counted"  # stands for the GPU's fused attention kernels, which the meta device has not


@dataclass(frozen=True)
class Batch:
    """The shape of one batch on one device: rows of `length` tokens, of which so many are supervised, and their pictures (None: one a row)."""

    rows: int
    length: int
    supervised: int
    pictures: int | None = None


def activation_bytes(model, config: StageConfig, stage: str, precision: str, batch: Batch, fused: bool = True) -> dict[str, int]:
    """Bytes kept for the backward pass, by part of the model.

    Args:
        model: on the meta device; it is changed. fused: attention keeps no scores, as on a GPU; else as `eager` does.

    Raises:
        ConfigError: an early exit that the language model cannot have.
    """
    from omnivision_train.early_exit import check_exit, most_exits  # its trainer counts here

    check_exit(model, config)
    trains = trained_parts(config, stage)
    model.to(torch.bfloat16 if precision == "bf16" else torch.float32).train().requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.requires_grad_(part_of(name).replace(" ", "_") in trains)
    hold_layers(model, getattr(config, "frozen_layers", 0))
    narrow_last_layer(model, config)
    ALL_ATTENTION_FUNCTIONS.register(FUSED, _fused)
    model.set_attn_implementation(FUSED if fused else "eager")
    if config.gradient_checkpointing:
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()  # before transformers 5.23 the second
    counter = Counter(model)
    pairs = stage == "dpo"
    sides = 2 if pairs and config.share == "none" else 1
    rows, pictures = batch.rows * sides, (batch.rows if batch.pictures is None else batch.pictures) * sides
    pictures = max(1, pictures)  # a batch of texts alone runs a blank one, see modeling.py
    with counter.part("vision tower"):
        features = _features(model, pictures, trained="vision_tower" in trains)
    with counter.part("projector"):
        image_tokens_ITD = model.get_image_features(image_features=features)
    with counter.part("language model"):
        ids_BL = torch.zeros(rows, batch.length, dtype=torch.long, device="meta")
        image_at = torch.zeros(image_tokens_ITD.shape[0] * image_tokens_ITD.shape[1], dtype=torch.long, device="meta")
        embeds_BLD = model.get_input_embeddings()(ids_BL)
        embeds_BLD = model.model.fuse(embeds_BLD, ids_BL, image_tokens_ITD, image_at)
        mask = torch.ones(rows, 1, batch.length, batch.length, dtype=torch.bool, device="meta")
        exits = most_exits(config, model.config.text_config.num_hidden_layers)
        whole = pairs and not config.needed_logits_only
        read = {"read_at": padded(torch.zeros(batch.supervised, dtype=torch.long, device="meta"))} if model.narrow_last_layer else {}
        outputs = model.model.language_model(inputs_embeds=embeds_BLD, attention_mask=mask, use_cache=False, output_hidden_states=len(exits) > 1, **read)
        for layer in exits:
            _head(model, model.at_exit(outputs, layer), rows * batch.length if whole else batch.supervised, whole, parted=zero_settings(config)[0] == 3)
    return {part: passes_over(config) * size for part, size in counter.bytes.items()}


def _features(model, pictures: int, trained: bool) -> Tensor:
    vision = model.config.vision_config
    dtype = model.get_input_embeddings().weight.dtype
    if trained:
        return model.model.get_vision_features(torch.zeros(pictures, 3, vision.image_size, vision.image_size, dtype=dtype, device="meta"))
    return torch.zeros(pictures, model.config.patch_grid**2, vision.hidden_size, dtype=dtype, device="meta")


def _head(model, hidden_BLD: Tensor, positions: int, whole: bool, parted: bool) -> None:
    """Logits and loss: in fp32 and in chunks (of which none is kept), or whole, as under ZeRO-3, which parts the head's weight."""
    targets = torch.zeros(positions, dtype=torch.long, device="meta")
    hidden_SD = hidden_at(hidden_BLD, targets)
    if whole:
        model.lm_head(hidden_SD).float().logsumexp(-1)
    elif parted:
        nn.functional.cross_entropy(model.lm_head(hidden_SD).float(), targets, reduction="sum")
    else:
        summed_cross_entropy(model.lm_head, hidden_SD, targets, model.config.text_config.vocab_size)


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to."""
    if is_adapter(name):
        return ADAPTER
    if ".vision_tower." in name:
        return "pooling head" if ".vision_tower.head." in name else "vision tower"
    return "projector" if ".projector." in name else "language model"


class Counter:
    """Counts each storage that is kept for the backward pass once; weights are not among them."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
        self.kept: dict[int, Tensor] = {}  # held, so that no storage takes another's place
        self.bytes: dict[str, int] = {}

    @contextmanager
    def part(self, name: str):
        """What is kept meanwhile belongs to this part."""

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in self.weights and storage._cdata not in self.kept:
                self.kept[storage._cdata] = tensor
                self.bytes[name] = self.bytes.get(name, 0) + storage.nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            yield


class _Fused(torch.autograd.Function):
    """Keeps what flash and memory-efficient attention keep: queries, keys, values, output and one number a query and head."""

    @staticmethod
    def forward(ctx, query, key, value):
        output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _fused(module, query, key, value, attention_mask, **kwargs):
    return _Fused.apply(query, key, value), None
