"""The text tower's tokenizer: byte-level BPE over the words the world's regions and captions use."""

from __future__ import annotations

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END = "</s>"
PAD = "<pad>"


def train_label_tokenizer(vocab_size: int, seed: int, pictures: int = 3000) -> PreTrainedTokenizerFast:
    """Trains on the labels of random pictures' truth; the same seed gives the same file.

    Args:
        vocab_size: entries, the 256 bytes and two special tokens included.
        pictures: how many random pictures the words come from.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )
    tokenizer.train_from_iterator(_label_lines(seed, pictures), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, padding_side="right")


def _label_lines(seed: int, pictures: int) -> list[str]:
    from omnivision_train.vision_pairs import picture

    rng = random.Random(f"{seed}/labels")
    return [region.label for _ in range(pictures) for region in picture(rng, "train")[1]]
