"""Small parts for the tests of functional tokens: tokenizers, a model, sets of functions."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from omnivision.functions import Function, FunctionSet

ANYTHING = {
    "type": "object",
    "properties": {"item": {}, "from": {}, "start-date": {}, "数量": {}, "ﬁeld": {}},
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of Qwen's kind (NFC, byte fallback by construction)."""
    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["(item='a red cat', count=2)", "订购红色的猫"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def make_model(rows: int, tied: bool = True) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=rows,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return Qwen2ForCausalLM(config)


def make_shop() -> FunctionSet:
    order = {
        "type": "object",
        "properties": {
            "item": {"type": "string"},
            "count": {"type": "integer", "minimum": 1},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["item"],
    }
    return FunctionSet((Function("order", "Order a thing in the shop.", order), Function("any", "Take it.", ANYTHING)))
