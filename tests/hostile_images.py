"""Picture files that attack, lie, are damaged or merely odd, made by code: no binary file is committed.

HOSTILE maps an id to the kind of error and the maker of the file; ODD maps an id to a maker and the exact pixels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from PIL import Image, ImageFile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]  # Adam7
PLACES = (4, 12, 30, 0.3, 0.6, 0.95, -1)  # bytes, parts of the file, or bytes from its end


@lru_cache
def photo(width: int = 48, height: int = 32) -> np.ndarray:
    """Smooth noise with an edge, so that codecs have something to lose. Never black at its end."""
    rng = np.random.default_rng(5)
    small = Image.fromarray(rng.integers(20, 236, (6, 8, 3), dtype=np.uint8))
    pixels = np.array(small.resize((width, height), Image.Resampling.BICUBIC))
    pixels[: height // 3, : width // 2] //= 2
    return pixels


def encoded(pixels: np.ndarray | Image.Image, form: str, **options) -> bytes:
    """A file as Pillow writes it."""
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, form, **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """What Pillow alone makes of a file, without any of our care."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def chunk(name: bytes, body: bytes = b"") -> bytes:
    """A part of a PNG with its right checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def header(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    """A PNG's first chunk."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, before: bytes = b"", after: bytes = b"", interlace: int = 0) -> bytes:
    """A PNG of raw rows, each with its filter byte."""
    return SIGNATURE + header(width, height, depth, colour, interlace) + before + chunk(b"IDAT", zlib.compress(raw)) + after + chunk(b"IEND")


def grey(*levels: int, depth: int = 8, before: bytes = b"") -> bytes:
    """A PNG of one row of grey levels."""
    bits = "".join(f"{level:0{depth}b}" for level in levels)
    raw = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    return png(len(levels), 1, depth, 0, b"\0" + raw, before)


def words(colour: int, *values: int, before: bytes = b"") -> bytes:
    """A PNG of one pixel row with 16-bit samples."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    return png(len(values) // channels, 1, 16, colour, b"\0" + struct.pack(f">{len(values)}H", *values), before)


def interlaced(pixels: np.ndarray, rows: int | None = None) -> bytes:
    """An RGB PNG in Adam7 order; with `rows` its data end behind so many of all passes, though every checksum is right."""
    raw = [b"\0" + row.tobytes() for x, y, dx, dy in PASSES for row in pixels[y::dy, x::dx] if row.size]
    return png(pixels.shape[1], pixels.shape[0], 8, 2, b"".join(raw[:rows]), interlace=1)


def changed(data: bytes, old: bytes, new: bytes) -> bytes:
    """The file with the first occurrence of some bytes replaced."""
    assert old in data
    return data.replace(old, new, 1)


def cut(data: bytes, place: float) -> bytes:
    """The file's beginning."""
    return data[: int(place * len(data)) if 0 < place < 1 else int(place)]


def wrong_checksum(data: bytes, name: bytes) -> bytes:
    """The PNG with one bit of a chunk's checksum flipped."""
    at = data.index(name)
    end = at + 4 + struct.unpack_from(">I", data, at - 4)[0]
    return data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]


