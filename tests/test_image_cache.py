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


def squashed(cache: ResizedCache) -> list[Path]:
    return sorted(path for path in cache.folder.glob("*/*") if path.is_file())


@pytest.mark.parametrize("name", FORMS)
def test_first_and_later_openings_have_the_pixels_of_a_squash(cache, tmp_path, name, monkeypatch):
    path = tmp_path / name
    path.write_bytes(FORMS[name]())
    expected = open_image(path).resize((20, 20), Image.Resampling.BICUBIC)
    first = cache.open(path)
    monkeypatch.setattr(image, "decode", None)  # no decoding from now on
    for picture in (first, cache.open(path), ResizedCache(tmp_path / "cache", 20).open(io.BytesIO(path.read_bytes()))):
        assert picture.mode == "RGB" and np.array_equal(np.asarray(picture), np.asarray(expected))
    assert len(squashed(cache)) == 1 and squashed(cache)[0].stat().st_size == 3 * 20 * 20 + 4


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
    assert ResizedCache(tmp_path / "cache", 30).open(path).size == (30, 30) and len(squashed(cache)) == 2


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
                                    lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])], ids=["empty", "short", "long", "bit", "checksum"])
def test_a_damaged_record_is_written_anew(cache, tmp_path, damage):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(photo(), "PNG"))
    expected = cache.open(path).tobytes()
    record = squashed(cache)[0]
    whole = record.read_bytes()
    record.write_bytes(damage(whole))
    assert cache.open(path).tobytes() == expected and record.read_bytes() == whole


def test_hostile_files_leave_no_record(cache, tmp_path):
    for content, kind in ((jpeg()[:300], "truncated"), (frames("PNG"), "animated"), (b"", "empty")):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(ImageError, match="a.png") as caught:
            cache.open(tmp_path / "a.png")
        assert caught.value.kind == kind
    assert not squashed(cache)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    write_whole(tmp_path / "sub" / "a", b"old")
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "sub" / "a", b"new")
    assert [path.read_bytes() for path in (tmp_path / "sub").iterdir()] == [b"old"]


def test_a_full_cache_decodes_and_says_so_once(tmp_path, capsys):
    cache = ResizedCache(tmp_path / "cache", 20, most_gib=2.5 * (3 * 20 * 20 + 4) / 2**30)
    expected = []
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(encoded(photo() // (number + 1), "PNG"))
        expected.append(open_image(tmp_path / f"{number}.png").resize((20, 20), Image.Resampling.BICUBIC).tobytes())
    for _ in range(2):
        assert [cache.open(tmp_path / f"{number}.png").tobytes() for number in range(4)] == expected
    assert len(squashed(cache)) == 2 and cache.used() == 2 * cache.bytes
    said = capsys.readouterr().err
    assert said.count("is full") == 1 and "decoded whenever they are seen" in said
    squashed(cache)[0].write_bytes(b"damaged")
    cache.open(tmp_path / "0.png"), cache.open(tmp_path / "1.png")
    assert {path.stat().st_size for path in squashed(cache)} == {cache.bytes} and cache.used() == 2 * cache.bytes  # fixed in its place
    other = ResizedCache(tmp_path / "cache", 10, most_gib=2.5 * cache.bytes / 2**30)
    other.open(tmp_path / "3.png")
    assert other.used() == 2 * cache.bytes + other.bytes  # all sizes count
