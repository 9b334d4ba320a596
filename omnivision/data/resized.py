"""Squashed pictures on disk."""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import zlib
from pathlib import Path

import PIL
from PIL import Image

from omnivision.data import image


class ResizedCache:
    """Pictures squashed to a square, kept on disk: decoding and resizing happen once over all epochs, stages and processes.

    The pixels are those of `open_image(source).resize((size, size), BICUBIC)`, so a processor that resizes to `size` gives
    the same tensors. A record takes 3 * size * size bytes (442 kB at 384) and is found by the hash of the picture's bytes.

    Args:
        folder: parent of the records (created); it may be deleted at any time.
        size: side of the square in pixels.
    """

    def __init__(self, folder: str | os.PathLike, size: int) -> None:
        self.size, self.folder = size, Path(folder) / f"{size}-pillow-{PIL.__version__}"

    def open(self, source: str | os.PathLike | image.Readable) -> Image.Image:
        """The squashed picture. Raises what `open_image` raises; OSError where the disk is full."""
        data = image.read_image(source)
        name = hashlib.sha256(data).hexdigest()[:32]
        path = self.folder / name[:2] / name[2:]
        picture = self._kept(path)
        if picture is None:
            picture = image.decode(data, str(source)).resize((self.size, self.size), Image.Resampling.BICUBIC)
            raw = picture.tobytes()
            write_whole(path, raw + struct.pack("<I", zlib.crc32(raw)))
        return picture

    def _kept(self, path: Path) -> Image.Image | None:
        try:
            record = path.read_bytes()
        except FileNotFoundError:
            return None
        raw = memoryview(record)[:-4]
        if len(raw) != 3 * self.size**2 or record[-4:] != struct.pack("<I", zlib.crc32(raw)):
            return None  # damaged: it is written anew
        return Image.frombytes("RGB", (self.size, self.size), raw)


def write_whole(path: Path, data: bytes) -> None:
    """Writes aside and renames: other processes see the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with open(handle, "wb") as file:
            file.write(data)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