def zeros_png(side_x: int, side_y: int, colour: int = 0) -> bytes:
    """A whole one-bit PNG: 95 megapixels take 11 kB."""
    return png(side_x, side_y, 1, colour, bytes(side_y * (1 + -(-side_x // 8))))


def webp_header(kind: bytes, body: bytes) -> bytes:
    """A WebP that announces a size and holds no picture."""
    body = kind + struct.pack("<I", 400) + body.ljust(400, b"\0")
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def huge_webp(kind: bytes, side: int) -> bytes:
    """Announces a square and holds nothing."""
    less, short = (side - 1).to_bytes(3, "little"), side - 1 & 0x3FFF
    return webp_header(kind, {b"VP8X": bytes(4) + less + less, b"VP8L": b"\x2f" + (short | short << 14).to_bytes(4, "little"),
                              b"VP8 ": b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", short + 1, short + 1)}[kind])


def jpeg(**options) -> bytes:
    """A small photo."""
    return encoded(photo(), "JPEG", **{"quality": 90, **options})


def announced_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header lies about its size."""
    data, at = bytearray(jpeg()), jpeg().index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = jpeg(progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def without(data: bytes, marker: bytes) -> bytes:
    """The JPEG without its segments of one kind."""
    while (at := data.find(marker)) >= 0:
        data = data[:at] + data[at + 2 + struct.unpack_from(">H", data, at + 2)[0] :]
    return data


def bad_huffman_table() -> bytes:
    """A table whose code lengths fit into no tree."""
    data, at = bytearray(jpeg()), jpeg().index(b"\xff\xc4")
    data[at + 5 : at + 21] = b"\xff" * 16
    return bytes(data)


def frames(form: str, **options) -> bytes:
    """Red, green and blue."""
    pictures = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    return encoded(pictures[0], form, save_all=True, append_images=pictures[1:], **options)


def oriented(form: str, value: int) -> bytes:
    """A photo with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = value
    options = {"JPEG": {"quality": 90}, "WEBP": {"lossless": True}}.get(form, {})
    return encoded(photo(), form, exif=exif, **options)


def upright(pixels: np.ndarray, value: int) -> np.ndarray:
    """The EXIF orientations by NumPy."""
    turned = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.swapaxes(0, 1),
              6: np.rot90(pixels, -1), 7: pixels[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(pixels, 1)}
    return turned[value]


def ycck() -> bytes:
    """A JPEG of Adobe's YCCK: Pillow writes CMYK, the marker then says that the first three are a luma and two colours."""
    flat = Image.new("CMYK", (16, 16), (55, 128, 128, 95))  # stored inverted: Y 200, Cb 127, Cr 127, K 160
    data = encoded(flat, "JPEG", quality=100)
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\x02" + data[at + 1 :]


def row(*pixels: tuple[int, int, int] | int) -> np.ndarray:
    """Pixels of a picture of one row."""
    return np.array([[(one,) * 3 if isinstance(one, int) else one for one in pixels]], dtype=np.uint8)


def fits() -> bytes:
    """A FITS file: cards of 80 letters."""
    cards = ["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    2",
             "NAXIS1  =                    8", "NAXIS2  =                    8", "END"]
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode() + bytes(2880)


def _foreign() -> dict[str, Callable[[], bytes]]:
    small = Image.fromarray(photo())
    forms = {name: partial(encoded, small, name) for name in ("GIF", "BMP", "TIFF", "PPM", "ICO", "EPS", "PDF", "TGA", "AVIF", "JPEG2000")}
    return forms | {"FITS": fits, "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>',
                    "text": lambda: "你好, no picture".encode(), "noise": lambda: np.random.default_rng(0).bytes(5000)}


def _cuts() -> dict[str, Callable[[], bytes]]:
    whole = {"jpeg": jpeg, "progressive": partial(jpeg, progressive=True), "png": partial(encoded, photo(), "PNG"),
             "webp": partial(encoded, photo(), "WEBP"), "lossless": partial(encoded, photo(), "WEBP", lossless=True)}
    return {f"{name} cut at {place}": (lambda make=make, place=place: cut(make(), place))
            for name, make in whole.items() for place in PLACES if place != 4 or make is jpeg}  # of others, 4 bytes could be anything


def _bombs() -> dict[str, Callable[[], bytes]]:
    return {
        "PNG of 95 Mpx in 11 kB": partial(zeros_png, 10_000, 9_500),
        "PNG of 400 Mpx": partial(zeros_png, 20_000, 20_000),
        "PNG one pixel over": lambda: SIGNATURE + header(32_000_001, 1) + chunk(b"IDAT") + chunk(b"IEND"),
        "PNG of 100,000 x 100,000 in 60 bytes": lambda: SIGNATURE + header(100_000, 100_000) + chunk(b"IEND"),
        "JPEG of 65,500 x 65,500": partial(announced_jpeg, 65_500, 65_500),
        "JPEG of 60 Mpx": partial(announced_jpeg, 10_000, 6_000),
        # 12,000: above our limit and below Pillow's own
        **{f"WebP {kind.decode().strip()} of {side} x {side}": partial(huge_webp, kind, side)
           for kind in (b"VP8X", b"VP8L", b"VP8 ") for side in (12_000, 16_383)},
        "WebP of 2^24 x 2^24": partial(huge_webp, b"VP8X", 1 << 24),
        "text that unpacks to 4 MB": lambda: png(1, 1, 8, 0, b"\0\1", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(4 << 20)))),
        "text behind the pixels": lambda: png(1, 1, 8, 0, b"\0\1", after=chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(4 << 20)))),
        "profile that unpacks to 4 MB": lambda: png(1, 1, 8, 0, b"\0\1", chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(4 << 20)))),
        "64 texts of a megabyte": lambda: png(1, 1, 8, 0, b"\0\1", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes((1 << 20) - 1))) * 64),
        "JPEG of 1,000 scans": partial(many_scans, 1000),
    }


