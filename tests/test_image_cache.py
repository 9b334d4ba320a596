"""Squashed pictures on disk: the same pixels, whole records, one decoding."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hostile_images import encoded, frames, jpeg, photo
from PIL import Image

from omnivision.data import image
from omnivision.data.image import ImageError, open_image
from omnivision.data.resized import ResizedCache, write_whole

FORMS = {"jpeg": jpeg, "png": lambda: encoded(photo(), "PNG"), "turned": lambda: encoded(photo(30, 90), "WEBP")}


@pytest.fixture
def cache(tmp_path) -> ResizedCache:
    return ResizedCache(tmp_path / "cache", 20)


def records(cache: ResizedCache) -> list[Path]:
    return sorted(path for path in cache.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", FORMS)
def test_first_and_later_openings_have_the_pixels_of_a_squash(cache, tmp_path, name, monkeypatch):
    path = tmp_path / name
    path.write_bytes(FORMS[name]())
    expected = open_image(path).resize((20, 20), Image.Resampling.BICUBIC)
    first = cache.open(path)
    monkeypatch.setattr(image, "decode", None)  # no decoding from now on
    for picture in (first, cache.open(path), ResizedCache(tmp_path / "cache", 20).open(io.BytesIO(path.read_bytes()))):
        assert picture.mode == "RGB" and np.array_equal(np.asarray(picture), np.asarray(expected))
    assert len(records(cache)) == 1 and records(cache)[0].stat().st_size == 3 * 20 * 20 + 4


def test_a_processor_gives_the_same_tensors(cache, tmp_path):
    import torch

    from omnivision.model.processing import siglip_image_processor

    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg())
    processor = siglip_image_processor(20)
    plain, cached = (processor([picture], return_tensors="pt")["pixel_values"] for picture in (open_image(path), cache.open(path)))
    assert torch.equal(plain, cached)


def test_other_bytes_and_other_sizes_are_other_records(cache, tmp_path):
    path = tmp_path / "a.png"
    for pixels in (photo(), 255 - photo()):
        path.write_bytes(encoded(pixels, "PNG"))
        assert np.array_equal(np.asarray(cache.open(path)), np.asarray(Image.fromarray(pixels).resize((20, 20), 3)))
    assert ResizedCache(tmp_path / "cache", 30).open(path).size == (30, 30) and len(records(cache)) == 2


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
                                    lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])], ids=["empty", "short", "long", "bit", "checksum"])
def test_a_damaged_record_is_written_anew(cache, tmp_path, damage):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(photo(), "PNG"))
    expected = cache.open(path).tobytes()
    record = records(cache)[0]
    whole = record.read_bytes()
    record.write_bytes(damage(whole))
    assert cache.open(path).tobytes() == expected and record.read_bytes() == whole


def test_hostile_files_leave_no_record(cache, tmp_path):
    for content, kind in ((jpeg()[:300], "truncated"), (frames("PNG"), "animated"), (b"", "empty")):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(ImageError, match="a.png") as caught:
            cache.open(tmp_path / "a.png")
        assert caught.value.kind == kind
    assert not records(cache)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    write_whole(tmp_path / "sub" / "a", b"old")
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "sub" / "a", b"new")
    assert [path.read_bytes() for path in (tmp_path / "sub").iterdir()] == [b"old"]
