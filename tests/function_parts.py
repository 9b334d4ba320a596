"""Small parts for the tests of functional tokens: tokenizers, a model, sets of functions."""

from __future__ import annotations

import json

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

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


def make_llama_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE of SentencePiece's kind: a space before every text, characters it does not know as bytes."""
    characters = "(item='a red cat', count=2) abcdefghijklmnopqrstuvwxyz 0123456789 '\"[]{}()=,.:-\\*_"
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", "<s>", "</s>", *fallback], show_progress=False)
    inner.train_from_iterator([characters], trainer)
    state = json.loads(inner.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in fallback]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def add_tokens(tokenizer: PreTrainedTokenizerFast, functions: FunctionSet) -> PreTrainedTokenizerFast:
    """The tokenizer with the set's tokens, where no model is at hand."""
    new = [AddedToken(token, special=True, normalized=False) for token in (*functions.tokens, functions.end_token)]
    tokenizer.add_tokens(new, special_tokens=True)
    return tokenizer
