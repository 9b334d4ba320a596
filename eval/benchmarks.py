"""The table of benchmarks: which module scores a task, and which tasks a name on the command line stands for."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from omnivision.errors import ConfigError

from . import action_table, actions, chartqa, clinc150, mmmu, mmvet, open_ended, pope, scienceqa

POPE_SPLITS = ("pope_random", "pope_popular", "pope_adversarial")

# task (also the name of its question file) -> the module with prompt, grade, columns, headline and metrics
WORLD: dict[str, ModuleType] = {
    **{split: pope for split in POPE_SPLITS},
    "chartqa": chartqa,
    "open": open_ended,
    "actions": actions,
}

# task -> the same with `load`: the real benchmarks, whose saved answers are scored
REAL: dict[str, ModuleType] = {
    **{split: pope for split in POPE_SPLITS},
    "chartqa": chartqa,
    "mmvet": mmvet,
    "mmmu": mmmu,
    "scienceqa": scienceqa,
    "scienceqa_img": scienceqa,
    "clinc150": clinc150,
}

MODULES: dict[str, ModuleType] = WORLD | REAL

# benchmarks whose answers are calls -> what else of the samples stands in results.json: key -> value
CALLS: dict[ModuleType, Callable[[list[dict]], dict]] = {actions: action_table.details, clinc150: clinc150.details}

# name on the command line -> tasks
GROUPS: dict[str, tuple[str, ...]] = {"pope": POPE_SPLITS}


def expand(names: list[str] | tuple[str, ...], known: dict[str, ModuleType], where: str) -> list[str]:
    """Task names with groups spelled out, each once.

    Args:
        names: from the command line.
        known: the tasks there are.
        where: on what they run, for the message.

    Raises:
        ConfigError: an unknown name, with the known ones.
    """
    tasks: list[str] = []
    for name in names:
        if name not in GROUPS and name not in known:
            raise ConfigError(f"There is no benchmark `{name}` {where}", "", f"Known: {', '.join([*GROUPS, *known])}.")
        tasks += [task for task in GROUPS.get(name, (name,)) if task not in tasks]
    return tasks
