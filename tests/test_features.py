"""The feature cache: what it returns is what the tower gives, whatever happened to its files."""

from __future__ import annotations

import pytest
import torch
import train_world
from PIL import Image

from omnivision.data.features import FeatureCache, tower_hash
from omnivision.errors import DataError
from omnivision.generation import encode_images


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def model(world):
    return train_world.build(world)


@pytest.fixture(scope="module")
def paths(world):
    return [str(world.folder / f"images/{number}.png") for number in range(6)]


def expected(model, paths):
    return encode_images(*model, paths).half()


def check(cache, model, paths):
    """fp16's rounding: one part in 2,048 of values up to some 8."""
    assert torch.allclose(cache.get(paths).float(), expected(model, paths).float(), atol=5e-3, rtol=1e-3)


def forbid(monkeypatch):
    """From here on the tower may not run."""
    monkeypatch.setattr("omnivision.generation.encode_images", lambda *a, **k: pytest.fail("the tower ran"))


def test_it_gives_what_the_tower_gives(tmp_path, model, paths):
    cache = FeatureCache(tmp_path, *model)
    assert cache.fill(paths[:4], batch_size=3) == 4 and cache.fill(paths[:4]) == 0
    check(cache, model, [paths[2], paths[0], paths[2]])
    check(cache, model, paths)  # two of them computed on the way
    assert cache.get(paths).shape == (6, 81, 32) == (6, *cache.shape) and cache.get(paths).dtype == torch.float16
    listed = cache.features(paths)
    assert len(listed) == 6 and listed[5].dtype == torch.float32
    assert torch.equal(torch.stack(listed), cache.get(paths).float())


def test_a_new_process_reads_without_the_tower(tmp_path, model, paths, monkeypatch):
    FeatureCache(tmp_path, *model).fill(paths)
    wanted = expected(model, paths)
    forbid(monkeypatch)
    again = FeatureCache(tmp_path, *model)
    assert again.fill(paths) == 0 and torch.allclose(again.get(paths).float(), wanted.float(), atol=5e-3)


def test_progress_counts_pictures(tmp_path, model, paths):
    seen = []
    FeatureCache(tmp_path, *model).fill([*paths[:5], paths[0]], batch_size=2, progress=seen.append)
    assert seen == [2, 2, 1]


def cut(file, size):
    with file.open("r+b") as opened:
        opened.truncate(size)


@pytest.mark.parametrize("left", [0, 1, 2, 3])
@pytest.mark.parametrize("inside", [0, 100])
def test_a_shorter_data_file_is_mended(tmp_path, model, paths, left, inside):
    cache = FeatureCache(tmp_path, *model)
    cache.fill(paths[:4])
    cut(cache.data, left * cache.bytes + inside)
    mended = FeatureCache(tmp_path, *model)
    check(mended, model, [paths[5], *paths[:4]])  # another picture comes first into the gap
    check(FeatureCache(tmp_path, *model), model, paths)


@pytest.mark.parametrize("lost", [1, 20, 60])
def test_a_shorter_index_is_mended_for_good(tmp_path, model, paths, lost, monkeypatch):
    cache = FeatureCache(tmp_path, *model)
    cache.fill(paths[:4])
    cut(cache.index, cache.index.stat().st_size - lost)
    check(FeatureCache(tmp_path, *model), model, [paths[5], *paths[:5]])
    wanted = expected(model, paths)
    forbid(monkeypatch)  # the next process finds all of it
    assert torch.allclose(FeatureCache(tmp_path, *model).get(paths).float(), wanted.float(), atol=5e-3)


def test_a_run_that_died_between_record_and_index_line(tmp_path, model, paths):
    cache = FeatureCache(tmp_path, *model)
    cache.fill(paths[:2])
    with cache.data.open("ab") as data:
        data.write(b"\x01" * (cache.bytes + 17))
    check(FeatureCache(tmp_path, *model), model, paths)
    check(FeatureCache(tmp_path, *model), model, paths)


def test_a_flipped_bit_is_found(tmp_path, model, paths):
    cache = FeatureCache(tmp_path, *model)
    cache.fill(paths[:3])
    data = bytearray(cache.data.read_bytes())
    data[cache.bytes + 11] ^= 4
    cache.data.write_bytes(data)
    check(cache, model, [paths[0], paths[2]])
    with pytest.raises(DataError, match=r"cached features of a picture are damaged \(.*1.png\)\. Delete .*start again"):
        cache.get(paths[:3])


def test_a_missing_picture_is_named(tmp_path, model, paths):
    with pytest.raises(DataError, match=r"image file does not exist \(.*none.png\)"):
        FeatureCache(tmp_path, *model).fill([*paths, str(tmp_path / "none.png")])


def test_two_caches_on_one_folder(tmp_path, model, paths):
    one, other = FeatureCache(tmp_path, *model), FeatureCache(tmp_path, *model)
    one.fill(paths[:3])
    assert other.fill(paths[:4]) == 1  # sees the three that the first one wrote
    check(one, model, paths)
    check(other, model, paths)
    assert len(one.index.read_text().splitlines()) == 6 and one.data.stat().st_size == 6 * one.bytes


def test_one_picture_under_two_names_is_one_record(tmp_path, model, paths):
    copy = tmp_path / "copy.png"
    copy.write_bytes(train_world.Path(paths[0]).read_bytes())
    cache = FeatureCache(tmp_path / "cache", *model)
    cache.fill([paths[0], str(copy), paths[1]])
    check(cache, model, [paths[0], str(copy), paths[1], paths[2]])
    check(FeatureCache(tmp_path / "cache", *model), model, [paths[1], str(copy), paths[2]])
    assert cache.data.stat().st_size == 3 * cache.bytes


def test_a_picture_that_changed_is_another_picture(tmp_path, model, paths):
    copy = tmp_path / "copy.png"
    copy.write_bytes(train_world.Path(paths[0]).read_bytes())
    FeatureCache(tmp_path / "cache", *model).fill([copy])
    Image.new("RGB", (54, 54), (200, 10, 10)).save(copy)
    check(FeatureCache(tmp_path / "cache", *model), model, [str(copy)])


def test_another_tower_has_another_folder(tmp_path, world, model, paths):
    cache = FeatureCache(tmp_path, *model)
    other, processor = train_world.build(world)
    assert tower_hash(other) == tower_hash(model[0])
    with torch.no_grad():
        other.model.projector.requires_grad_(False)
        for weight in other.model.projector.parameters():
            weight.add_(1.0)
        assert tower_hash(other) == tower_hash(model[0])  # the projector is no part of it
        other.model.vision_tower.embeddings.patch_embedding.bias[3] += 1e-3
    assert tower_hash(other) != tower_hash(model[0])
    changed = FeatureCache(tmp_path, other, processor)
    assert changed.folder != cache.folder and changed.folder.parent == cache.folder.parent
    other.config.vision_post_layernorm = not other.config.vision_post_layernorm
    assert tower_hash(other) != changed.folder.name


def test_writing_is_whole_before_the_index_says_so(tmp_path, model, paths, monkeypatch):
    """A run that dies in the second batch leaves the first one usable."""
    cache, calls = FeatureCache(tmp_path, *model), []
    real = encode_images

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("omnivision.generation.encode_images", dies)
    with pytest.raises(KeyboardInterrupt):
        cache.fill(paths, batch_size=2)
    monkeypatch.undo()
    again = FeatureCache(tmp_path, *model)
    assert again.fill(paths) == 4
    check(again, model, paths)
