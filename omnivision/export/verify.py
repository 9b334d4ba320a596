"""`omnivision export verify`: an export's own reference questions, asked of its files in their engine."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import omnivision
from omnivision.errors import ConfigError, DataError, OmniError
from omnivision.export.folder import MANIFEST, read_manifest

HELP = "run an export in its engine and compare it with its reference answers"
DESCRIPTION = "Checks every file's hash, runs the export and compares it with the fp32 reference that travels with it."
EXAMPLE = "omnivision export verify phone --json"
COMPUTE = ("auto", "float32", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `verify`."""
    parser.add_argument("folder", metavar="DIR", help="what `omnivision export` wrote")
    parser.add_argument(
        "--compute",
        choices=COMPUTE,
        default="auto",
        help="of fp16 exports: the arithmetic on their weights (default: float16 on a GPU, else float32, which is several times faster there)",
    )


def run(args: argparse.Namespace) -> dict:
    """Verify in a new process and hold the result against the gate."""
    result = verify_in_new_process(args.folder, args.compute)
    check_of(args.folder).check_gate(result, args.folder)
    return result


def show(result: dict) -> None:
    """The result as lines for a reader."""
    _checks()[result["format"]].show(result)


def check_of(folder: str | Path) -> ModuleType:
    """The module that verifies an export of this kind.

    Raises:
        ConfigError: no export, or of an unknown kind.
    """
    kind, checks = read_manifest(Path(folder))["format"], _checks()
    if kind not in checks:
        what = f"an export of the kind {kind!r}; known are {', '.join(checks)}"
        raise ConfigError(what, str(Path(folder) / MANIFEST), "Export again, or use the version that wrote it.")
    return checks[kind]


def _checks() -> dict[str, ModuleType]:
    """What an export's manifest calls it -> the module with verify(folder, compute), check_gate(result, folder), show(result)."""
    from omnivision.export import fp16_check
    from omnivision.export.gguf import check as gguf_check
    from omnivision.export.onnx_files import check as onnx_check

    return {check.FORMAT: check for check in (fp16_check, gguf_check, onnx_check)}


def verify_folder(folder: str | Path, compute: str = "auto") -> dict:
    """Verify an export of any kind in this process; {"format", ...} and what its kind's `verify` returns."""
    check = check_of(folder)
    return {"format": check.FORMAT, **check.verify(folder, compute)}


def verify_in_new_process(folder: str | Path, compute: str = "auto") -> dict:
    """verify_folder in a fresh interpreter: nothing that the exporting process holds can help.

    Raises:
        As verify_folder; DataError too where the process dies.
    """
    home = str(Path(omnivision.__file__).parent.parent)
    # -P: what lies in the user's folder under a library's name is not run
    path = os.pathsep.join(part for part in (home, os.environ.get("PYTHONPATH")) if part)
    command = [sys.executable, "-P", "-m", "omnivision.export.verify", str(Path(folder).resolve()), compute]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        tail = " ".join(done.stderr.split())[-300:]
        raise DataError(f"verification died with exit code {done.returncode}: {tail}", str(folder)) from error
    if "error" in answer:
        raise (ConfigError if answer["exit_code"] == ConfigError.exit_code else DataError)(*answer["error"])
    return answer


def _child() -> int:
    try:
        print(json.dumps(verify_folder(*sys.argv[1:])))
        return 0
    except OmniError as error:
        print(json.dumps({"error": [error.what, error.where, error.remedy], "exit_code": error.exit_code}))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(_child())