def _bad_pngs() -> dict[str, Callable[[], bytes]]:
    whole = encoded(photo(), "PNG", dpi=(72, 72))
    palette = encoded(Image.fromarray(photo()).quantize(8), "PNG")
    two = b"\0\1\2"
    return {
        **{f"checksum of {name.decode()}": partial(wrong_checksum, whole, name) for name in (b"IHDR", b"pHYs", b"IDAT", b"IEND")},
        "checksum of PLTE": partial(wrong_checksum, palette, b"PLTE"),
        "no palette": lambda: png(2, 1, 8, 3, two),
        "no header": lambda: SIGNATURE + chunk(b"IDAT", zlib.compress(two)) + chunk(b"IEND"),
        "short header": lambda: SIGNATURE + chunk(b"IHDR", bytes(5)) + chunk(b"IEND"),
        "no pixel data": lambda: SIGNATURE + header(2, 1) + chunk(b"IEND"),
        "unknown filter": lambda: png(2, 1, 8, 0, b"\x09\1\2"),
        "unknown colour type": lambda: png(2, 1, 8, 5, two),
        "depth of 3 bits": lambda: png(2, 1, 3, 0, two),
        "no width": lambda: png(0, 1, 8, 0, b"\0"),
        "data that are not packed": lambda: SIGNATURE + header(2, 1, 8, 0) + chunk(b"IDAT", b"no zlib stream") + chunk(b"IEND"),
        "checksum inside the packed data": lambda: changed(png(2, 1, 8, 0, two), chunk(b"IDAT", zlib.compress(two)),
                                                           chunk(b"IDAT", zlib.compress(two)[:-1] + b"\0")),
    }


def _bad_others() -> dict[str, Callable[[], bytes]]:
    lossless = encoded(photo(), "WEBP", lossless=True)
    return {
        "bad Huffman table": bad_huffman_table,
        "no quantisation table": lambda: without(jpeg(), b"\xff\xdb"),
        "no frame header": lambda: without(jpeg(), b"\xff\xc0"),
        "12 bits a sample": lambda: changed(jpeg(), b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
        "no height": partial(announced_jpeg, 48, 0),
        "no width in JPEG": partial(announced_jpeg, 0, 32),
        "WebP of an unknown kind": lambda: changed(lossless, b"VP8L", b"VP8Q"),
        "WebP of zeros": lambda: lossless[:30] + bytes(len(lossless) - 30),
        "WebP with another canvas": lambda: changed(encoded(photo(), "WEBP", exif=b"Exif\0\0MM"), struct.pack("<I", 47)[:3], b"\xff\0\0"),
    }


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "no bytes": ("empty", bytes),
    **{f"{name} under another name": ("format", make) for name, make in _foreign().items()},
    "one byte": ("format", lambda: b"\x89"),
    **{name: ("truncated", make) for name, make in _cuts().items()},
    "PNG's signature alone": ("truncated", lambda: SIGNATURE),
    "JPEG's signature alone": ("truncated", lambda: b"\xff\xd8\xff"),
    "WebP's signature alone": ("truncated", lambda: b"RIFF\xff\0\0\0WEBP"),
    "chunk that announces 2 GB": ("truncated", lambda: SIGNATURE + b"\x7f\xff\xff\xffIDAT" + bytes(50)),
    "rows missing behind right checksums": ("truncated", lambda: png(2, 3, 8, 0, b"\0\1\2")),
    "rows missing, interlaced": ("truncated", lambda: interlaced(photo(48, 33), 50)),  # of 64; the picture's last comes early
    **{name: ("too_large", make) for name, make in _bombs().items()},
    "animated PNG": ("animated", partial(frames, "PNG")),
    "animated PNG with a still picture": ("animated", partial(frames, "PNG", default_image=True)),
    "animated WebP": ("animated", partial(frames, "WEBP")),
    **{name: ("broken", make) for name, make in (_bad_pngs() | _bad_others()).items()},
}


def _exif(body: bytes) -> tuple[Callable[[], bytes], Callable[[], np.ndarray]]:
    return lambda: jpeg(exif=body), lambda: decoded(jpeg())


def _raw(mode: str) -> Image.Image:
    return Image.fromarray(photo()).convert(mode)


def _tail(form: str, tail: bytes) -> tuple[Callable[[], bytes], Callable[[], np.ndarray]]:
    return lambda: encoded(photo(), form) + tail, lambda: decoded(encoded(photo(), form))


def _mpo() -> bytes:
    return encoded(Image.fromarray(photo()), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))], quality=90)


