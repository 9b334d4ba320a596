"""A checkpoint of parts that were never trained together, as a start for functions of requests in text alone.

    python -m omnivision.model.untrained --preset tiny --vision tiny --language models/smollm2 --out models/smollm2-start
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

import torch

from omnivision.export.folder import whole_or_nothing
from omnivision.model.build import build_model
from omnivision.presets import PRESETS
from omnivision.runs import UNTRAINED, write_hand_over

STAGE = UNTRAINED  # in the note that the next stage reads
EXAMPLE = "example: python -m omnivision.model.untrained --preset tiny --vision tiny --language models/smollm2 --out models/smollm2-start"


def write(out: Path, preset: str, vision: str | None, language: str, seed: int = 0) -> dict:
    """Puts the parts together, a new projector between them, and writes them with the note that `functions` asks for.

    Args:
        out: the new folder; it appears whole or not at all. preset, vision, language: as `build_model` takes them. seed: of what is new.

    Returns:
        {"out", "parameters"}.

    Raises:
        ConfigError: as `build_model`, or the folder exists.
    """
    torch.manual_seed(seed)
    with whole_or_nothing(out) as folder:
        model, processor = build_model(preset, vision, language)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_hand_over(folder, STAGE, None)
    return {"out": str(out), "parameters": sum(one.numel() for one in model.parameters())}


def main(argv: list[str] | None = None) -> int:
    """Run `python -m omnivision.model.untrained`."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="tiny", help="of the projector, and of a tower without --vision (tiny)")
    parser.add_argument("--vision", metavar="SOURCE", help="tiny, webli, a folder or a hub id; random without")
    parser.add_argument("--language", required=True, metavar="SOURCE", help="tiny, a folder or a hub id")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the new folder; must not exist")
    parser.add_argument("--seed", type=int, default=0, help="of what is new (0)")
    options = parser.parse_args(argv)
    with contextlib.redirect_stdout(sys.stderr):  # libraries' logs
        made = write(options.out, options.preset, options.vision, options.language, options.seed)
    print(json.dumps(made))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
