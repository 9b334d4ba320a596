"""Opens a picture from outside: whole, upright, RGB, or an ImageError. The one door for image files.

Which bytes are a picture: `read_image`, then the checks of its container, then Pillow. Shapes: H height, W width.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import warnings
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL
from PIL import Image

from omnivision.data.containers import MAX_PIXELS, check_container, check_filled, check_size
from omnivision.data.image_errors import (Animated, BrokenImage, EmptyImage, ImageError, MissingImage, OutsideImage, TooLarge, Truncated,
                                          UnreadableImage)
from omnivision.errors import DataError, OmniError

DECODER = 1  # raised when the same bytes give other pixels here: what is cached of pictures goes by it
FORMATS = ("JPEG", "PNG", "WEBP")  # only these decoders are ever started
MAX_BYTES = 4 * MAX_PIXELS  # of a file: 32 Mpx stored without any compression
MAX_SCANS = 500  # of a progressive JPEG: a scan of a hundred bytes costs a pass over all blocks; encoders write about ten
BACKGROUND = (255, 255, 255)  # under transparent pixels, as on a page
ORIENTATION = 0x0112  # the EXIF tag, and how to turn the pixels of each of its values
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
         6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}


class Readable(Protocol):
    """A picture that is no file of its own, in a tar shard for example; `str()` of it names it in messages."""

    def read(self) -> bytes:
        """All of its bytes."""


def open_image(source: str | os.PathLike | Readable, *, animated: str = "refuse", at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decodes one picture completely. The content decides about the format, never the name.

    Accepted as they are: bytes after the picture's end; broken EXIF (taken as upright); odd ICC profiles (none is applied:
    values count as sRGB); a JPEG with further pictures behind it (MPO, phones' depth maps: the first is the picture).
    A JPEG has no checksum: damage inside its compressed data mostly decodes to other pixels, and Pillow cannot tell.

    Args:
        source: path of a JPEG, PNG or WebP file, or an object with `read() -> bytes` whose `str()` names it.
        animated: "refuse", or "first" for the first frame of an animated PNG or WebP.
        at_least: (width, height) that the caller will scale down to. A JPEG may then be decoded at 1/2, 1/4 or 1/8 while it
            stays as large as that on both sides. The pixels change, so whoever claims equal pixels must not ask for it. After the
            squash to 384 px, eight photographs of 1280x960, 2560x1920 and 5120x3840 differ by 0.9, 1.2 and 1.5 levels of 255
            on average and 28 at most (of 40 photographs of COCO, made as large: 65), in 0.48, 0.23 and 0.18 of the time
            (`python -m omnivision.data.picture_speed --reduced`). 640x480 is not reduced for 384 px: half of it would be too small.

    Returns:
        An RGB picture without metadata: EXIF orientation applied, alpha composited on white, CMYK converted (Adobe's inverted
        values, as Pillow assumes), 16-bit grey rounded to 8 bits; of 16-bit colour Pillow gives the upper byte, up to a level less.

    Raises:
        ImageError: with its `kind`: missing, unreadable, empty, format, too_large, animated, truncated or broken.
    """
    if animated not in ("refuse", "first"):
        raise ValueError(f'`animated` is {animated!r}; give "refuse" or "first".')
    return decode(read_image(source), str(source), animated, at_least)


def contained(root: str | os.PathLike, name: str) -> Path:
    """Where a data set's picture lies, with every link followed.

    Args:
        root: the folder that pictures may come from. name: as in a row; an absolute one must lie in the folder as well.

    Raises:
        ImageError: outside (`..`, an absolute name or a link leads out of the root, or the name is the root itself) or
            missing (no file can have that name). Whether the file exists shows when it is opened.
    """
    where = f"{name!r} below {root}"
    try:
        top = _real_folder(os.path.join(os.getcwd(), root))
        path = _real_file(os.path.join(top, name))
    except (OSError, ValueError, RuntimeError) as error:  # too long; a null byte or half a surrogate pair; a ring of links
        raise MissingImage(f"No file can have this name: {_said(error)}", where, "Fix the row.") from error
    if not path.startswith(os.path.join(top, "")) or path == top:
        raise OutsideImage("The image lies outside of the data root", where)
    return Path(path)


@lru_cache(maxsize=1024)
def _real_folder(name: str) -> str:
    """Once a process: millions of pictures lie in few folders, and resolving a name costs a system call for each of its parts."""
    return str(Path(name).resolve())


def _real_file(name: str) -> str:
    """What `Path.resolve` gives: of a file in a known folder, only the file itself is looked at."""
    folder, last = os.path.split(name)
    path = os.path.join(_real_folder(folder), last)
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # told when it is opened
        if last in ("", ".", "..") or stat.S_ISLNK(os.lstat(path).st_mode):
            return str(Path(name).resolve())
    return path


