"""What a language model keeps of the tokens before: whether rows of a batch can share it, and whether places in it may be left out."""

from __future__ import annotations

from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from omnivision.errors import ConfigError

BY_PLACE = ("mpt",)  # a bias by the place in the cache, masked places counted


def check_cache(language: PreTrainedModel, where: str) -> None:
    """The language model keeps keys and values, which questions about one picture can share.

    Args:
        where: for the error.

    Raises:
        ConfigError: it keeps a state in their place, as Mamba, RWKV and LFM2 do.
    """
    kinds = {type(layer).__name__ for layer in DynamicCache(config=language.config).layers if not hasattr(layer, "batch_select_indices")}
    if kinds or language._is_stateful:
        raise ConfigError(f"{type(language).__name__} keeps states, not keys and values, of the tokens before ({', '.join(sorted(kinds)) or 'stateful'})", where,
                          "Use a language model with attention alone (Qwen2.5, Llama, SmolLM2, ...).")


def counts_places(text: PretrainedConfig) -> bool:
    """Whether masked places in the cache change what a token sees: it looks back only so many places, or weighs by them."""
    kinds, old = set(getattr(text, "layer_types", None) or ()), str(getattr(text, "attention_types", ""))  # GPT-Neo's
    window = not kinds and getattr(text, "sliding_window", None) is not None
    return window or bool(kinds - {"full_attention"}) or "local" in old or text.model_type in BY_PLACE
