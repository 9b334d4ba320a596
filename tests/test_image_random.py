"""Random bytes and damaged files give a picture or an ImageError, nothing else."""

from __future__ import annotations

import io
from functools import lru_cache

from hostile_images import ODD, encoded, frames, jpeg, oriented, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from omnivision.data.image import MAX_PIXELS, ImageError, open_image

QUICK = settings(max_examples=150, deadline=None, database=None, derandomize=True)
HEADS = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\0\0WEBPVP8 ", b"RIFF\x40\0\0\0WEBPVP8X", b"RIFF\x40\0\0\0WEBPVP8L"]


@lru_cache
def good() -> list[bytes]:
    return [jpeg(), jpeg(progressive=True), oriented("JPEG", 6), encoded(photo(), "PNG"), oriented("PNG", 6), encoded(photo(), "WEBP"),
            encoded(photo(), "WEBP", lossless=True), oriented("WEBP", 6), frames("PNG"), frames("WEBP"),
            *(ODD[name][0]() for name in ("CMYK", "palette with alpha", "16-bit grey, one clear", "interlaced", "JPEG with a second picture (MPO)"))]


def picture_or_error(data: bytes, animated: str) -> bool:
    try:
        picture = open_image(io.BytesIO(data), animated=animated, at_least=(5, 5))
    except ImageError as error:
        assert error.kind in ("empty", "format", "too_large", "animated", "truncated", "broken")
        return False
    assert isinstance(picture, Image.Image) and picture.mode == "RGB" and 0 < picture.width * picture.height <= MAX_PIXELS
    return True


@QUICK
@given(st.sampled_from(HEADS), st.binary(max_size=300))
def test_random_bytes(head, tail):
    picture_or_error(head + tail, "first")


@QUICK
@given(st.integers(0, 14), st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4), st.sampled_from(["refuse", "first"]))
def test_damaged_bytes(index, damage, animated):
    data = bytearray(good()[index])
    for place, change in damage:
        data[int(place * (len(data) - 1))] ^= change
    picture_or_error(bytes(data), animated)


@QUICK
@given(st.integers(0, 14), st.floats(0, 1), st.integers(0, 60), st.binary(max_size=40))
def test_bytes_taken_out_and_put_in(index, place, gone, new):
    data = good()[index]
    at = int(place * len(data))
    picture_or_error(data[:at] + new + data[at + gone :], "first")


def test_all_of_them_are_good():
    assert len(good()) == 15 and all(picture_or_error(data, "first") for data in good())
