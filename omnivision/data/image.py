"""Opens a picture from outside: whole, upright, RGB, or an ImageError. The one door for image files.

Which bytes are a picture: `read_image`, then the checks of its container, then Pillow. Shapes: H height, W width.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL
from PIL import Image

from omnivision.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP")  # only these decoders are ever started
MAX_PIXELS = 32_000_000  # a few kilobytes can announce gigabytes; 32 Mpx decodes to 128 MB
MAX_BYTES = 4 * MAX_PIXELS  # of a file: 32 Mpx stored without any compression
MAX_SCANS = 500  # of a progressive JPEG: a scan of a hundred bytes costs a pass over all blocks; encoders write about ten
MAX_TEXTS = 16  # compressed texts in a PNG: each may unpack to a megabyte, four as a Python string
BACKGROUND = (255, 255, 255)  # under transparent pixels, as on a page
ORIENTATION = 0x0112  # the EXIF tag, and how to turn the pixels of each of its values
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
         6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}


class ImageError(DataError):
    """A picture that cannot be used.

    `kind` is one word, for reports that count. Each kind has its class, since worker processes hand an exception on as
    its class and its text alone.
    """

    kind, advice = "broken", "Copy or export it again."

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where, remedy or (self.advice if where else ""))


class MissingImage(ImageError):
    """No such file, or no possible name of one."""

    kind, advice = "missing", "Check the path."


class UnreadableImage(ImageError):
    """A folder, pipe, socket or device; no permission; an I/O error; an archive that fails."""

    kind, advice = "unreadable", "Check the path, its permissions and the disk."


class OutsideImage(ImageError):
    """A name that leads out of the data root."""

    kind, advice = "outside", "Name a file below the root; links may not leave it."


class EmptyImage(ImageError):
    """No bytes."""

    kind = "empty"


class WrongFormat(ImageError):
    """Not JPEG, PNG or WebP by its content."""

    kind, advice = "format", "Give a JPEG, PNG or WebP file."


class TooLarge(ImageError):
    """Too many pixels, bytes, scans or texts."""

    kind, advice = "too_large", "Scale it down or export it again."


class Animated(ImageError):
    """Several frames, and nobody asked for the first."""

    kind, advice = "animated", "Save the one frame that you mean."


class Truncated(ImageError):
    """The file ends before its picture does."""

    kind = "truncated"


class BrokenImage(ImageError):
    """Damaged, or against its format's rules."""


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
            stays as large as that on both sides. The pixels change: @@DRAFT@@

    Returns:
        An RGB picture without metadata: EXIF orientation applied, alpha composited on white, CMYK converted (Adobe's inverted
        values, as Pillow assumes), 16-bit grey rounded to 8 bits; of 16-bit colour Pillow gives the upper byte, up to a level less.

    Raises:
        ImageError: with its `kind`: missing, unreadable, empty, format, too_large, animated, truncated or broken.
    """
    if animated not in ("refuse", "first"):
        raise ValueError(f'`animated` is {animated!r}; give "refuse" or "first".')
    return _decode(read_image(source), str(source), animated, at_least)


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
        top = Path(root).resolve()
        path = (top / name).resolve()
        path.is_file()  # raises where the name is longer than the system allows
    except (OSError, ValueError, RuntimeError) as error:  # a null byte or half a surrogate pair; a ring of links
        raise MissingImage(f"No file can have this name: {_said(error)}", where, "Mend the row.") from error
    if path == top or not path.is_relative_to(top):
        raise OutsideImage("The image lies outside of the data root", where)
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

    def open(self, source: str | os.PathLike | Readable) -> Image.Image:
        """The squashed picture. Raises what `open_image` raises; OSError where the disk is full."""
        data = read_image(source)
        name = hashlib.sha256(data).hexdigest()[:32]
        path = self.folder / name[:2] / name[2:]
        picture = self._kept(path)
        if picture is None:
            picture = _decode(data, str(source)).resize((self.size, self.size), Image.Resampling.BICUBIC)
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
    except (DataError, MemoryError):
        raise
    except Exception as error:  # whatever an archive's reader raises
        raise UnreadableImage(f"The image cannot be read: {_said(error)}", where) from error
    if not isinstance(data, bytes):
        raise UnreadableImage(f"The image is no bytes but {type(data).__name__}", where)
    return data


def _decode(data: bytes, where: str, animated: str = "refuse", at_least: tuple[int, int] | None = None) -> Image.Image:
    depth = _check_container(data, where)
    _silence_pillow()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_announced(picture, data, where, animated)
            if at_least and picture.format != "PNG":  # a PNG would have to be decoded for its orientation
                picture.draft(None, at_least[::-1] if _orientation(picture) >= 5 else at_least)
            picture.load()
            if picture.format == "PNG":
                _check_filled(picture, data, where)
            turn = TURNS.get(_orientation(picture))
            whole = _to_rgb(picture, depth)
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


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # broken EXIF is no reason to lose whole pixels: viewers show them as they lie
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(picture: Image.Image, depth: int) -> Image.Image:
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


def _check_size(width: int, height: int, where: str) -> None:
    if width * height > MAX_PIXELS:
        raise TooLarge(f"The image is too large: {width}x{height} is {width * height:,} pixels; the limit is {MAX_PIXELS:,}", where)


def _check_announced(picture: Image.Image, data: bytes, where: str, animated: str) -> None:
    _check_size(*picture.size, where)  # from the header: nothing is decoded yet
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and animated != "first" and picture.format != "MPO":
        raise Animated(f"The image is an animation of {frames} frames", where)
    if picture.info.get("progressive") and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise TooLarge(f"The image has {scans:,} scans; the limit is {MAX_SCANS}", where)


def _check_container(data: bytes, where: str) -> int:
    """What Pillow does not look at, or too late; returns the bits of a sample."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _check_png(data, where)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        _check_webp(data, where)
    elif not data.startswith(b"\xff\xd8\xff"):
        raise WrongFormat(f"The file is no image that can be read ({_looks_like(data)})", where)
    return 8


