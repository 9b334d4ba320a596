"""Squashed pictures on disk."""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import PIL
from PIL import Image

from omnivision.data import image
from omnivision.data.room import MOST_GIB, Room

CHECKSUM = 4  # bytes behind a record's pixels
TALLY = "tally"  # a byte for each record: to count the files themselves would take seconds


class ResizedCache:
    """Pictures squashed to a square, kept on disk: decoding and resizing happen once over all epochs, stages and processes.

    The pixels are those of `open_image(source).resize((size, size), BICUBIC)`, so a processor that resizes to `size` gives
    the same tensors. A record takes 3 * size * size bytes (442 kB at 384) and is found by the hash of the picture's bytes.

    Args:
        folder: parent of the records (created); between two runs it may be deleted, whole.
        size: side of the square in pixels.
        most_gib: of all sizes' records together; at the limit nothing more is added, see Room.
    """

    def __init__(self, folder: str | os.PathLike, size: int, most_gib: float = MOST_GIB) -> None:
        self.size, self.folder = size, Path(folder) / f"{size}-pillow-{PIL.__version__}-{image.DECODER}"
        self.bytes, self.room = 3 * size**2 + CHECKSUM, Room(Path(folder), most_gib)

    def open(self, source: str | os.PathLike | image.Readable) -> Image.Image:
        """The squashed picture. Raises what `open_image` raises; OSError where the disk is full."""
        data = image.read_image(source)
        name = hashlib.sha256(data).hexdigest()[:32]
        path = self.folder / name[:2] / name[2:]
        picture = self._kept(path)
        if picture is None:
            picture = image.decode(data, str(source)).resize((self.size, self.size), Image.Resampling.BICUBIC)
            self._keep(path, picture.tobytes())
        return picture

    def used(self) -> int:
        """Bytes of the records of all sizes."""
        tallies = ((int(path.parent.name.partition("-")[0]), path.stat().st_size) for path in self.room.folder.glob(f"*/{TALLY}"))
        return sum(count * (3 * size**2 + CHECKSUM) for size, count in tallies)

    def _keep(self, path: Path, raw: bytes) -> None:
        again, used = path.exists(), self.used()  # again: in a damaged one's place
        if not again and self.room.left(used) < self.bytes:
            self.room.tell_full(used, "Pictures that are not in it are decoded whenever they are seen: allow it more, or delete it.")
            return
        with suppress(PermissionError):  # another account's folder: what is there is read, and nothing is added
            write_whole(path, raw + struct.pack("<I", zlib.crc32(raw)))
            if not again:
                with (self.folder / TALLY).open("ab") as tally:
                    tally.write(b"+")

    def _kept(self, path: Path) -> Image.Image | None:
        try:
            record = path.read_bytes()
        except (FileNotFoundError, PermissionError):  # another account's, with closed rights
            return None
        raw = memoryview(record)[:-CHECKSUM]
        if len(record) != self.bytes or record[-CHECKSUM:] != struct.pack("<I", zlib.crc32(raw)):
            return None  # damaged: it is written anew
        return Image.frombytes("RGB", (self.size, self.size), raw)


def write_whole(path: Path, data: bytes) -> None:
    """Writes aside and renames: other processes see the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with open(handle, "wb") as file:
            file.write(data)
        with suppress(OSError):  # a file system without rights
            os.chmod(part, 0o666 & ~_umask())  # mkstemp's are closed to other accounts, and a team shares the folder
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def _umask() -> int:
    """This process' umask; reading it is setting it, so that threads could see 0: the file of Linux tells without."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("Umask:")).split()[1], 8)
    except (OSError, StopIteration):
        return 0o022
