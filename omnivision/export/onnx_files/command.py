"""The flags of `omnivision export onnx`."""

from __future__ import annotations

import argparse

from omnivision.export.fp16_command import add_shared
from omnivision.export.verify import show

HELP = "ONNX graphs for onnxruntime and transformers.js"
DESCRIPTION = "Writes vision, embedding and decoder graphs and a runner without torch; runs them in onnxruntime in a new process; keeps them only if they agree."
EXAMPLE = "omnivision export onnx --model runs/quickstart/functions/final --out phone --quantize fp16 int8"
__all__ = ["VARIANTS", "add_arguments", "run", "show"]
VARIANTS = ("fp32", "fp16", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shared flags and the variants."""
    add_shared(parser)
    parser.set_defaults(count=50)
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="the longest reference answer (default 32)")
    parser.add_argument("--quantize", nargs="+", choices=VARIANTS, default=["fp32"], metavar="TYPE",
                        help="one or more of fp32 (default), fp16 (stored so, computed in fp32) and int8 (bytes in blocks of 32)")


def run(args: argparse.Namespace) -> dict:
    """Export as the flags say."""
    from omnivision.export.onnx_files.target import export_onnx

    return export_onnx(args.model, args.out, args.quantize, args.questions, args.image_root, args.count, args.tokens)
