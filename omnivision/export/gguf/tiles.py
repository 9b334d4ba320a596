"""The picture as the exported file wants it: exactly its size, and for `raster` models with its patches moved.

Stock llama.cpp joins the patches of 3 x 3 blocks; a raster model was trained on 9 patches in a row. A vision transformer
does not care where a patch stands as long as its row of the position table stands with it: so the patches of the picture
and the rows of the table change places in the same way, and the block of llama.cpp holds the nine patches of the row.

This module needs Pillow and numpy only; `client.py` in an export's folder is a copy of it.
    python client.py picture.jpg out.png --size 378 --patch 14 --raster
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

BLOCK = 3  # patches of a block's side
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
         6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}  # of EXIF's orientation


def raster_order(grid: int) -> np.ndarray:
    """For every place of the sent picture, in raster order, the patch of the true picture that stands there.

    Args:
        grid: patches of a side, a multiple of 3.

    Returns:
        Shape (grid * grid).
    """
    places = np.arange(grid * grid).reshape(grid // BLOCK, BLOCK, grid // BLOCK, BLOCK)
    blocks_TG = places.transpose(0, 2, 1, 3).reshape(-1, BLOCK * BLOCK)  # the places that llama.cpp joins to a token
    order = np.empty(grid * grid, dtype=np.int64)
    order[blocks_TG.reshape(-1)] = np.arange(grid * grid)  # get the patches that the raster joins, in its order
    return order


def moved_patches(picture: Image.Image, patch: int) -> Image.Image:
    """The picture with its patches in raster_order; no pixel changes.

    Args:
        picture: square, its side a multiple of 3 patches.
        patch: pixels of a patch's side.
    """
    grid = picture.width // patch
    if picture.size != (grid * patch, grid * patch) or grid % BLOCK:
        raise ValueError(f"a picture of {picture.width} x {picture.height} px has no {BLOCK} x {BLOCK} blocks of patches of {patch} px")
    pixels = np.asarray(picture).reshape(grid, patch, grid, patch, -1)
    patches = pixels.transpose(0, 2, 1, 3, 4).reshape(grid * grid, patch, patch, -1)[raster_order(grid)]
    return Image.fromarray(patches.reshape(grid, grid, patch, patch, -1).transpose(0, 2, 1, 3, 4).reshape(grid * patch, grid * patch, -1))


def prepared(picture: Image.Image, image_size: int, patch: int, raster: bool) -> Image.Image:
    """What is sent to the server.

    Args:
        picture: in RGB, as `opened` gives it.
        image_size: the square that the tower was trained on; what is left of it beyond whole patches is cut, as the
            tower's first convolution does.
        patch: pixels of a patch's side.
        raster: whether the model's projector is `raster`.
    """
    side = image_size // patch * patch
    squashed = picture.resize((image_size, image_size), Image.Resampling.BICUBIC).crop((0, 0, side, side))
    return moved_patches(squashed, patch) if raster else squashed


def opened(file: Path) -> Image.Image:
    """A JPEG, PNG or WebP file as RGB, as the model saw pictures in training: upright, transparency on white.

    The runner of ONNX exports holds the same lines, for each of the two files travels alone.
    """
    with Image.open(file, formats=("JPEG", "PNG", "WEBP")) as picture:
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
            raise ValueError(f"{file} is an animation")
        depth = Path(file).read_bytes()[24] if picture.format == "PNG" else 8  # bits of a sample
        picture.load()
        try:  # the one tag: ImageOps.exif_transpose writes the others anew, and fails at odd ones
            value = picture.getexif().get(0x0112)
            turn = TURNS.get(value) if isinstance(value, int) else None
        except Exception:  # broken EXIF is no reason to lose whole pixels
            turn = None
        clear = picture.info.get("transparency")
        if picture.mode == "I;16":
            levels = np.asarray(picture)
            values = ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)
            picture = Image.fromarray(values if clear is None else np.where(levels == clear, np.uint8(255), values))
        elif picture.has_transparency_data:
            if depth in (2, 4) and picture.mode == "L":  # Pillow scales the pixels to 8 bits, and not the transparent level
                picture.info["transparency"] = clear * 255 // (2**depth - 1)
            elif depth == 16 and picture.mode == "RGB":
                picture.info["transparency"] = tuple(level >> 8 for level in clear)
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        whole = picture.convert("RGB")
        return whole if turn is None else whole.transpose(turn)


def main(argv: list[str] | None = None) -> int:
    """Prepare one picture file."""
    parser = argparse.ArgumentParser(description="Prepares a picture for a llama.cpp server that runs an omnivision export.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("out", type=Path, help="a PNG file: it must not lose a pixel")
    parser.add_argument("--size", type=int, required=True, help="image_size of the model")
    parser.add_argument("--patch", type=int, required=True, help="patch_size of the model")
    parser.add_argument("--raster", action="store_true", help="the model's projector is raster")
    args = parser.parse_args(argv)
    if not 1 <= args.patch <= args.size:
        parser.error(f"--patch is {args.patch}; 1 to --size ({args.size}) are possible")
    prepared(opened(args.picture), args.size, args.patch, args.raster).save(args.out, "PNG")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
