"""The table of benchmarks: which module scores a task, and which tasks a name on the command line stands for."""

from __future__ import annotations

from types import ModuleType

from omnivision.errors import ConfigError

from . import actions, chartqa, open_ended, pope

POPE_SPLITS = ("pope_random", "pope_popular", "pope_adversarial")

# task (also the name of its question file) -> the module with prompt, grade, columns, headline and metrics
MODULES: dict[str, ModuleType] = {
    **{split: pope for split in POPE_SPLITS},
    "chartqa": chartqa,
    "open": open_ended,
    "actions": actions,
}

# name on the command line -> tasks
GROUPS: dict[str, tuple[str, ...]] = {"pope": POPE_SPLITS}


def expand(names: list[str] | tuple[str, ...]) -> list[str]:
    """Task names with groups spelled out, each once.

    Raises:
        ConfigError: an unknown name, with the known ones.
    """
    tasks: list[str] = []
    for name in names:
        if name not in GROUPS and name not in MODULES:
            known = ", ".join([*GROUPS, *MODULES])
            raise ConfigError(f"There is no benchmark `{name}`", "", f"Known: {known}.")
        tasks += [task for task in GROUPS.get(name, (name,)) if task not in tasks]
    return tasks
