"""The flags of `omnivision export gguf`."""

from __future__ import annotations

import argparse

from omnivision.export.fp16_command import add_kept_and_license, add_shared
from omnivision.export.gguf.types import PICTURE_TYPES, QUANTIZATIONS
from omnivision.export.verify import show

HELP = "GGUF files that stock llama.cpp runs: a text file and a picture file"
DESCRIPTION = (
    "Writes a text file (qwen2) and a picture file (mmproj) tensor by tensor, runs them in llama.cpp in a new process and compares "
    "prompts, image embeddings, log-probabilities and greedy answers with fp32; an export that differs is not left behind."
)
EXAMPLE = "omnivision export gguf --model runs/quickstart/functions/final --out phone --quantize f16 q8_0"
__all__ = ["add_arguments", "run", "show"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gguf`."""
    add_shared(parser)
    parser.set_defaults(count=24)
    add_kept_and_license(parser)
    parser.add_argument("--quantize", nargs="+", choices=QUANTIZATIONS, default=["f16"], metavar="TYPE",
                        help=f"types of the weights, a text file each: {', '.join(QUANTIZATIONS)} (default f16)")
    parser.add_argument("--picture-type", choices=PICTURE_TYPES, default="q8_0", metavar="TYPE",
                        help=f"of the picture file beside quantised text files: {', '.join(PICTURE_TYPES)} (default q8_0); beside f16 it is f16")
    parser.add_argument("--tokens", type=int, default=16, metavar="N", help="tokens of every reference answer (default 16)")


def run(args: argparse.Namespace) -> dict:
    """Export as the flags say."""
    from omnivision.export.gguf.export import export_gguf

    wanted = list(dict.fromkeys(args.quantize))
    return export_gguf(args.model, args.out, wanted, args.questions, args.image_root, args.count, args.tokens, tuple(args.keep_fp32), args.license,
                       args.picture_type)
