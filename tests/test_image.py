"""The one door for image files: what comes in is upright RGB, everything else is a DataError."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from omnivision.data.image import MAX_PIXELS, open_image
from omnivision.errors import DataError


def save(picture: Image.Image, path, **options):
    picture.save(path, **options)
    return path


@pytest.mark.parametrize(("name", "options"), [("a.png", {}), ("a.jpg", {"quality": 95}), ("a.webp", {"lossless": True})])
def test_formats(tmp_path, name, options):
    picture = open_image(save(Image.new("RGB", (20, 10), (200, 30, 40)), tmp_path / name, **options))
    assert picture.mode == "RGB" and picture.size == (20, 10)
    assert np.abs(np.asarray(picture, int) - [200, 30, 40]).max() <= 3


def test_the_name_does_not_decide(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (4, 4), "red").save(path, format="PNG")
    assert open_image(path).getpixel((0, 0)) == (255, 0, 0)


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (20, 10), "black")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert open_image(save(picture, tmp_path / "a.jpg", exif=exif)).size == (10, 20)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_on_white(tmp_path, mode):
    colour = (0, 0, 0, 128) if mode == "RGBA" else (0, 128)
    pixel = open_image(save(Image.new(mode, (4, 4), colour), tmp_path / "a.png")).getpixel((1, 1))
    assert pixel == (127, 127, 127)


def test_palette_transparency_lies_on_white(tmp_path):
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([10, 20, 30] * 256)
    assert open_image(save(picture, tmp_path / "a.png", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled(tmp_path):
    values = np.array([[0, 257 * 100], [32768, 65535]], dtype=np.uint16)
    picture = open_image(save(Image.fromarray(values), tmp_path / "a.png"))
    assert np.asarray(picture)[..., 0].tolist() == [[0, 100], [128, 255]]


def test_cmyk_is_converted(tmp_path):
    red, green, blue = open_image(save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "a.jpg")).getpixel((3, 3))
    assert red > 240 and green < 15 and blue < 15


def huge_png(path):
    """A PNG of 60 bytes that announces 100,000 x 100,000 pixels."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""))


def test_too_large_is_refused_before_decoding(tmp_path):
    huge_png(tmp_path / "a.png")
    with pytest.raises(DataError, match="too large"):
        open_image(tmp_path / "a.png")
    side = int(MAX_PIXELS ** 0.5) + 1
    with pytest.raises(DataError, match="too large"):
        open_image(save(Image.new("1", (side, side)), tmp_path / "b.png"))


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_animation_is_refused(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="3 frames"):
        open_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_truncated_is_an_error(tmp_path, name):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = save(noise, tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError):
        open_image(path)


@pytest.mark.parametrize(("content", "said"), [(b"", "empty"), ("你好, no picture".encode(), "looks like text"), (b"GIF89a", "no image"), (bytes(range(200, 256)), "no known kind")])
def test_other_files(tmp_path, content, said):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        open_image(path)
    assert str(path) in caught.value.paragraph()


def test_gif_and_bmp_are_refused(tmp_path):
    for name in ("a.gif", "a.bmp"):
        with pytest.raises(DataError, match="another format"):
            open_image(save(Image.new("RGB", (4, 4)), tmp_path / name))


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="is a folder"):
        open_image(tmp_path)
