"""A stage's folder: one owner at a time, what was run, checkpoints that prove themselves, a pointer written last."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from omnivision.errors import ConfigError, DataError, ResumableError

MANIFEST = "manifest.json"
HAND_OVER = "omnivision.json"  # in final/: stage, hashes, what it was made from
IMPORTED, UNTRAINED = "imported", "untrained"  # what a hand-over note calls a model that no stage has made
PACKAGES = ("torch", "transformers", "trl", "deepspeed", "accelerate", "open_clip_torch", "datasets")


class RunLock:
    """Keeps a second process out of a run's folder; the file names its owner.

    Raises:
        ConfigError: another living process of this machine owns the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"

    def __enter__(self) -> RunLock:
        from filelock import FileLock, Timeout

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path, timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            owner = self.path.with_suffix(".owner")
            who = owner.read_text().strip() if owner.is_file() else "another process"
            raise ConfigError(f"The folder is in use by {who}", str(self.path.parent),
                              "Wait for it to end, or give another `out`.") from error
        self.path.with_suffix(".owner").write_text(f"process {os.getpid()} on {platform.node()}\n")
        return self

    def __exit__(self, *exc) -> None:
        self._lock.release()
        self.path.with_suffix(".owner").unlink(missing_ok=True)


def read_json_lines(path: Path) -> list:
    """What a file of JSON lines holds. Texts may hold line separators of Unicode, which end no line here."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in (lines if lines[-1] else lines[:-1])]


def write_json(path: Path, value) -> None:
    """A JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes aside, flushes, renames: a reader sees the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    flush_folder(path.parent)


def read_json(path: Path):
    """What a JSON file holds."""
    return json.loads(path.read_text("utf-8"))


def flush_folder(folder: Path) -> None:
    """Makes names in a folder last: a rename is only on the disk when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(folder: Path, ignore_errors: bool = False) -> None:
    """Removes a folder, if it is there: out of sight first, so that no half of it is ever taken for the whole."""
    if not folder.exists():
        return
    hidden = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.removed")
    if hidden != folder:
        shutil.rmtree(hidden, ignore_errors=True)
        os.replace(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=ignore_errors)


def environment() -> dict:
    """What ran: Python, packages, machine."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except Exception:  # noqa: BLE001 - a missing package is itself the information
            packages[name] = None
    return {"python": platform.python_version(), "packages": packages, "machine": platform.machine(),
            "cores": os.cpu_count(), "command": " ".join(map(os.path.basename, sys.argv[:1])) + " " + " ".join(sys.argv[1:])}


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hashes(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder but the manifest itself."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, HAND_OVER))
    return {str(p.relative_to(folder)): file_hash(p) for p in files}


def flush(folder: Path) -> None:
    """Brings every file of a folder to the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    flush_folder(folder)


def seal(folder: Path, sealed: Path) -> None:
    """Flushes and hashes a written checkpoint, then gives it its name; whole or not there at all."""
    flush(folder)
    write_json(folder / MANIFEST, folder_hashes(folder))
    remove(sealed)
    os.replace(folder, sealed)
    flush_folder(sealed.parent)


def verifies(folder: Path) -> bool:
    """Whether every file of a sealed checkpoint is there and unchanged.

    Raises:
        ResumableError: they cannot be read now, which says nothing of what they hold.
    """
    try:
        return folder_hashes(folder) == json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, ValueError):
        return False
    except OSError as error:
        raise ResumableError(f"A checkpoint cannot be read: {error.strerror or error}", str(error.filename or folder),
                             "Start the same command again once its disk answers; remove that folder to go back to the checkpoint before.") from error


def sorted_checkpoints(folder: Path) -> list[Path]:
    """All folders step-N of a folder, the newest first; copies by other names, such as step-100-best, are their owner's."""
    return sorted((path for path in folder.glob("step-*/") if re.fullmatch(r"step-[0-9]+", path.name)), key=checkpoint_step, reverse=True)


def checkpoint_step(path: Path) -> int:
    """The step of a folder step-N."""
    return int(path.name.split("-")[1])


def newest_checkpoint(folder: Path, warn) -> Path | None:
    """The newest `step-N` that verifies, None where there is no checkpoint; `warn(message)` is called for each newer one that does not.

    Raises:
        DataError: none of them does. ResumableError: see `verifies`.
    """
    damaged = []
    for checkpoint in sorted_checkpoints(folder):
        if verifies(checkpoint):
            return checkpoint
        warn(f"{checkpoint} is damaged or incomplete and is skipped")
        damaged.append(checkpoint.name)
    if damaged:
        raise DataError(f"No checkpoint of this run is whole: {', '.join(damaged)}", str(folder), "Restore one, or remove the folder to begin again.")
    return None


def write_hand_over(folder: Path, stage: str, parent: str | None) -> None:
    """Writes what the next stage checks: the stage's name, its parent and the hash of every file."""
    write_json(folder / HAND_OVER, {"stage": stage, "parent": parent, "files": folder_hashes(folder)})


def stages_among(names: Iterable[str]) -> list[str]:
    """Those that can be run."""
    return [name for name in names if name not in (IMPORTED, UNTRAINED)]


def read_hand_over(folder: Path, wanted: tuple[str, ...], stage: str) -> dict:
    """Checks that a folder is the unchanged result of one of the stages it may follow.

    Args:
        folder: `final/` of the earlier stage. wanted: stages that `stage` may start from.

    Raises:
        ConfigError: no such folder, the result of another stage, or files that changed since.
    """
    path = folder / HAND_OVER
    if not path.is_file():
        raise ConfigError(f"There is no finished stage to start `{stage}` from", str(folder),
                          f"Run one of the stages {', '.join(stages_among(wanted))} first and give its final/ folder as `start`.")
    try:
        hand_over = json.loads(path.read_text())
        found, files = hand_over["stage"], dict(hand_over["files"])
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError("The note of the stage before is broken", str(path), "Run that stage again, or restore the file.") from error
    if found not in wanted:
        raise ConfigError(f"The checkpoint comes from the stage `{found}`, but `{stage}` starts from "
                          f"{' or '.join(f'`{w}`' for w in wanted)}", str(folder), "Give another `start`.")
    now = folder_hashes(folder)
    changed = sorted(name for name in {*now, *files} if now.get(name) != files.get(name))
    if changed:
        raise ConfigError(f"The checkpoint was changed after its stage ended: {', '.join(changed[:5])}", str(folder),
                          "Run the stage again, or restore the files.")
    return hand_over