def read_image(source: str | os.PathLike | Readable) -> bytes:
    """The bytes of a picture: some, and at most MAX_BYTES.

    Raises:
        ImageError: missing, unreadable, empty or too_large.
    """
    where = str(source)
    data = _read_file(Path(source), where) if isinstance(source, str | os.PathLike) else _read_object(source, where)
    if not data:
        raise EmptyImage("The file is no image: it is empty", where)
    _check_length(len(data), where)
    return data


def _read_file(path: Path, where: str) -> bytes:
    try:
        _check_regular(os.stat(path), where)  # a device is not even opened
        # O_NONBLOCK: a pipe that took the file's place in between would wait for ever
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            found = os.fstat(file.fileno())
            _check_regular(found, where)
            _check_length(found.st_size, where)
            return file.read(found.st_size)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingImage("The image file does not exist", where) from error
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:  # a null byte or half a surrogate pair
            raise MissingImage(f"No file can have this name: {_said(error)}", repr(where)) from error
        raise UnreadableImage(f"The image file cannot be read: {_said(error)}", where) from error


def _read_object(source: Readable, where: str) -> bytes:
    try:
        data = source.read()
    except (OmniError, MemoryError):
        raise
    except Exception as error:  # whatever an archive's reader raises
        raise UnreadableImage(f"The image cannot be read: {_said(error)}", where) from error
    if not isinstance(data, bytes):
        raise UnreadableImage(f"The image is no bytes but {type(data).__name__}", where)
    return data


def decode(data: bytes, where: str, animated: str = "refuse", at_least: tuple[int, int] | None = None) -> Image.Image:
    """`open_image` of bytes that were read already; `where` names them in messages."""
    depth = check_container(data, where)
    _silence_pillow()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_announced(picture, data, where, animated)
            if at_least and picture.format != "PNG":  # a PNG would have to be decoded for its orientation
                picture.draft(None, at_least[::-1] if orientation(picture) >= 5 else at_least)
            picture.load()
            if picture.format == "PNG":
                check_filled(picture, data, where)
            turn = TURNS.get(orientation(picture))
            whole = to_rgb(picture, depth)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken files
        raise _undecodable(error, data, where) from error
    return whole if turn is None else whole.transpose(turn)


def _silence_pillow() -> None:
    """Pillow warns of large pictures, which we refuse, of broken EXIF and of malformed MPO.

    Once a process and not around each picture: leaving `catch_warnings` brings back every warning that Python shows once, and
    threads undo each other's filters.
    """
    if ("ignore", None, Warning, re.compile(r"PIL\."), 0) not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")


def orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # broken EXIF is no reason to lose whole pixels: viewers show them as they lie
        return 1
    return value if isinstance(value, int) else 1


def to_rgb(picture: Image.Image, depth: int) -> Image.Image:
    clear = picture.info.get("transparency")
    if picture.mode == "I;16":  # convert("RGB") would clip at 255
        levels_HW = np.asarray(picture)
        values_HW = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)[levels_HW]
        if clear is not None:
            values_HW[levels_HW == clear] = BACKGROUND[0]
        picture = Image.fromarray(values_HW)
    elif picture.has_transparency_data:
        # Pillow scales pixels to 8 bits and leaves the transparent level in the file's own depth
        if depth in (2, 4) and picture.mode == "L":
            picture.info["transparency"] = clear * 255 // (2**depth - 1)
        elif depth == 16 and picture.mode == "RGB":
            picture.info["transparency"] = tuple(level >> 8 for level in clear)
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (*BACKGROUND, 255)), picture.convert("RGBA"))
    whole = picture.convert("RGB")
    whole.info = {}  # nothing that turns the picture again, or colours what is saved from it
    return whole


def _check_regular(found: os.stat_result, where: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "folder" if stat.S_ISDIR(found.st_mode) else "pipe, socket or device"
        raise UnreadableImage(f"The image file is a {kind}", where)


def _check_length(size: int, where: str) -> None:
    if size > MAX_BYTES:
        raise TooLarge(f"The image file is too large: {size:,} bytes; the limit is {MAX_BYTES:,}", where)


def _check_announced(picture: Image.Image, data: bytes, where: str, animated: str) -> None:
    check_size(*picture.size, where)  # from the header: nothing is decoded yet
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and animated != "first" and picture.format != "MPO":
        raise Animated(f"The image is an animation of {frames} frames", where)
    if picture.info.get("progressive") and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise TooLarge(f"The image has {scans:,} scans; the limit is {MAX_SCANS}", where)


def _undecodable(error: Exception, data: bytes, where: str) -> ImageError:
    said = _said(error)
    if isinstance(error, Image.DecompressionBombError) or "MAX_TEXT" in said:
        return TooLarge(f"The image is too large: {said}", where)
    if isinstance(error, PIL.UnidentifiedImageError):
        said = "its header cannot be read"
    if "truncated" in said.lower() or (data[0] == 0xFF and data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")):  # no end behind its last scan
        return Truncated(f"The image file is cut short: {said}", where)
    return BrokenImage(f"The image file is broken: {said}", where)


def _said(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
