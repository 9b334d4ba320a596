"""Sentences of a user with slots for arguments: {"play_song": {"en": ["Play {song} by {artist}."]}}."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omnivision.data.raw import parse
from omnivision.errors import ConfigError
from omnivision.functions import Function, FunctionSet
from omnivision.functions.function_set import IRRELEVANT
from omnivision.requests.drawing import HELD_OUT
from omnivision.requests.words import LANGUAGES

SLOT = re.compile(r"\{([^{}]+)\}")
EVERY = 5  # of so many sentences the last is kept for the held-out split; of fewer all serve both


@dataclass(frozen=True)
class Sentences:
    """Sentences of functions by language; where a function has some, the project's own frames are not used for it."""

    by_function: Mapping[str, Mapping[str, list[str]]]

    @classmethod
    def read(cls, file: Path, function_set: FunctionSet) -> Sentences:
        """Reads a file and looks at every sentence.

        Raises:
            ConfigError: no such file, a key that stands twice, another shape, an unknown function, language or slot, or a required argument without its slot.
        """
        try:
            content = parse(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"The templates cannot be read: {error}", str(file), "Give JSON: function, language, list of sentences.") from error
        if not isinstance(content, dict) or not all(isinstance(one, dict) for one in content.values()):
            raise ConfigError("The templates are no object of functions and languages", str(file), 'Write {"function": {"en": ["…"]}}.')
        names = [function.name for function in function_set.functions if function.name != IRRELEVANT]
        for name, languages in content.items():
            if name not in names:
                raise ConfigError(f"There is no function {name!r}", str(file), _meant(name, names))
            for language, sentences in languages.items():
                if language not in LANGUAGES or not isinstance(sentences, list):
                    raise ConfigError(f"{language!r} is no language with a list of sentences", f"{file}, {name}", f"Use {' or '.join(LANGUAGES)}.")
                for sentence in sentences:
                    check_slots(sentence, function_set[name], f"{file}, {name}")
        return cls(content)

    def of(self, name: str, language: str, split: str) -> list[str]:
        """The sentences of a function for a split; none where the user gave none."""
        found = self.by_function.get(name, {}).get(language, [])
        if len(found) < EVERY:
            return found
        return [one for at, one in enumerate(found) if (at % EVERY == EVERY - 1) == (split == HELD_OUT)]

    def shared(self) -> list[str]:
        """Functions whose splits differ in values only, since they have too few sentences."""
        return [name for name, languages in self.by_function.items() if any(0 < len(one) < EVERY for one in languages.values())]


def slots(sentence: str) -> frozenset[str]:
    """The arguments that a sentence names."""
    return frozenset(SLOT.findall(sentence))


def filled(sentence: str, values: Mapping[str, str]) -> str:
    """A sentence with its values."""
    return SLOT.sub(lambda slot: values[slot[1]], sentence)


def check_slots(sentence: object, function: Function, where: str) -> None:
    """Raises ConfigError where a sentence cannot ask for the function."""
    if not isinstance(sentence, str) or not sentence.strip():
        raise ConfigError(f"{sentence!r} is no sentence", where, "Write a text.")
    for name in slots(sentence):
        if name not in function.argument_names:
            raise ConfigError(f"{function.name} has no argument {name!r} ({sentence!r})", where, _meant(name, function.argument_names))
    missing = [name for name in function.parameters.get("required", []) if name not in slots(sentence)]
    if missing:
        raise ConfigError(f"{sentence!r} does not say the required {', '.join(missing)}", where, f"Put {{{missing[0]}}} into it.")


def _meant(name: str, known) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(list(known)[:10])}."