def _check_webp(data: bytes, where: str) -> None:
    announced = 8 + int.from_bytes(data[4:8], "little")
    if announced > len(data):
        raise Truncated(f"The image file is cut short: {len(data):,} of {announced:,} bytes", where)
    # Pillow makes the canvas before it looks at its size
    kind, head = data[12:16], data[:30].ljust(30, b"\0")
    if kind == b"VP8X":
        _check_size(int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1, where)
    elif kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        _check_size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, where)
    elif kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        _check_size(width & 0x3FFF, height & 0x3FFF, where)


def _check_png(data: bytes, where: str) -> int:
    chunks = list(_png_chunks(data, where))
    names = [name for name, _ in chunks]
    texts = names.count(b"zTXt") + names.count(b"iTXt")
    if texts > MAX_TEXTS:
        raise TooLarge(f"The image holds {texts} compressed texts; the limit is {MAX_TEXTS}", where)
    if names[0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise BrokenImage("The image file is broken: it has no header", where)
    depth, colour = chunks[0][1][8:10]
    if colour == 3 and b"PLTE" not in names:  # Pillow would give a black picture
        raise BrokenImage("The image file is broken: it has no palette", where)
    return depth


def _png_chunks(data: bytes, where: str) -> Iterator[tuple[bytes, memoryview]]:
    """All chunks to the last, whole and with the right checksum: Pillow looks at none behind the first pixel."""
    view, at, name = memoryview(data), 8, b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, at) if at + 12 <= len(data) else (len(data), b"")
        end = at + 12 + length
        if end > len(data):
            raise Truncated(f"The image file is cut short: {end:,} bytes are announced and {len(data):,} there", where)
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise BrokenImage(f"The image file is broken: a wrong checksum in the part at byte {at:,}", where)
        yield name, view[at + 8 : end - 4]
        at = end


def _check_filled(picture: Image.Image, data: bytes, where: str) -> None:
    """Pillow leaves rows at zero that a PNG's data do not reach; only pictures that end in zeros are unpacked once more."""
    width, height = picture.size
    last_row = picture.crop((0, height - 1, width, height))
    if "interlace" not in picture.info and any(last_row.tobytes()):
        return
    depth, colour = data[24:26]
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]  # Adam7: x, y, steps
    shapes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in (passes if "interlace" in picture.info else [(0, 0, 1, 1)])]
    needed = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in shapes if columns > 0)
    unpacker, found = zlib.decompressobj(), 0
    for name, body in _png_chunks(data, where):
        while name == b"IDAT" and found < needed and len(body):
            found += len(unpacker.decompress(body, 1 << 20))
            body = unpacker.unconsumed_tail
    if found < needed:
        raise Truncated(f"The image's data end after {found:,} of {needed:,} bytes", where)


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


def _looks_like(data: bytes) -> str:
    head = data[:512]
    if head[:4] in (b"GIF8", b"%PDF", b"II*\0", b"MM\0*", b"%!PS", b"SIMP", b"\0\0\1\0") or head[:2] == b"BM" or head[4:8] == b"ftyp":
        return "it is another format"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return "its bytes are of no known kind" if error.start < len(head) - 4 else "it looks like text"
    return "it looks like text" if b"\0" not in head else "its bytes are of no known kind"
