"""The flags of `omnivision export import`."""

from __future__ import annotations

import argparse

from omnivision.export.folder import print_bytes

HELP = "the released OmniVLM pair of GGUF files as a checkpoint, to evaluate and to train on"
DESCRIPTION = "Reads a text file (qwen2; F16, Q8_0 or any other type) and an mmproj file (siglip) and writes a checkpoint in the hub's layout, in fp32."
EXAMPLE = "omnivision export import --text omnivlm-f16.gguf --mmproj omnivlm-mmproj-f16.gguf --out runs/omnivlm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `import`."""
    parser.add_argument("--text", required=True, metavar="FILE", help="GGUF file of the language model")
    parser.add_argument("--mmproj", required=True, metavar="FILE", help="GGUF file of vision tower and projector")
    parser.add_argument("--out", required=True, metavar="DIR", help="the new folder; must not exist")


def run(args: argparse.Namespace) -> dict:
    """Import as the flags say."""
    from omnivision.export.gguf.importing import import_pair

    return import_pair(args.text, args.mmproj, args.out)


def show(result: dict) -> None:
    """The result as a few lines for a reader."""
    print_bytes(result["bytes"])
    print(f"{result['parameters']:,} parameters in {result['out']}; {len(result['left_out'])} tensors of the pooling head are left out")