CLEAR = partial(chunk, b"tRNS")
TIFF = b"Exif\0\0II*\0\x08\0\0\0\x01\0"  # one entry follows
TURN_6 = struct.pack("<HHII", 0x0112, 3, 1, 6)
ODD: dict[str, tuple[Callable[[], bytes], Callable[[], np.ndarray]]] = {
    "1 x 1": (lambda: png(1, 1, 8, 2, b"\0\7\x08\x09"), lambda: row((7, 8, 9))),
    "1 x 10,000": (lambda: png(1, 10_000, 8, 0, b"\0\7" * 10_000), lambda: np.full((10_000, 1, 3), 7, np.uint8)),
    "10,000 x 1": (lambda: png(10_000, 1, 8, 0, b"\0" + b"\7" * 10_000), lambda: np.full((1, 10_000, 3), 7, np.uint8)),
    "all black": (lambda: png(2, 2, 8, 0, bytes(6)), lambda: np.zeros((2, 2, 3), np.uint8)),
    "all black, interlaced": (lambda: interlaced(np.zeros((5, 3, 3), np.uint8)), lambda: np.zeros((5, 3, 3), np.uint8)),
    "interlaced": (lambda: interlaced(photo()), photo),
    "more data than rows": (lambda: png(2, 1, 8, 0, b"\0\1\2" * 50), lambda: row(1, 2)),
    "data in many parts": (lambda: changed(png(2, 1, 8, 0, b"\0\1\2"), chunk(b"IDAT", zlib.compress(b"\0\1\2")),
                                           chunk(b"IDAT") + b"".join(chunk(b"IDAT", bytes([b])) for b in zlib.compress(b"\0\1\2"))),
                           lambda: row(1, 2)),
    **{f"garbage behind {form}": _tail(form, b"\0garbage" * 99) for form in ("JPEG", "PNG", "WEBP")},
    **{f"a second file behind {form}": _tail(form, encoded(photo(), form)) for form in ("JPEG", "PNG", "WEBP")},
    **{f"{form} orientation {value}": (partial(oriented, form, value), lambda form=form, value=value: upright(decoded(oriented(form, 1)), value))
       for form in ("JPEG", "PNG", "WEBP") for value in range(1, 9)},
    **{f"orientation {value}": (partial(oriented, "JPEG", value), lambda: decoded(jpeg())) for value in (0, 9, 65535)},
    "EXIF of noise": _exif(b"Exif\0\0" + bytes(range(200))),
    "EXIF of noise in PNG": (lambda: encoded(photo(), "PNG", exif=b"Exif\0\0" + bytes(range(200))), photo),
    "EXIF of noise in WebP": (lambda: encoded(photo(), "WEBP", lossless=True, exif=b"Exif\0\0" + bytes(range(200))), photo),
    "EXIF cut short": _exif(TIFF[:12]),
    "EXIF that points outside": _exif(b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    "EXIF orientation as text": _exif(TIFF + struct.pack("<HHI4s", 0x0112, 2, 4, b"six\0") + bytes(4)),
    "EXIF orientation of two numbers": (lambda: jpeg(exif=TIFF + struct.pack("<HHIHH", 0x0112, 3, 2, 6, 6) + bytes(4)),
                                        lambda: upright(decoded(jpeg()), 6)),  # the first counts
    **{f"EXIF orientation beside {name}": (partial(jpeg, exif=TIFF[:-2] + b"\2\0" + b"".join(sorted((TURN_6, entry))) + bytes(4)), lambda: upright(decoded(jpeg()), 6))
       for name, entry in (("a unit as a byte", struct.pack("<HHII", 0x0128, 1, 1, 2)), ("a width as text", struct.pack("<HHI4s", 0x0100, 2, 3, b"14\0")))},
    "EXIF orientation as a fraction": _exif(TIFF + struct.pack("<HHIf", 0x0112, 11, 1, 6.0) + bytes(4)),
    "EXIF entry of 4 billion values": _exif(TIFF + struct.pack("<HHII", 0x0112, 3, 0xFFFFFFFF, 6) + bytes(4)),
    "palette": (lambda: encoded(_raw("RGB").quantize(8), "PNG"), lambda: np.asarray(_raw("RGB").quantize(8).convert("RGB"))),
    "palette with one clear colour": (lambda: png(2, 1, 8, 3, b"\0\0\1", chunk(b"PLTE", bytes(range(6))) + CLEAR(b"\xff\0")),
                                      lambda: row((0, 1, 2), 255)),
    "palette with alpha": (lambda: png(2, 1, 8, 3, b"\0\0\1", chunk(b"PLTE", bytes(6)) + CLEAR(b"\x80\xff")), lambda: row(127, 0)),
    "palette index beyond": (lambda: png(2, 1, 8, 3, b"\0\0\7", chunk(b"PLTE", b"\5\6\7")), lambda: row((5, 6, 7), 0)),
    "grey with alpha": (lambda: png(2, 1, 8, 4, b"\0\0\x80\x32\xff"), lambda: row(127, 50)),
    "colour with alpha": (lambda: png(2, 1, 8, 6, b"\0\0\0\0\x80\1\2\3\0"), lambda: row(127, 255)),
    "one clear grey": (lambda: grey(3, 4, before=CLEAR(b"\0\4")), lambda: row(3, 255)),
    "one clear grey of 4 bits": (lambda: grey(5, 10, depth=4, before=CLEAR(b"\0\5")), lambda: row(255, 170)),
    "one clear grey of 2 bits": (lambda: grey(0, 1, 2, 3, depth=2, before=CLEAR(b"\0\1")), lambda: row(0, 255, 170, 255)),
    "one clear grey of 1 bit": (lambda: grey(0, 1, depth=1, before=CLEAR(b"\0\0")), lambda: row(255, 255)),
    "one clear colour": (lambda: png(2, 1, 8, 2, b"\0\1\2\3\4\5\6", CLEAR(struct.pack(">3H", 1, 2, 3))), lambda: row(255, (4, 5, 6))),
    "16-bit grey": (lambda: words(0, 0, 128, 129, 25700, 32768, 65535), lambda: row(0, 0, 1, 100, 128, 255)),
    "16-bit grey, one clear": (lambda: words(0, 1000, 1001, before=CLEAR(struct.pack(">H", 1000))), lambda: row(255, 4)),
    "16-bit colour": (lambda: words(2, 0, 255, 256, 65535, 25700, 32768), lambda: row((0, 0, 1), (255, 100, 128))),  # the upper byte
    "16-bit colour, one clear": (lambda: words(2, 1000, 2000, 3000, 9, 9, 9, before=CLEAR(struct.pack(">3H", 1000, 2000, 3000))),
                                lambda: row(255, 0)),
    "16-bit grey with alpha": (lambda: words(4, 0, 32896, 25700, 65535), lambda: row(127, 100)),
    "16-bit colour with alpha": (lambda: words(6, 0, 0, 0, 32896), lambda: row(127)),
    "one bit": (lambda: grey(0, 1, 1, depth=1), lambda: row(0, 255, 255)),
    "grey JPEG": (lambda: encoded(_raw("L"), "JPEG"), lambda: decoded(encoded(_raw("L"), "JPEG"))),
    "progressive JPEG": (lambda: jpeg(progressive=True), lambda: decoded(jpeg())),
    "JPEG without Huffman tables": (lambda: without(jpeg(), b"\xff\xc4"), lambda: decoded(jpeg())),  # the standard's own are meant
    "JPEG without subsampling": (lambda: jpeg(subsampling=0), lambda: decoded(jpeg(subsampling=0))),
    "CMYK": (lambda: encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100),
             lambda: np.full((16, 16, 3), (255, 0, 0), np.uint8)),
    # by hand: R, G, B of (200, 127, 127) are 199, 201, 198; Adobe's numbers are inverted, so light is (255 - R) * (255 - 95) / 255
    "YCCK": (ycck, lambda: np.full((16, 16, 3), (35, 34, 36), np.uint8)),
    "JPEG with a second picture (MPO)": (_mpo, lambda: decoded(jpeg())),
    "JPEG with a broken list of pictures (MPO)": (lambda: changed(_mpo(), b"MPF\0", b"MPF\0\0\0"), lambda: decoded(jpeg())),
    "JPEG with a profile of noise": (lambda: jpeg(icc_profile=bytes(range(256)) * 3), lambda: decoded(jpeg())),
    "JPEG with a profile's part missing": (lambda: changed(jpeg(icc_profile=b"x" * 300), b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\7"),
                                           lambda: decoded(jpeg())),
    "PNG with a profile of noise": (lambda: png(2, 1, 8, 0, b"\0\1\2", chunk(b"iCCP", b"a\0\0" + bytes(range(50)))), lambda: row(1, 2)),
    "PNG with 16 texts": (lambda: png(2, 1, 8, 0, b"\0\1\2", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(99))) * 16), lambda: row(1, 2)),
    "WebP with a profile of noise": (lambda: encoded(photo(), "WEBP", lossless=True, icc_profile=bytes(range(256))), photo),
    "WebP with alpha": (lambda: encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "WEBP", lossless=True), lambda: np.full((4, 4, 3), 127, np.uint8)),
    "animated PNG of one frame": (lambda: encoded(photo(), "PNG", save_all=True), photo),
}
assert not ImageFile.LOAD_TRUNCATED_IMAGES
