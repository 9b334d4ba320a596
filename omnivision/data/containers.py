"""What Pillow does not look at, or too late: sizes before a canvas is made, checksums, data that end too early."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from omnivision.data.image_errors import BrokenImage, TooLarge, Truncated, WrongFormat

MAX_PIXELS = 32_000_000  # a few kilobytes can announce gigabytes; 32 Mpx decodes to 128 MB
MAX_TEXTS = 16  # compressed texts in a PNG: each may unpack to a megabyte, four as a Python string


def check_size(width: int, height: int, where: str) -> None:
    """Refuses what would take too much memory once it is decoded."""
    if width * height > MAX_PIXELS:
        raise TooLarge(f"The image is too large: {width}x{height} is {width * height:,} pixels; the limit is {MAX_PIXELS:,}", where)


def check_container(data: bytes, where: str) -> int:
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
        check_size(int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1, where)
    elif kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        check_size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, where)
    elif kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        check_size(width & 0x3FFF, height & 0x3FFF, where)


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


def check_filled(picture: Image.Image, data: bytes, where: str) -> None:
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


def _looks_like(data: bytes) -> str:
    head = data[:512]
    if head[:4] in (b"GIF8", b"%PDF", b"II*\0", b"MM\0*", b"%!PS", b"SIMP", b"\0\0\1\0") or head[:2] == b"BM" or head[4:8] == b"ftyp":
        return "it is another format"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return "its bytes are of no known kind" if error.start < len(head) - 4 else "it looks like text"
    return "it looks like text" if b"\0" not in head else "its bytes are of no known kind"
