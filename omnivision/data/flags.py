"""Values on the command line that are looked at before anything is read: numbers within limits, files that can be written."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from omnivision.errors import ConfigError


def within(flag: str, kind: type[int] | type[float], least: float, most: float = math.inf) -> Callable[[str], int | float]:
    """A `type` for argparse: numbers from `least` to `most`.

    Args:
        flag: named where the number lies outside, or is NaN, which raises ConfigError.
    """

    def number(word: str) -> int | float:
        value = kind(word)
        if not least <= value <= most:  # NaN is neither
            limits = f"from {least:g} to {most:g}" if most < math.inf else f"of at least {least:g}"
            raise ConfigError(f"The number {word} cannot be used", flag, f"Give one {limits}.")
        return value

    number.__name__ = kind.__name__  # argparse names it where a word is no number
    return number


def output_file(name: str) -> Path:
    """A `type` for argparse: where a file can be written; its folder is made.

    Raises:
        ConfigError: it is a folder, or its folder cannot be made or written.
    """
    path = Path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if path.is_file() or not path.exists():  # a pipe or /dev/stdout needs no room beside it
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ConfigError(f"The file cannot be written: {error.strerror}", name, "Name a file that is to be written.") from error
    return path


def refuse_clashes(read: Mapping[str, str | Path | None], written: Mapping[str, Path | None]) -> None:
    """No file is written over another one, or over one that is read; by the flags that name them, None where they were not given.

    Raises:
        ConfigError: names both flags.
    """
    taken = {Path(file).resolve(): flag for flag, file in read.items() if file}
    for flag, file in written.items():
        other = taken.setdefault(file.resolve(), flag) if file else flag
        if other != flag:
            raise ConfigError("Both are one file, which would be written over", f"{other}, {flag}: {file}", "Give two files.")
