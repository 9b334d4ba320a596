"""First whether two arms train the same, then how long all of them take, in turn."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from omnivision.hardware import busy_seconds, device
from omnivision_train.benchmark.arm import Arm
from omnivision_train.benchmark.process import Process

AGREE = {"cpu": 1e-5, "cuda": 1e-4}  # relative, of the first step; a GPU's kernels add in many orders
LATER = 1e-3  # of the two steps after it: AdamW divides by small gradients
WARM_UP = 2  # rounds that do not count
WARM_STEPS = 1  # of each turn: others have used the caches, and the GPU's memory was given back


def gate(one: Arm, other: Arm) -> list[tuple[dict, dict]]:
    """Three steps of both, in fp32: what they logged.

    Raises:
        SystemExit: losses or gradient norms do not agree; nothing is timed then.
    """
    processes, logged = [Process(arm) for arm in (one, other)], []  # both prepare at the same time
    for process in processes:
        process.ready()
        logged.append(process.steps(3)["logged"])
        process.end()
    steps, first_step = list(zip(*logged, strict=True)), AGREE[device()]
    for number, (first, second) in enumerate(steps):
        for key in ("loss", "grad_norm"):
            if not abs(first[key] - second[key]) <= (LATER if number else first_step) * max(abs(first[key]), 1.0):
                raise SystemExit(f"{one.name} and {other.name} do not train the same: step {number + 1}, {key} {first[key]} and {second[key]}")
    print(f"{one.stage}: {one.name} and {other.name} train the same", file=sys.stderr, flush=True)
    return steps


def timed(arms: Sequence[Arm], rounds: int, steps: int, together: bool = False, check: Callable[[], object] = lambda: None) -> dict:
    """Seconds of every round, preparation and memory of all arms.

    Args:
        steps: of a turn; every arm has two turns a round, in the order A B C C B A. together: arms prepare at the same time, which
            is quicker, but their preparation is then no measure. check: called before arms are timed, while they prepare together; its result is `agreed`.
    """
    started = [Process(arm) for arm in arms] if together else (Process(arm) for arm in arms)
    agreed = check()
    processes, preparation, left_out = [], [], {}
    for process in started:
        try:
            seconds = process.ready()
            process.steps(steps, WARM_STEPS)  # what compiles, and what needs a package or more memory, tells at its first step
        except SystemExit as error:
            if not process.arm.optional:
                raise
            left_out[process.arm.name] = str(error)
        else:
            processes.append(process)
            preparation.append(seconds)
            print(f"{process.arm.stage}: {process.arm.name} began after {seconds:.0f} s", file=sys.stderr, flush=True)
    found = [one_round(processes, steps) for _ in range(rounds + WARM_UP)]
    return {"agreed": agreed, "rounds": found[WARM_UP:], "preparation": preparation, "left_out": left_out, "memory": [process.end() for process in processes]}


def one_round(processes: Sequence[Process], steps: int) -> dict:
    """Wall and CPU seconds of each arm, what each logged, and how many cores were used meanwhile by others, and by arms that waited (their loaders)."""
    began, before, own = time.perf_counter(), busy_seconds(), sum(process.cpu() for process in processes)
    found = [{"seconds": 0.0, "cpu": 0.0, "logged": []} for _ in processes]
    turns = [*range(len(processes)), *reversed(range(len(processes)))]
    for turn in turns:
        said = processes[turn].steps(steps, WARM_STEPS)
        for key in found[turn]:
            found[turn][key] += said[key]
    own, passed = sum(process.cpu() for process in processes) - own, time.perf_counter() - began
    return {"arms": found, "others": (busy_seconds() - before - own) / passed, "waiting": (own - sum(one["cpu"] for one in found)) / passed}
