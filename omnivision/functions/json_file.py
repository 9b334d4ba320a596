"""Files in strict JSON that people write: tables of functions, policies, graphs."""

from __future__ import annotations

from pathlib import Path

from omnivision.data.raw import parse
from omnivision.errors import ConfigError


def read_json_file(file: Path, kind: str, remedy: str) -> object:
    """What a file holds; a byte order mark, as Windows writes it, is none of it.

    Args:
        kind: what the file is to be, for the message. remedy: what to give.

    Raises:
        ConfigError: no such file, or not JSON.
    """
    try:
        return parse(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"not a readable {kind}: {error}", str(file), remedy) from error
