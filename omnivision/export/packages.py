"""Packages of the extra `export`, asked for only where they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from omnivision.errors import ConfigError


def needed(name: str, where: str) -> ModuleType:
    """Imports a package.

    Args:
        where: the command that needs it.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        what = f"the package {name} is not installed ({error})"
        raise ConfigError(what, where, "Install it with: bash scripts/setup.sh, whose default has it.") from error
