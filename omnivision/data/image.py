"""Opens a picture from outside: whole, upright, RGB, or a clear error. The one door for image files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from omnivision.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP")  # only these decoders are ever started
MAX_PIXELS = 32_000_000  # a few kilobytes can announce gigabytes; 32 Mpx decodes to 96 MB
BACKGROUND = (255, 255, 255)  # under transparent pixels, as on a page


def open_image(path: str | Path) -> Image.Image:
    """Decodes one image file completely.

    Args:
        path: a JPEG, PNG or WebP file with one frame and at most 32 million pixels.

    Returns:
        An RGB picture: EXIF orientation applied, alpha composited on white, 16 bits scaled to 8, CMYK converted.

    Raises:
        DataError: no such file, another format, too large, animated, or broken (a truncated file
            would otherwise give a picture that is grey below the break).
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"The image file {kind}", str(path), "Check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked below
            with Image.open(path, formats=FORMATS) as picture:
                _check_announced(picture, path)
                picture.load()
                return _to_rgb(ImageOps.exif_transpose(picture))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"The file is no image that can be read ({_looks_like(path)})", str(path),
                        "Give a JPEG, PNG or WebP file.") from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken files
        raise DataError(f"The image file is broken: {' '.join(str(error).split()) or type(error).__name__}", str(path),
                        "Copy or export it again.") from error


def _check_announced(picture: Image.Image, path: Path) -> None:
    width, height = picture.size  # from the header: nothing is decoded yet
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"{width}x{height} is {width * height:,} pixels")
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise DataError(f"The image is an animation of {frames} frames", str(path), "Save the one frame that you mean.")


def _too_large(path: Path, detail: str) -> DataError:
    return DataError(f"The image is too large: {detail}; the limit is {MAX_PIXELS:,}", str(path), "Scale it down.")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":  # 16-bit grey: convert("RGB") would clip at 255
        values_HW = np.asarray(picture, dtype=np.float64)
        picture = Image.fromarray(np.clip(values_HW / 257.0 + 0.5, 0, 255).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (*BACKGROUND, 255))
        picture = Image.alpha_composite(ground, picture)
    return picture.convert("RGB")


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "it is empty"
    if head[:4] in (b"GIF8", b"%PDF", b"II*\0", b"MM\0*") or head[:2] == b"BM":
        return "it is another format"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return "its bytes are of no known kind" if error.start < len(head) - 4 else "it looks like text"
    return "it looks like text" if b"\0" not in head else "its bytes are of no known kind"
