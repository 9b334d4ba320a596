"""One picture of many pictures of a world folder, with the questions and answers under each: for people to look at."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

from ..errors import DataError
from .chart import FORMS
from .fonts import font_for

CELL, TEXT, COLUMNS, LINES = 216, 118, 6, 7  # pixels of a picture's side and of the text under it; cells a row
PER_KIND = 3  # scenes of each style; twice as many requests


def contact_sheet(world: str | Path, out: str | Path) -> Path:
    """Write a PNG with scenes of every style, charts of every form, signs and requests for actions.

    Args:
        world: a folder that `omnivision data world` wrote.
        out: the PNG to write.

    Returns:
        Its path.

    Raises:
        DataError: `world` is no world folder.
    """
    world, out = Path(world), Path(out)
    if not (world / "world.json").is_file():
        raise DataError("No world.json in the folder", str(world), "Build one: omnivision data world --out DIR.")
    chosen = _choose(world)
    rows = -(-len(chosen) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + 8), rows * (CELL + TEXT + 8)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (image, lines) in enumerate(chosen):
        x, y = (number % COLUMNS) * (CELL + 8) + 4, (number // COLUMNS) * (CELL + TEXT + 8) + 4
        with Image.open(world / image) as picture:
            sheet.paste(picture.resize((CELL, CELL)), (x, y))
        _write(pen, x, y + CELL + 3, lines)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out


def _rows(file: Path) -> Iterator[dict]:
    if file.is_file():
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _choose(world: Path) -> list[tuple[str, list[str]]]:
    """Pictures with their lines of text: styles, then chart forms, then signs, then requests."""
    asked = _questions(world)
    groups: dict[str, list[str]] = defaultdict(list)
    for split in ("sft", "align", "eval", "eval_held_out"):
        for truth in _rows(world / f"truth/{split}.jsonl"):
            if truth["image"] in asked:
                groups[truth.get("form") or truth.get("style") or f"sign {truth['language']}"].append(truth["image"])
    wanted = {"noto": PER_KIND, "twemoji": PER_KIND, "openmoji": PER_KIND, "sign en": 2, "sign zh": 1}
    wanted |= dict.fromkeys(FORMS, 1)
    images = [image for group, count in wanted.items() for image in groups[group][:count]]
    chosen = [(image, asked[image]) for image in images]
    requests = {row["calls"][0]["name"]: row for row in _rows(world / "functions.jsonl")}
    for row in list(requests.values())[: 2 * PER_KIND]:
        call = row["calls"][0]
        arguments = ", ".join(f"{key}={value}" for key, value in call["arguments"].items())
        chosen.append((row["images"][0], [row["request"], f"=> {call['name']}({arguments})"]))
    return chosen


def _questions(world: Path) -> dict[str, list[str]]:
    asked: dict[str, list[str]] = defaultdict(list)
    for name in ("sft", "align"):
        for row in _rows(world / f"{name}.jsonl"):
            texts = [turn["text"].split("\n")[0] for turn in row["turns"]]
            asked[row["images"][0]] += [f"{q} {a}" for q, a in zip(texts[::2], texts[1::2])]
    for split in ("eval", "eval_held_out"):
        for name in ("chartqa", "open", "pope_adversarial"):
            for row in _rows(world / split / f"{name}.jsonl"):
                label = row["label"][0] if isinstance(row["label"], list) else row["label"]
                asked[row["image"]].append(f"{row['text'].splitlines()[0]} {label}")
    return asked


def _write(pen: ImageDraw.ImageDraw, x: int, y: int, lines: list[str]) -> None:
    """As many wrapped lines as there is room for."""
    written = 0
    for line in lines:
        face = font_for(line, 11)
        for part in _wrapped(line, face):
            if written < LINES:
                pen.text((x, y + written * 16), part, font=face, fill=(30, 30, 30))
                written += 1


def _wrapped(line: str, face) -> list[str]:
    parts, current = [], ""
    for piece in line.split(" ") if line.isascii() else list(line):
        glue = " " if line.isascii() and current else ""
        if current and face.getlength(current + glue + piece) > CELL - 2:
            parts.append(current)
            current, glue = "  ", ""
        current += glue + piece
    return [*parts, current]


def main(argv: list[str] | None = None) -> int:
    """Run `python -m omnivision.world.contact_sheet`."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: --world runs/world --out sheet.png")
    parser.add_argument("--world", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args(argv)
    print(contact_sheet(args.world, args.out))
    return 0


if __name__ == "__main__":
    main()
