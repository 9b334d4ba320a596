"""A tokenizer in GGUF's keys: byte-level BPE with Qwen2's or GPT-2's pre-tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from omnivision.constants import END_OF_TEXT, TURN_END, VISION_END, VISION_START
from omnivision.errors import ConfigError
from omnivision.export.gguf.packages import gguf

# The lfm2 reader writes these literals around a picture; the rows of the table stay where they are.
RENAMED = {VISION_START: "<|image_start|>", VISION_END: "<|image_end|>"}
KNOWN_ENDS = (TURN_END, END_OF_TEXT)  # that llama.cpp stops at by their names
MOST_ENDS = 3  # keys of GGUF: end of the text, of the turn, of the message


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF says of a tokenizer."""

    pre: str  # llama.cpp's name of the pre-tokenizer
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ends: tuple[int, ...]  # of an answer: the turn's, and what llama.cpp does not know by its name
    padding: int | None

    def describe(self, writer) -> None:
        """Add the keys to a GGUFWriter."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for key, end in zip((writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id), self.ends):
            key(end)
        if self.padding is not None:
            writer.add_pad_token_id(self.padding)
        writer.add_add_bos_token(False)


def vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, stops: Iterable[int] = ()) -> Vocabulary:
    """The keys of a fast tokenizer.

    Args:
        tokenizer: the checkpoint's.
        rows: of the embedding table; ids without a token become unused ones.
        stops: ids that end an answer.

    Raises:
        ConfigError: another kind of tokenizer, names that the renaming would double, or more ends than GGUF has keys for.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    said = json.loads(backend.to_str()) if backend is not None else {}
    model = said.get("model", {})
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise ConfigError(f"the tokenizer is {model.get('type')!r}, only byte-level BPE is written", "tokenizer", "Use Qwen2.5's tokenizer.")
    types, tokens = gguf().TokenType, [f"[PAD{row}]" for row in range(rows)]
    kinds = [int(types.UNUSED)] * rows
    for token, row in model["vocab"].items():
        tokens[row], kinds[row] = token, int(types.NORMAL)
    for added in said["added_tokens"]:
        row = added["id"]
        tokens[row] = RENAMED.get(added["content"], added["content"])
        kinds[row] = int(types.CONTROL if added["special"] else types.USER_DEFINED)
    twice = sorted({token for token in RENAMED.values() if tokens.count(token) != 1})
    if twice:
        remedy = f"The tokenizer must hold {', '.join(RENAMED)} once and none of {', '.join(RENAMED.values())}."
        raise ConfigError(f"{', '.join(twice)} would stand {tokens.count(twice[0])} times in the vocabulary", "tokenizer", remedy)
    merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    end, known = tokenizer.convert_tokens_to_ids(TURN_END), {tokens.index(token) for token in KNOWN_ENDS if token in tokens}
    ends = (end, *sorted({*stops} - known - {end}))
    if len(ends) > MOST_ENDS:
        raise ConfigError(f"answers end with {len(ends)} tokens that llama.cpp has to be told of, it can be told of {MOST_ENDS}",
                          "generation_config.json, eos_token_id", "Leave some out, or use omnivision export onnx.")
    return Vocabulary(_pre(said["pre_tokenizer"]), tokens, kinds, merges, ends, tokenizer.pad_token_id)


def _pre(said: dict | None) -> str:
    """llama.cpp's name for a pre-tokenizer.

    Raises:
        ConfigError: one that llama.cpp would cut texts with in another way.
    """
    parts = (said or {}).get("pretokenizers", [said or {}])
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex") and not parts[0].get("add_prefix_space"):
        return "gpt-2"
    if kinds == ["Split", "ByteLevel"] and parts[0]["pattern"].get("Regex") == PRETOKENIZE_REGEX:
        return "qwen2"
    raise ConfigError("the tokenizer cuts texts in a way that llama.cpp has no name for here", "tokenizer, pre_tokenizer",
                      "Only Qwen2's and GPT-2's pre-tokenizers are written.")
