"""Self-speculative decoding: the first layers draft, all layers verify, and both share one cache (LayerSkip).

The answer is the plain greedy one. A draft of K tokens costs K passes through the first layers, its verification one pass of
K + 1 positions through all of them: it pays where a pass is bound by reading weights, as decoding one answer is.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from omnivision.errors import ConfigError
from omnivision.generation import stop_ids

DRAFT = 4  # tokens drafted before they are verified


@dataclass(frozen=True)
class Speculated:
    """An answer, how many of its tokens were drafted, and how many of these were accepted."""

    ids: list[int]
    drafted: int
    accepted: int


def exit_layer_of(model: Any, layer: int | None = None) -> int:
    """The layer to leave at: the given one, or the config's.

    Raises:
        ConfigError: neither says one, it does not lie between the first and the last layer, or the language model runs all of its layers always.
    """
    language = model.model.language_model
    if not hasattr(language, "layers") or not hasattr(language, "norm"):  # GPT-2, OPT, ...: their number in the config makes no difference
        raise ConfigError(f"{type(language).__name__} cannot be left early", "early_exit_layer", "Use a language model of Llama's or Qwen2's form.")
    depth = model.config.text_config.num_hidden_layers
    layer = model.config.early_exit_layer if layer is None else layer
    if layer is None:
        raise ConfigError("The checkpoint names no layer to leave at", "early_exit_layer", "Train `sft` with `exit_layer`, or name a layer.")
    if not 0 < layer < depth:
        raise ConfigError(f"Layer {layer} is no early exit of {depth} layers", "early_exit_layer", f"Give 1 to {depth - 1}.")
    return layer


@contextmanager
def depth(model: Any, layers: int):
    """The language model runs its first so many layers, then its norm and head."""
    config = model.model.language_model.config
    whole, config.num_hidden_layers = config.num_hidden_layers, layers
    try:
        yield
    finally:
        config.num_hidden_layers = whole


@torch.inference_mode()
def generate_speculatively(model: Any, inputs: dict[str, Tensor], max_new_tokens: int, layer: int | None = None, draft: int = DRAFT,
                           stop_token_ids: Iterable[int] | None = None) -> Speculated:
    """The greedy answer to one prompt.

    Args:
        model: in evaluation mode or not; it is put into it for the call.
        inputs: what the processor makes of one prompt: `input_ids` (1, L), padded or not, and its pictures as `pixel_values` or `image_features`.
        layer: to leave at while drafting; None is the config's. draft: tokens drafted at a time; 0 drafts none, which is plain greedy decoding.
        stop_token_ids: ids that end the answer; None is the generation config's.

    Raises:
        ConfigError: no such layer, several prompts at once, or no token asked for.
    """
    if (prompts := len(inputs["input_ids"])) != 1 or max_new_tokens < 1 or draft < 0:
        raise ConfigError(f"{prompts} prompts, {max_new_tokens} new tokens and drafts of {draft}", "generate_speculatively",
                          "Give one prompt, at least 1 new token, and drafts of 0 or more.")
    layer, stops = exit_layer_of(model, layer), stop_ids(model) if stop_token_ids is None else set(stop_token_ids)
    cache = DynamicCache(config=model.config)
    cache.activate_past_recording()  # sliding windows keep what a rejected draft would have pushed out
    shown = {key: value for key, value in inputs.items() if key in ("input_ids", "pixel_values", "image_features")}
    if (mask := inputs.get("attention_mask")) is not None:
        shown["input_ids"] = shown["input_ids"][:, mask[0].bool()]  # without padding
    was_training = model.training
    model.eval()
    try:
        ids, drafted, accepted = [int(_next(model, cache, **shown)[-1])], 0, 0
        while len(ids) < max_new_tokens and ids[-1] not in stops:
            room = min(draft, max_new_tokens - len(ids) - 1)
            guesses = _draft(model, cache, ids[-1], room, layer, stops)
            before = cache.get_seq_length()
            true = _next(model, cache, input_ids=torch.tensor([[ids[-1], *guesses]], device=model.device)).tolist()
            right = next((i for i, guess in enumerate(guesses) if guess != true[i]), len(guesses))
            drafted, accepted = drafted + len(guesses), accepted + right
            new = true[: right + 1]
            ids += new[: next((i + 1 for i, token in enumerate(new) if token in stops), len(new))]
            cut(cache, before + right + 1)
    finally:
        model.train(was_training)
    return Speculated(ids, drafted, accepted)


def cut(cache: DynamicCache, length: int) -> None:
    """Makes every layer of a cache forget what lies past `length` positions; drafting has filled the first layers only."""
    for one in cache.layers:
        one.crop(min(0, length - one.get_seq_length()))


def _draft(model: Any, cache: DynamicCache, last: int, room: int, layer: int, stops: set[int]) -> list[int]:
    """Up to `room` tokens from the first layers; the cache is left as it was."""
    before, guesses = cache.get_seq_length(), []
    with depth(model, layer):
        while len(guesses) < room and last not in stops:
            last = int(_next(model, cache, input_ids=torch.tensor([[last]], device=model.device))[-1])
            guesses.append(last)
    cut(cache, before)
    return guesses


def _next(model: Any, cache: DynamicCache, **inputs: Tensor) -> Tensor:
    """The most likely token after each position (after the last alone, where a prompt is read). Shape (L,)."""
    keep = 1 if cache.get_seq_length() == 0 else 0
    return model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=keep).logits[0].argmax(-1)
