"""`omnivision export fp16 | verify`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys


def main(argv: list[str] | None = None) -> int | None:
    """Run the verb; returns the exit code."""
    args = _parser().parse_args(argv)
    from omnivision.export import fp16, verify  # here, so that --help answers without torch

    with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed, imported while saving, logs to stdout
        if args.target == "fp16":
            result = fp16.export_fp16(args.model, args.out, args.questions, args.image_root, args.count)
        else:
            result = verify.verify_export(args.folder, args.compute)
            verify.check_gate(result, args.folder)
    if args.json:
        print(json.dumps(result))
    else:
        fp16.print_result(result)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="omnivision export", description="Files for devices, each proved to answer as the checkpoint does.",
        epilog="example: omnivision export fp16 --model runs/quickstart/functions/final --out phone --json",
    )
    targets = parser.add_subparsers(dest="target", required=True)
    fp16 = targets.add_parser(
        "fp16",
        help="FP16 safetensors in the hub's layout",
        description="Writes FP16 safetensors, reloads them in a new process and compares next tokens with fp32; "
        "below 99 % agreement nothing is left behind.",
        epilog="example: omnivision export fp16 --model runs/quickstart/dpo/final --out phone --questions world/eval/open.jsonl --image-root world",
    )
    fp16.add_argument("--model", required=True, metavar="DIR", help="a checkpoint in the hub's layout")
    fp16.add_argument("--out", required=True, metavar="DIR", help="the new folder; must not exist")
    fp16.add_argument("--questions", metavar="FILE", help="JSON lines with text and image (else simple drawn pictures)")
    fp16.add_argument("--image-root", metavar="DIR", help="where image paths start (else the question file's folder)")
    fp16.add_argument("--count", type=int, default=200, metavar="N", help="reference questions (default 200)")
    verify = targets.add_parser(
        "verify",
        help="reload an export and compare it with its reference answers",
        description="Checks every file's hash, reloads the export and compares next tokens with the fp32 reference that travels with it.",
        epilog="example: omnivision export verify phone --json",
    )
    verify.add_argument("folder", metavar="DIR", help="what `omnivision export fp16` wrote")
    verify.add_argument(
        "--compute",
        choices=("auto", "float32", "float16"),
        default="auto",
        help="arithmetic on the FP16 weights (default: float16 on a GPU, else float32, which is several times faster there)",
    )
    for one in (fp16, verify):
        one.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser
