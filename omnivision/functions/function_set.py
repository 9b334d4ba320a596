"""A set of functions that a model can call, with one token each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from omnivision.constants import FUNCTION_FILE, FUNCTION_PREFIX
from omnivision.errors import ConfigError, DataError
from omnivision.functions.function import Function
from omnivision.functions.json_file import read_json_file
from omnivision.functions.schema import callable_schema
from omnivision.functions.type_names import in_json_words

LIST = "Give tools in OpenAI's format, as a JSON list."
PARAMETERS = ("parameters", "inputSchema", "input_schema")  # OpenAI, MCP, Anthropic
IRRELEVANT = "irrelevant"  # the answer to a request that no function of the set serves (Octopus v2)


@dataclass(frozen=True)
class FunctionSet:
    """Functions in the order of their tokens: function i is <prefix_i>, the end is <prefix_end>.

    The function `irrelevant` is always there; it is added last unless the set has it already, so
    the position of every function is kept by save, load, `extended` and `keeping`.
    """

    functions: tuple[Function, ...]
    prefix: str = FUNCTION_PREFIX

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str) or not self.prefix.isidentifier():
            raise ConfigError(f"prefix {self.prefix!r} is not a plain word", "function set", "Use letters and digits.")
        functions = tuple(self.functions)
        if IRRELEVANT not in {function.name for function in functions}:
            functions += (Function(IRRELEVANT, "The request fits none of the other functions."),)
        object.__setattr__(self, "functions", functions)
        seen: set[str] = set()
        for function in functions:
            if function.name in seen:
                raise ConfigError(f"two functions named {function.name!r}", "function set", "Rename one.")
            seen.add(function.name)

    @classmethod
    def from_json(cls, source: str | Path | list | dict, prefix: str | None = None) -> FunctionSet:
        """Read tools in OpenAI's format, or in that of an MCP server, Anthropic or Gemini.

        Args:
            source: a file, a list of tools, {"prefix": ..., "functions": [tools]} or {"tools": [tools]}. A tool is
                {"type": "function", "function": {name, description, parameters}} or its inside; `inputSchema` and
                `input_schema` are other names of `parameters`. What schemas may say in other words: see type_names.
            prefix: overrides the file's.

        Raises:
            ConfigError: no such file, not JSON, or a tool without a name.
        """
        where = "function list"
        if isinstance(source, (str, Path)):
            where = str(source)
            source = read_json_file(Path(source), "function file", LIST)
        if isinstance(source, dict):
            prefix = prefix or source.get("prefix")
            source = source.get("functions", source.get("tools"))
        if not isinstance(source, list):
            raise ConfigError("not a list of functions", where, LIST)
        functions = [_read_tool(tool, f"{where}, entry {index}") for index, tool in enumerate(source)]
        return cls(tuple(functions), prefix or FUNCTION_PREFIX)

    @classmethod
    def from_callables(cls, *functions: Callable, prefix: str = FUNCTION_PREFIX) -> FunctionSet:
        """Describe plain Python functions by their type hints and docstrings.

        Raises:
            ConfigError: something without a name of its own (a partial, an object that can be called), or as of callable_schema.
        """
        for function in functions:
            if not callable(function) or not hasattr(function, "__name__"):
                raise ConfigError(f"{function!r} is no function with a name", "function set", "Write a function (def) around it.")
        return cls(tuple(Function(function.__name__, *callable_schema(function)) for function in functions), prefix)

    def extended(self, more: Iterable[Function]) -> FunctionSet:
        """A larger set; the functions that are here keep their tokens, the new ones follow."""
        return FunctionSet(self.functions + tuple(more), self.prefix)

    def keeping(self, earlier: FunctionSet) -> FunctionSet:
        """These functions with the tokens of an earlier set, new ones behind; `irrelevant`, which no list has to name, stays where it was.

        Raises:
            ConfigError: another prefix, or another function in the place of one of the earlier set: a token that was trained for one would mean another.
        """
        if self.prefix != earlier.prefix:
            raise ConfigError(f"prefix {self.prefix!r} after {earlier.prefix!r}", "function set", "Keep the prefix of the trained set.")
        own, kept = iter([function for function in self.functions if function.name != IRRELEVANT]), []
        for token, function in zip(earlier.tokens, earlier.functions):
            now = self[IRRELEVANT] if function.name == IRRELEVANT else next(own, None)
            if now is None or now.name != function.name:
                what = f"{token} was {function.name!r} and is now {now and now.name!r}"
                raise ConfigError(what, "function set", "Keep the trained functions in their order and put new ones behind them.")
            kept.append(now)
        return FunctionSet((*kept, *own), self.prefix)

    @classmethod
    def beside(cls, folder: str | Path) -> FunctionSet | None:
        """That of a checkpoint, where it has one."""
        return cls.load(folder) if (Path(folder) / FUNCTION_FILE).is_file() else None

    def save(self, folder: str | Path) -> Path:
        """Write functions.json beside a checkpoint."""
        file = Path(folder) / FUNCTION_FILE
        content = {"prefix": self.prefix, "functions": [function.to_tool() for function in self.functions]}
        part = file.with_suffix(".part")
        part.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        os.replace(part, file)
        return file

    @classmethod
    def load(cls, folder: str | Path) -> FunctionSet:
        """Read the functions.json of a checkpoint."""
        return cls.from_json(Path(folder) / FUNCTION_FILE)

    def __len__(self) -> int:
        return len(self.functions)

    def token(self, name: str) -> str:
        """The functional token of a function."""
        return f"<{self.prefix}_{self.position(name)}>"

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {function.name: index for index, function in enumerate(self.functions)}

    def __contains__(self, name: str) -> bool:
        return name in self._positions

    def position(self, name: str) -> int:
        """Place of a function in the set."""
        if name not in self:
            raise DataError(f"no function named {name!r}", "function set", f"Known: {', '.join(self._positions)}.")
        return self._positions[name]

    def __getitem__(self, name: str) -> Function:
        return self.functions[self.position(name)]

    @property
    def tokens(self) -> tuple[str, ...]:
        """One functional token per function, in order, without the end token."""
        return tuple(f"<{self.prefix}_{index}>" for index in range(len(self.functions)))

    @property
    def end_token(self) -> str:
        """The token that closes a call."""
        return f"<{self.prefix}_end>"


def _read_tool(tool: object, where: str) -> Function:
    body = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(body, dict) or not isinstance(body.get("name"), str) or not body["name"]:
        raise ConfigError("a function without a name", where, 'Use {"name", "description", "parameters"}.')
    # OpenAI allows a function without parameters to leave the schema out or null.
    parameters = next((body[key] for key in PARAMETERS if body.get(key)), None)
    elsewhere = [key for key in ("params", "arguments", "args") if body.get(key)]
    if elsewhere and not parameters:
        raise ConfigError(f"the schema stands under {elsewhere[0]!r}", f"{where}: {body['name']!r}", "Call it 'parameters', as OpenAI's tools do.")
    parameters = in_json_words(parameters or {"type": "object", "properties": {}})
    return Function(body["name"], str(body.get("description") or body["name"]), parameters, in_json_words(body.get("returns")))
