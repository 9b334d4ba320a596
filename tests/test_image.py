"""The one door for pictures: what comes in is upright RGB with exact pixels, everything else is an error of a known kind."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hostile_images import HOSTILE, ODD, decoded, encoded, frames, jpeg, photo, upright
from PIL import Image

from omnivision.data.image import Animated, ImageError, open_image
from omnivision.errors import DataError

COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0)}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "photo.png"  # whatever is in it


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_errors_of_their_kind(file, name):
    kind, make = HOSTILE[name]
    file.write_bytes(make())
    with pytest.raises(ImageError) as caught:
        open_image(file)
    assert caught.value.kind == kind
    assert str(file) in caught.value.paragraph() and caught.value.exit_code == 3


@pytest.mark.parametrize("name", ODD)
def test_odd_files_have_exact_pixels(file, name):
    make, expected = ODD[name]
    file.write_bytes(make())
    picture = open_image(file)
    assert picture.mode == "RGB" and picture.info == {}
    np.testing.assert_array_equal(np.asarray(picture), expected())


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_the_first_frame_is_given_where_it_is_asked_for(file, form):
    file.write_bytes(frames(form, lossless=True))
    assert open_image(file, animated="first").getpixel((3, 3)) == COLOURS["red"]
    file.write_bytes(frames("PNG", default_image=True))
    assert open_image(file, animated="first").getpixel((3, 3)) == COLOURS["red"]
    with pytest.raises(ValueError, match="last"):
        open_image(file, animated="last")


def test_what_is_wrong_is_said(file):
    for content, said in ((b"", "empty"), ("你好, no picture".encode(), "looks like text"), (b"GIF89a", "another format"),
                          (bytes(range(200, 256)), "no known kind"), (frames("PNG"), "3 frames"),
                          (HOSTILE["no palette"][1](), "no palette"), (HOSTILE["PNG of 95 Mpx in 11 kB"][1](), "95,000,000 pixels")):
        file.write_bytes(content)
        with pytest.raises(ImageError, match=said):
            open_image(file)


def test_every_cut_of_a_file_is_an_error():
    """Nothing is given grey or black below the break, wherever that is."""
    small = photo(16, 12)
    for form, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True})):
        whole = encoded(small, form, **options)
        for length in (*range(0, len(whole) - 30, 3), *range(len(whole) - 30, len(whole))):
            with pytest.raises(ImageError) as caught:
                open_image(io.BytesIO(whole[:length]))
            assert caught.value.kind in ("truncated", "empty" if length == 0 else "format" if length < 12 else "truncated"), (form, length)


def test_pillows_warnings_neither_show_nor_count(file):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("error")  # as with python -W error
        for name in ("EXIF entry of 4 billion values", "EXIF cut short", "JPEG with a broken list of pictures (MPO)"):
            file.write_bytes(ODD[name][0]())
            open_image(file)
        before = list(warnings.filters)
        open_image(file)
        assert not seen and warnings.filters == before


def test_other_libraries_warnings_still_come_once(file):
    file.write_bytes(jpeg())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            warnings.warn("once", UserWarning, stacklevel=1)
            open_image(file)
        assert len(seen) <= 2  # again only after the first picture


def test_threads():
    files = [make() for kind, make in HOSTILE.values() if kind == "truncated"] + [jpeg()] * 40
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(kind_in_thread, files))
    assert answers == ["truncated"] * (len(files) - 40) + ["fine"] * 40


def kind_in_thread(data: bytes) -> str:
    try:
        return "fine" if np.array_equal(np.asarray(open_image(io.BytesIO(data))), decoded(jpeg())) else "other pixels"
    except ImageError as error:
        return error.kind


def test_limits_of_text_are_ours_even_where_pillow_is_told_otherwise(file, monkeypatch):
    monkeypatch.setattr("omnivision.data.containers.MAX_TEXTS", 0)
    file.write_bytes(ODD["PNG with 16 texts"][0]())
    with pytest.raises(ImageError, match="16 compressed texts"):
        open_image(file)


def test_a_file_longer_than_the_limit_is_not_read(file, monkeypatch):
    monkeypatch.setattr("omnivision.data.image.MAX_BYTES", 1000)
    file.write_bytes(jpeg() + bytes(1000))
    with pytest.raises(ImageError) as caught:
        open_image(file)
    assert caught.value.kind == "too_large"
    os.truncate(file, 1 << 40)  # a terabyte of nothing: reading it would be a MemoryError
    with pytest.raises(ImageError, match="1,099,511,627,776 bytes"):
        open_image(file)


def test_a_webps_size_is_known_before_pillow_makes_its_canvas(file, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *args, **options: pytest.fail("opened"))
    for name in (name for name in HOSTILE if name.startswith("WebP VP8")):
        file.write_bytes(HOSTILE[name][1]())
        with pytest.raises(ImageError, match="the limit is 32,000,000"):
            open_image(file)


def test_damage_inside_a_jpegs_data_cannot_be_seen(file):
    """A JPEG has no checksum, and Pillow passes over what libjpeg only warns of: a known gap, written down in the docstring."""
    data = bytearray(jpeg())
    data[-200] ^= 0x55
    file.write_bytes(data)
    assert not np.array_equal(np.asarray(open_image(file)), ODD["progressive JPEG"][1]())


@pytest.mark.parametrize("wanted", [(640, 480), (320, 240), (300, 239), (160, 120), (81, 61), (80, 60)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_reduced_only_on_demand_and_never_below_it(file, wanted, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file.write_bytes(encoded(photo(640, 480), "JPEG", exif=exif))
    wanted = wanted if orientation == 1 else wanted[::-1]
    whole, reduced = open_image(file), open_image(file, at_least=wanted)
    factor = min(whole.width // wanted[0], whole.height // wanted[1])
    assert whole.size == ((640, 480) if orientation == 1 else (480, 640))
    assert whole.width // reduced.width == max(f for f in (1, 2, 4, 8) if f <= factor)
    assert reduced.width >= wanted[0] and reduced.height >= wanted[1]
    difference = np.asarray(whole.resize(reduced.size, Image.Resampling.BOX), int) - np.asarray(reduced, int)
    assert np.abs(difference).mean() < 1  # the same picture, the same way up


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_other_formats_are_never_reduced(file, form):
    file.write_bytes(encoded(photo(), form))
    assert open_image(file, at_least=(6, 4)).size == (48, 32)


def test_orientations_are_those_of_the_standard():
    """6, for example: the first stored row is the right side, the first stored column the top."""
    stored = np.arange(6).reshape(2, 3)
    assert upright(stored, 6).tolist() == [[3, 0], [4, 1], [5, 2]] and upright(stored, 8).tolist() == [[2, 5], [1, 4], [0, 3]]
    assert upright(stored, 5).tolist() == [[0, 3], [1, 4], [2, 5]] and upright(stored, 7).tolist() == [[5, 2], [4, 1], [3, 0]]


def test_the_kind_survives_the_way_out_of_a_worker():
    """Pools pickle an exception as its class and text; torch's loader makes it anew from its text."""
    error = Animated("The image is an animation of 3 frames", "a.png")
    for other in (pickle.loads(pickle.dumps(error)), type(error)(str(error))):
        assert other.kind == "animated" and "a.png" in str(other) and isinstance(other, DataError)


def peak_megabytes() -> int:
    with open("/proc/self/status", encoding="utf-8") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) // 1024


def open_bombs(files: list[bytes], answer) -> None:
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as reset:
        reset.write("5")  # the peak starts anew: making the files does not count
    before, kinds = peak_megabytes(), set()
    for data in files:
        try:
            open_image(io.BytesIO(data))
        except ImageError as error:
            kinds.add(error.kind)
    answer.send((kinds, peak_megabytes() - before))


def test_bombs_take_no_memory():
    files = [make() for kind, make in HOSTILE.values() if kind == "too_large"]
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=open_bombs, args=(files, there))
    child.start()
    assert here.poll(60)
    kinds, grown = here.recv()
    child.join()
    assert len(files) >= 12 and kinds == {"too_large"} and grown < 60  # the largest would decode to 40 GB
