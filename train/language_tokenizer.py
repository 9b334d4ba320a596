"""The tiny language model's tokenizer: Qwen2's algorithm and special tokens, a vocabulary from the world's text."""

from __future__ import annotations

import json
import random
import re

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from omnivision.world.vocabulary import kinds, places

# Qwen2.5's special tokens in the order of their ids (those that matter to pictures and dialogue).
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]


def train_tokenizer(vocab_size: int, seed: int, lessons: int = 20_000) -> Qwen2Tokenizer:
    """Trains byte-level BPE on the world's lessons; the same seed gives the same file.

    Args:
        vocab_size: entries with the bytes and the special tokens; spare embedding rows come on top.
    """
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=3, show_progress=False,
    )
    trained.train_from_iterator(_lines(seed, lessons), trainer)
    vocab = trained.get_vocab()
    ordered = dict(sorted(vocab.items(), key=lambda entry: entry[1]))
    merges = _merges(trained)
    tokenizer = Qwen2Tokenizer(vocab=ordered, merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    missing = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    tokenizer.add_tokens(missing, special_tokens=True)
    return tokenizer


def _merges(trained: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]


def _lines(seed: int, lessons: int):
    from omnivision_train.language_text import lesson

    rng = random.Random(f"{seed}/tokenizer")
    known = [k.zh for k in kinds().values()] + [p.phrase_zh for p in places().values()]
    names = re.compile("(" + "|".join(sorted(map(re.escape, known), key=len, reverse=True)) + ")")
    for _ in range(lessons):
        one = lesson(rng)
        yield from (" " + region.label for region in one.regions)
        for asked in one.dialogue:
            for text in (asked.question, asked.answer):
                # Chinese has no spaces: without a cut around names, whole questions would become single tokens
                yield from names.split(text) if asked.language == "zh" else [text]
