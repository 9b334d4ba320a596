"""One bar for a road of steps of known weight; nothing but plain lines where the screen is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Steps:
    """Progress over named steps.

    Args:
        steps: (name, weight) in order; the weight is the step's usual share of the time.
    """

    def __init__(self, steps: list[tuple[str, float]]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.weights, self.passed = dict(steps), 0.0
        self.console = Console(stderr=True)
        self.bar = Progress(TextColumn("{task.description:<16}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
                            TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("", total=sum(self.weights.values()))

    def __enter__(self) -> Steps:
        self.bar.start()
        return self

    def __exit__(self, *exc) -> None:
        self.bar.stop()

    def skip(self, name: str) -> None:
        """A step that an earlier run finished."""
        self._pass(name)
        self._say(f"{name}: done before")

    @contextmanager
    def running(self, name: str) -> Iterator:
        """Gives tick(fraction), to be called as the step goes on."""
        self.bar.update(self.task, description=name)
        started, weight, base = time.time(), self.weights.get(name, 0.0), self.passed

        def tick(fraction: float) -> None:
            self.bar.update(self.task, completed=base + weight * min(1.0, fraction))

        yield tick
        self._pass(name)
        self._say(f"{name}: {time.time() - started:.0f} s")

    def _pass(self, name: str) -> None:
        self.passed += self.weights.get(name, 0.0)
        self.bar.update(self.task, completed=self.passed)

    def _say(self, line: str) -> None:
        if self.console.is_terminal:
            self.console.print(line, style="dim", highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)
