"""What a data source holds, as one hash: a run that goes on has to find the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

from omnivision.data.tables import HUB, open_table
from omnivision.runs import file_hash


def source_hash(source: str) -> str:
    """SHA-256 of a file; of a folder's files with their names; the fingerprint of a hub's data set."""
    if source.startswith(HUB):
        return open_table(source)._fingerprint
    path = Path(source)
    if path.is_file():
        return file_hash(path)
    whole = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        whole.update(f"{file.relative_to(path)} {file_hash(file)}\n".encode())
    return whole.hexdigest()
