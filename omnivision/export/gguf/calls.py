"""Calls under the exported grammar: are they what the function set says?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from transformers import AutoTokenizer

from omnivision.constants import FUNCTION_FILE
from omnivision.export.gguf.engine import Engine
from omnivision.export.gguf.gbnf import GRAMMAR_FILE
from omnivision.functions import FunctionSet, functional_tokens, parse_calls

TOKENIZER = "tokenizer"
ASKED = 4
LONGEST = 64  # tokens of an answer


@dataclass
class CallCount:
    """Answers under the grammar."""

    asked: int = 0
    valid: int = 0  # whole calls of known functions with arguments that fit
    wrong: int = 0  # anything else that the grammar let through; answers cut off at LONGEST count as neither


def count_calls(folder: Path, engine: Engine, questions: Iterator[tuple[str, Image.Image | None]]) -> CallCount:
    """Asks the first questions again, under the grammar; nothing is asked of an export without functions."""
    found = CallCount()
    if not (folder / FUNCTION_FILE).is_file():
        return found
    functions = FunctionSet.load(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER, local_files_only=True, trust_remote_code=False)
    tokens, grammar = functional_tokens(tokenizer, functions), (folder / GRAMMAR_FILE).read_text(encoding="utf-8")
    for text, picture in questions:
        ids = engine.ask(text, picture, LONGEST, grammar).ids
        calls = parse_calls(ids, tokenizer, functions)
        found.asked += 1
        found.valid += bool(calls)
        found.wrong += not ids or ids[0] not in tokens.functions or any(error.kind != "unclosed" for error in calls.errors)
        if found.asked == ASKED:
            break
    return found
