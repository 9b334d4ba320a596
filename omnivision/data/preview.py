"""`omnivision data preview`: one row as the model sees it: the picture after preprocessing, text, tokens, label mask.

    omnivision data preview world/sft.jsonl --row 3 --image-root world --picture seen.png
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from omnivision.constants import IGNORE_INDEX, IMAGE_TOKEN
from omnivision.data.fitting import kind_of, sides_or_json
from omnivision.data.flags import output_file, within
from omnivision.data.pictures import locate
from omnivision.data.rows import Row, read_rows
from omnivision.data.writing import stand_in_tokenizer
from omnivision.errors import DataError
from omnivision.functions import FunctionSet
from omnivision.model.conversation import Encoded, encode_conversation

GREEN, DIM, PLAIN = "\033[32m", "\033[2m", "\033[0m"


def image_processor_of(model: str, image_size: int | None):
    """The image processor of a checkpoint; where there is none, or a size is given, SigLIP's at that size in pixels (384)."""
    from omnivision.model.processing import OmniVisionProcessor, siglip_image_processor

    if image_size is None and (Path(model) / "processor_config.json").is_file():
        return OmniVisionProcessor.from_pretrained(model).image_processor
    return siglip_image_processor(image_size or 384)


def as_seen(row: Row, root: str, image_processor) -> list[Image.Image]:
    """The row's pictures after preprocessing, as pictures again: what is lost by resizing is lost here too."""
    from omnivision.data.image import open_image

    pictures = [open_image(locate(image, root)) for image in row.images]
    if not pictures:
        return []
    pixels_IHW3 = np.moveaxis(image_processor(pictures, return_tensors="np")["pixel_values"], 1, 3)
    bytes_IHW3 = (pixels_IHW3 * image_processor.image_std + image_processor.image_mean) * 255
    return [Image.fromarray(one) for one in np.round(bytes_IHW3).clip(0, 255).astype(np.uint8)]


def tokens_of(tokenizer, encoded: Encoded) -> list[tuple[int, str, bool, int]]:
    """(id, its text, whether it is supervised, how often in a row): image tokens in a row are one entry."""
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    found = []
    pairs = [(token, label != IGNORE_INDEX) for token, label in zip(encoded.input_ids, encoded.labels, strict=True)]
    for (token, supervised), group in itertools.groupby(pairs):
        count = len(list(group))
        if token == image:
            found.append((token, IMAGE_TOKEN, supervised, count))
        else:
            found += [(token, tokenizer.decode([token]), supervised, 1)] * count
    return found


def text(row: Row, sides: list[list[dict]], tokenizer, image_tokens: int, colour: bool) -> str:
    """The row for a terminal: supervised text in green (without colour: between double brackets), then the tokens.

    Args:
        sides: of the row, as sides_or_json gives them.
    """
    lines = [f"row {row.id} ({row.source}, {row.format}): {kind_of(row)}, pictures: {len(row.images)}", *(f"  {image}" for image in row.images), ""]
    names = ("chosen", "rejected") if row.prompt else ("",)
    for name, side in zip(names, sides, strict=True):
        encoded = encode_conversation(tokenizer, side, len(row.images), image_tokens)
        tokens = tokens_of(tokenizer, encoded)
        if name:
            lines.append(f"{name}:")
        lines += [as_text(tokens, tokenizer, colour), "", f"{len(encoded.input_ids)} tokens, {sum(label != IGNORE_INDEX for label in encoded.labels)} supervised:"]
        lines.append(" ".join(_token(token, colour) for token in tokens) + "\n")
    return "\n".join(lines)


def as_text(tokens: list[tuple[int, str, bool, int]], tokenizer, colour: bool) -> str:
    """What `tokens_of` gives as running text, supervised in green or between double brackets. Runs are decoded whole: a letter may be several tokens."""
    said = []
    for supervised, group in itertools.groupby(tokens, key=lambda token: token[2]):
        words = ""
        for is_image, run in itertools.groupby(group, key=lambda token: token[1] == IMAGE_TOKEN):
            words += "".join(f"[{count} image tokens]" for *_, count in run) if is_image else tokenizer.decode([token for token, *_ in run])
        said.append((f"{GREEN}{words}{PLAIN}" if colour else f"[[{words}]]") if supervised else words)
    return "".join(said)


def _token(token: tuple[int, str, bool, int], colour: bool) -> str:
    number, word, supervised, count = token
    shown = f"{number}:{word!r}" + (f"x{count}" if count > 1 else "")
    return f"{GREEN if supervised else DIM}{shown}{PLAIN}" if colour else shown + ("*" if supervised else "")


def main(argv: list[str]) -> int:
    """`omnivision data preview`."""
    arguments = argparse.ArgumentParser(
        prog="omnivision data preview", description="One row as the model sees it.",
        epilog="example: omnivision data preview world/sft.jsonl --row 3 --image-root world --picture seen.png",
    )
    arguments.add_argument("file", metavar="FILE")
    arguments.add_argument("--row", type=within("--row", int, 0), default=0, metavar="N", help="counted from 0 (default 0)")
    arguments.add_argument("--image-root", default=".", metavar="DIR", help="folder of the pictures (default: here)")
    arguments.add_argument("--model", default="tiny", metavar="DIR", help="a checkpoint or tokenizer (default: the stand-in)")
    arguments.add_argument("--image-size", type=within("--image-size", int, 1, 4096), metavar="PX", help="side of the tower's input (default: the checkpoint's, else 384)")
    arguments.add_argument("--picture", type=output_file, metavar="FILE", help="writes the pictures as the tower gets them, side by side, as PNG")
    arguments.add_argument("--urls", metavar="DIR", help="fetch pictures that rows name by URL into this folder")
    arguments.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = arguments.parse_args(argv)
    rows = read_rows(options.file, options.row + 1, options.urls)
    if len(rows) <= options.row:
        raise DataError(f"There is no row {options.row}: the file has {len(rows)}", options.file, "Give a smaller --row.")
    row = rows[options.row]
    tokenizer, image_tokens = stand_in_tokenizer(options.model)
    function_set = FunctionSet.beside(options.model)
    sides, why = sides_or_json(row, tokenizer, function_set)
    seen = as_seen(row, options.image_root, image_processor_of(options.model, options.image_size))
    if options.picture and not seen:
        raise DataError(f"Row {options.row} has no picture to write", row.source, "Leave --picture out, or take another --row.")
    if options.picture:
        sheet = Image.new("RGB", (sum(one.width for one in seen), seen[0].height))
        for number, one in enumerate(seen):
            sheet.paste(one, (number * one.width, 0))
        sheet.save(options.picture, "PNG")
    if options.json:
        encoded = [encode_conversation(tokenizer, side, len(row.images), image_tokens) for side in sides]
        print(json.dumps({"id": row.id, "source": row.source, "format": row.format, "kind": kind_of(row), "images": [*map(str, row.images)],
                          "sides": [{"input_ids": one.input_ids, "labels": one.labels} for one in encoded]}, ensure_ascii=False))
    else:
        print(text(row, sides, tokenizer, image_tokens, sys.stdout.isatty()))
        if why or (row.request and function_set is None):
            print("the calls stand here as JSON; a stage trains them as its functions' tokens: give --model a checkpoint that has them", file=sys.stderr)
    return 0
