"""One worker of a graph: what it is good for, and where it lives."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from omnivision.endpoint import Endpoint
from omnivision.errors import ConfigError
from omnivision.functions import Function
from omnivision.functions.function_set import IRRELEVANT

QUERY = "query"  # the one argument of every worker
ROUTER = "router"  # who answers where no worker does
SCHEMA = {"type": "object", "properties": {QUERY: {"type": "string", "minLength": 1}}, "required": [QUERY]}


@dataclass(frozen=True)
class WorkerEndpoint(Endpoint):
    """An endpoint for a request that somebody waits for: fewer and shorter tries, then a fallback."""

    _: KW_ONLY
    timeout: float = 30.0
    attempts: int = 2
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A model of ours on this machine.

    Args:
        folder: relative to the graph's file. max_new_tokens: its longest answer.
    """

    folder: Path
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}; at least 1 is needed", "max_new_tokens", "Correct the value.")


@dataclass(frozen=True)
class Worker:
    """A node of the graph.

    Args:
        name: a plain word; unique. description: what it does. good_for: examples of it; the row of its token starts from both.
        endpoint, checkpoint: where it lives, exactly one of them.
        system: a text before the query; endpoints only. pictures: whether it is sent the picture.
        context: whether it is sent the earlier answers behind the query. fallback: who stands in for it, in order; None takes the graph's.

    Raises:
        ConfigError: a name that cannot be, no description, or a place that is none or several.
    """

    name: str
    description: str
    good_for: tuple[str, ...] = ()
    endpoint: WorkerEndpoint | None = None
    checkpoint: Checkpoint | None = None
    system: str = ""
    pictures: bool = False
    context: bool = False
    fallback: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name in (IRRELEVANT, ROUTER):
            raise ConfigError(f"a worker cannot be named {self.name!r}", "name", f"Use letters, digits and _; {IRRELEVANT} and {ROUTER} are taken.")
        if not self.description.strip():
            raise ConfigError(f"the worker {self.name!r} has no description", "description", "Say what it does: its token starts from these words.")
        if (self.endpoint is None) == (self.checkpoint is None):
            lies = "nowhere" if self.endpoint is None else "in two places"
            raise ConfigError(f"the worker {self.name!r} lies {lies}", "endpoint, checkpoint", "Give one of the two.")
        if self.checkpoint and self.system:
            raise ConfigError("a checkpoint of ours takes no system text", "system", "Take it out, or serve the model behind an endpoint.")

    @property
    def function(self) -> Function:
        """The worker as the router's function set has it."""
        good = f" Good for: {', '.join(self.good_for)}." if self.good_for else ""
        return Function(self.name, f"{self.description.strip()}{good}", SCHEMA)
