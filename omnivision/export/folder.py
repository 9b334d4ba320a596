"""The folder of an export: whole or not there at all, with a manifest of hashes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from omnivision.errors import ConfigError, DataError, OmniError, ResumableError, is_disk_full
from omnivision.runs import file_hash

REFERENCE_FILE = "reference.jsonl"
PICTURE_FOLDER = "reference"

MANIFEST = "export.json"
IN_THE_WAY = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
OPTIONAL: dict[str, Callable[[object], bool]] = {  # of a manifest: what stands in it for one kind of export
    "kept_in_fp32": lambda value: is_list(value, str),
    "stop_token_ids": lambda value: is_list(value, int),
    "not_applied": lambda value: isinstance(value, dict),
}


@contextmanager
def whole_or_nothing(out: Path, source: Path | None = None) -> Iterator[Path]:
    """A working folder on the same disk that becomes `out` at the end, or vanishes on any error or signal.

    Args:
        out: the new folder. source: what is read for it: to write into it would change it.

    Raises:
        ConfigError: `out` exists, lies in `source` or cannot be made. ResumableError: the disk is full.
    """
    if source is not None and out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"the output folder lies in {source}, which it would change", str(out), "Choose another --out.")
    folder = _working_folder(out)
    try:
        yield folder
        _open_as_others(folder)
        _rename(folder, out)
    except Exception as error:
        if is_disk_full(error):
            raise _full(out) from error
        if isinstance(error, OmniError):
            _name_out(error, folder, out)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _working_folder(out: Path) -> Path:
    """A new folder beside `out`, whose name is short: that of `out` may be as long as names can be."""
    try:
        if out.exists() or out.is_symlink():  # a link that leads nowhere is in the way too
            raise _exists(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".export.", suffix=".part", dir=out.parent))
    except OSError as error:
        if is_disk_full(error):
            raise _full(out) from error
        raise ConfigError(f"the output folder cannot be made: {error.strerror}", str(out), "Choose another --out.") from error


def _open_as_others(folder: Path) -> None:
    """Gives the folder the rights that any new one gets here: mkdtemp's are its owner's alone."""
    (usual := folder / ".rights").mkdir()
    mode = stat.S_IMODE(usual.stat().st_mode)
    usual.rmdir()
    folder.chmod(mode)


def _rename(folder: Path, out: Path) -> None:
    try:
        os.rename(folder, out)
    except OSError as error:
        if error.errno in IN_THE_WAY:  # another export was faster
            raise _exists(out) from error
        raise


def _exists(out: Path) -> ConfigError:
    return ConfigError("the output folder exists already", str(out), "Choose another --out or remove it: nothing is overwritten.")


def _name_out(error: OmniError, folder: Path, out: Path) -> None:
    """Puts the name that the reader knows into an error: the working folder is gone when it is read."""
    for part in ("what", "where", "remedy"):
        setattr(error, part, getattr(error, part).replace(str(folder.resolve()), str(out)).replace(str(folder), str(out)))
    error.args = (error.paragraph(),)


def _full(out: Path) -> ResumableError:
    free = shutil.disk_usage(next(place for place in out.absolute().parents if place.exists())).free
    return ResumableError(f"the disk is full ({free:,} bytes were free)", str(out.parent), "Make room and export again.")


def write_manifest(folder: Path, manifest: dict) -> None:
    """Writes export.json; with `hashes_of` in it, everything that verification needs."""
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an export but the manifest."""
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in all_files(folder)}


def read_manifest(folder: Path) -> dict:
    """The manifest of an export.

    Raises:
        ConfigError: there is none, or a broken one. DataError: a value of another type than an export writes.
    """
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(manifest["sha256"], dict):
            raise TypeError("sha256 is no object")
        if not isinstance(manifest["format"], str):
            raise TypeError("format is no text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("no export", str(file), "Give a folder that `omnivision export` wrote.") from error
    odd = [name for name, fits in OPTIONAL.items() if name in manifest and not fits(manifest[name])]
    if odd:
        raise DataError(f"{odd[0]} is {str(manifest[odd[0]])[:60]}, which no export writes", str(file), "Copy the export again.")
    return manifest


def is_list(value: object, kind: type) -> bool:
    """Whether a value of a JSON file is a list of one kind."""
    return isinstance(value, list) and all(isinstance(one, kind) for one in value)


def check_hashes(folder: Path) -> dict:
    """Every file must be as it was written, and no other beside it: safetensors notices a cut file, not a flipped bit.

    Returns:
        The manifest.

    Raises:
        ConfigError: no export. DataError: a file that is gone, has changed or came later.
    """
    manifest = read_manifest(folder)
    more = [name for path in all_files(folder) if (name := path.relative_to(folder).as_posix()) not in manifest["sha256"]]
    if more:
        raise DataError(f"{more[0]} is no part of the export ({len(more)} such files)", str(folder), "Move it elsewhere, or copy the export again.")
    for name, wanted in manifest["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{name} is missing", str(folder), "Copy the export again.")
        if file_hash(path) != wanted:
            raise DataError(f"{name} has changed since it was exported", str(folder), "Copy the export again.")
    return manifest


def all_files(folder: Path) -> list[Path]:
    """Files of an export in order of their names, and links to elsewhere, without the manifest."""
    return sorted(path for path in folder.rglob("*") if (path.is_file() or path.is_symlink()) and path != folder / MANIFEST)


def count_bytes(folder: Path) -> dict[str, int]:
    """Bytes per file; the reference pictures count as one entry."""
    counts: dict[str, int] = {}
    for path in all_files(folder):
        name = path.relative_to(folder).as_posix()
        name = f"{PICTURE_FOLDER}/" if name.startswith(f"{PICTURE_FOLDER}/") else name
        counts[name] = counts.get(name, 0) + path.stat().st_size
    return counts


def device_bytes(counts: dict[str, int]) -> int:
    """Of count_bytes, without what only proves the export."""
    return sum(number for name, number in counts.items() if name not in (f"{PICTURE_FOLDER}/", REFERENCE_FILE))


def not_applied_lines(result: dict) -> list[str]:
    """What a reader is told of Checkpoint.not_applied; nothing where it is empty."""
    said = ", ".join(f"{name} {value}" for name, value in result["not_applied"].items())
    return [f"not applied here, the most likely token is taken: {said} of generation_config.json"] if said else []


def print_bytes(counts: dict[str, int]) -> None:
    """A line for each file and their sum."""
    width = max(len(name) for name in counts)
    for name, number in counts.items():
        print(f"{name:<{width}}  {number:>15,} bytes")
    print(f"{'total':<{width}}  {device_bytes(counts):>15,} bytes (without the reference questions and pictures)")
