"""The graph: workers, who may follow whom, who stands in for whom. Read from a JSON file, checked whole.

{"workers": [{"name": "law", "description": "Answers questions of law.", "good_for": ["contracts", "tenancy"],
              "endpoint": {"base_url": "http://127.0.0.1:8000/v1", "model": "law-7b", "timeout": 20}},
             {"name": "plain", "description": "Says a text in plain words.", "context": true, "checkpoint": {"folder": "plain/final"}}],
 "edges": {"law": ["plain"]}, "most_steps": 3, "default": "plain", "fallback": ["plain"]}
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from omnivision.config_files import load_tree
from omnivision.errors import ConfigError
from omnivision.functions import Function, FunctionSet
from omnivision.functions.function_set import IRRELEVANT
from omnivision.functions.json_file import read_json_file
from omnivision.routing.worker import Worker

END = Function(IRRELEVANT, "No worker fits the request, or nothing is left to do.")


@dataclass(frozen=True)
class _File:
    """The file's keys; workers are built one by one, so that an error names its own."""

    workers: list[dict[str, Any]]
    edges: dict[str, tuple[str, ...]] = field(default_factory=dict)
    most_steps: int | None = None
    default: str | None = None
    fallback: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Workers and how a walk may go.

    Args:
        workers: in the order of their tokens; new ones belong at the end.
        edges: for a worker, those that may be asked after it; a walk ends at a worker without any.
        most_steps: workers asked in one walk; needed where the edges lead back.
        default: who is asked where none fits; None is the router itself.
        fallback: who stands in for a worker that is down, in order.
        source: named in errors.

    Raises:
        ConfigError: no worker, a name twice, a name that is no worker's, or a loop without a limit.
    """

    workers: tuple[Worker, ...]
    edges: dict[str, tuple[str, ...]] = field(default_factory=dict)
    most_steps: int | None = None
    default: str | None = None
    fallback: tuple[str, ...] = ()
    source: str = "graph"

    def __post_init__(self) -> None:
        names = [worker.name for worker in self.workers]
        twice = [name for name in names if names.count(name) > 1]
        if not names or twice:
            raise ConfigError(f"two workers named {twice[0]!r}" if twice else "no worker", f"{self.source}: workers", "Give each its own name.")
        for key, wanted in self._references():
            for name in wanted:
                if name not in names:
                    near = difflib.get_close_matches(name, names, n=1)
                    remedy = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(names)}."
                    raise ConfigError(f"no worker named {name!r}", f"{self.source}: {key}", remedy)
        self._check_steps()

    @classmethod
    def read(cls, file: str | Path) -> Graph:
        """Reads a graph's file.

        Raises:
            ConfigError: no such file, not JSON, unknown keys, or as above.
        """
        file = Path(file)
        found = load_tree(_File, _read_json(file), (), str(file))
        workers = tuple(_worker(entry, file, number) for number, entry in enumerate(found.workers))
        return cls(**{**vars(found), "workers": workers, "source": str(file)})

    def functions(self) -> FunctionSet:
        """The router's function set. `irrelevant` comes first, so that workers added to the file's end move nobody's token."""
        return FunctionSet((END, *(worker.function for worker in self.workers)))

    def order(self, name: str) -> tuple[Worker, ...]:
        """A worker and those who stand in for it, in the order in which they are asked."""
        known = {worker.name: worker for worker in self.workers}
        fallback = self.fallback if known[name].fallback is None else known[name].fallback
        return tuple(known[one] for one in dict.fromkeys((name, *fallback)))

    def _references(self) -> list[tuple[str, tuple[str, ...]]]:
        """Every key that names workers, and the names."""
        found = [("edges", tuple(self.edges)), *((f"edges.{name}", followers) for name, followers in self.edges.items())]
        found += [(f"workers.{worker.name}.fallback", worker.fallback or ()) for worker in self.workers]
        return [*found, ("default", (self.default,) if self.default is not None else ()), ("fallback", self.fallback)]

    def _check_steps(self) -> None:
        where = f"{self.source}: most_steps"
        if self.most_steps is not None:
            if self.most_steps < 1:
                raise ConfigError(f"most_steps is {self.most_steps}; at least 1 is needed", where, "Correct the value.")
            return
        try:
            TopologicalSorter(self.edges).prepare()
        except CycleError as error:
            raise ConfigError(f"the edges lead in a circle ({' - '.join(reversed(error.args[1]))}) and nothing limits the steps", where,
                              "Give most_steps, or take an edge out.") from error


def _worker(entry: dict, file: Path, number: int) -> Worker:
    try:
        worker = load_tree(Worker, entry, (), "")
    except ConfigError as error:
        name = f" ({entry['name']})" if isinstance(entry.get("name"), str) else ""
        raise ConfigError(error.what, f"{file}: workers[{number}]{name}{f', {error.where}' if error.where else ''}", error.remedy) from error
    if worker.checkpoint is None:
        return worker
    return replace(worker, checkpoint=replace(worker.checkpoint, folder=file.parent / worker.checkpoint.folder))


def _read_json(file: Path) -> dict:
    tree = read_json_file(file, "graph", "Give a JSON object with workers and edges.")
    if not isinstance(tree, dict):
        raise ConfigError("the graph is no JSON object", str(file), "Give one with workers and edges.")
    return tree
