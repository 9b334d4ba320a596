"""`omnivision export TARGET`: one module a target, with HELP, DESCRIPTION, EXAMPLE, add_arguments, run and show; what is heavy loads when it runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from types import ModuleType

from omnivision.export import fp16_command as fp16
from omnivision.export import report, verify
from omnivision.export.gguf import command as gguf
from omnivision.export.gguf import import_command
from omnivision.export.onnx_files import command as onnx

TARGETS: dict[str, ModuleType] = {
    "fp16": fp16,
    "gguf": gguf,
    "onnx": onnx,
    "verify": verify,
    "report": report,
    "import": import_command,
}


def main(argv: list[str] | None = None) -> int | None:
    """Run the verb; returns the exit code."""
    args = _parser().parse_args(argv)
    target = TARGETS[args.target]
    with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed, imported while saving, logs to stdout
        result = target.run(args)
    if args.json:
        print(json.dumps(result))
    else:
        target.show(result)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omnivision export", description="Files for devices, each proved to answer as the checkpoint does.",
        epilog="example: omnivision export fp16 --model runs/quickstart/functions/final --out phone --json",
    )
    targets = parser.add_subparsers(dest="target", required=True)
    for name, module in TARGETS.items():
        one = targets.add_parser(name, help=module.HELP, description=module.DESCRIPTION, epilog=f"example: {module.EXAMPLE}")
        module.add_arguments(one)
        one.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser
