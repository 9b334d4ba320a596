"""The flags of `omnivision export fp16`, and those that other targets share."""

from __future__ import annotations

import argparse

from omnivision.export.verify import show

HELP = "FP16 safetensors in the hub's layout"
DESCRIPTION = (
    "Looks at every weight and at the activations over at least 200 pictures, writes FP16 safetensors, reloads them in a new process and "
    "compares next tokens with fp32; below 99 % agreement nothing is left behind."
)
EXAMPLE = "omnivision export fp16 --model runs/quickstart/dpo/final --out phone --questions world/eval/open.jsonl --image-root world"
__all__ = ["add_arguments", "run", "show"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shared flags, and those of FP16."""
    add_shared(parser)
    add_kept_and_license(parser)


def add_shared(parser: argparse.ArgumentParser) -> None:
    """The flags that every target shares: the checkpoint, the new folder, the reference questions."""
    parser.add_argument("--model", required=True, metavar="DIR", help="a checkpoint in the hub's layout")
    parser.add_argument("--out", required=True, metavar="DIR", help="the new folder; must not exist")
    parser.add_argument("--questions", metavar="FILE", help="JSON lines with text and image (else simple drawn pictures)")
    parser.add_argument("--image-root", metavar="DIR", help="where image paths start (else the question file's folder)")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="reference questions (default %(default)s)")


def add_kept_and_license(parser: argparse.ArgumentParser) -> None:
    """Flags of targets that can mix types and write a model card."""
    parser.add_argument("--license", default="other", metavar="ID", help="the hub's identifier for the model card (default other)")
    parser.add_argument("--keep-fp32", nargs="+", default=[], metavar="LAYER", help="layers that stay in fp32, such as model.projector.linear_1")


def run(args: argparse.Namespace) -> dict:
    """Export as the flags say."""
    from omnivision.export.fp16 import export_fp16

    return export_fp16(args.model, args.out, args.questions, args.image_root, args.count, keep=tuple(args.keep_fp32), license_id=args.license)
