"""The feature cache: what it returns is what the tower gives, whatever happened to its files."""

from __future__ import annotations

import pickle
import shutil

import pytest
import torch
import train_world
from omnivision_train.data import Collator
from PIL import Image

from omnivision.data import features, room
from omnivision.data.features import FeatureCache, tower_hash
from omnivision.data.image import read_image
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
    cut(cache.records.data, left * cache.records.size + inside)
    fixed = FeatureCache(tmp_path, *model)
    check(fixed, model, [paths[5], *paths[:4]])  # another picture comes first into the gap
    check(FeatureCache(tmp_path, *model), model, paths)


@pytest.mark.parametrize("lost", [1, 20, 60])
def test_a_shorter_index_is_mended_for_good(tmp_path, model, paths, lost, monkeypatch):
    cache = FeatureCache(tmp_path, *model)
    cache.fill(paths[:4])
    cut(cache.records.index, cache.records.index.stat().st_size - lost)
    check(FeatureCache(tmp_path, *model), model, [paths[5], *paths[:5]])
    wanted = expected(model, paths)
    forbid(monkeypatch)  # the next process finds all of it
    assert torch.allclose(FeatureCache(tmp_path, *model).get(paths).float(), wanted.float(), atol=5e-3)


def test_a_run_that_died_between_record_and_index_line(tmp_path, model, paths):
    cache = FeatureCache(tmp_path, *model)
    cache.fill(paths[:2])
    with cache.records.data.open("ab") as data:
        data.write(b"\x01" * (cache.records.size + 17))
    check(FeatureCache(tmp_path, *model), model, paths)
    check(FeatureCache(tmp_path, *model), model, paths)


def test_a_flipped_bit_is_found_and_mended(tmp_path, model, paths, capsys):
    cache = FeatureCache(tmp_path, *model)
    cache.fill(paths[:3])
    data = bytearray(cache.records.data.read_bytes())
    data[cache.records.size + 11] ^= 4
    cache.records.data.write_bytes(data)
    assert [one is None for one in cache.kept(paths[:3])] == [False, True, False] and not cache.has(paths[1])
    assert "left out and made anew" in capsys.readouterr().err
    check(cache, model, paths[:3])
    assert all(one is not None for one in FeatureCache(tmp_path, *model).kept(paths[:3]))  # for good


def test_a_missing_picture_is_named(tmp_path, model, paths):
    with pytest.raises(DataError, match=r"image file does not exist \(.*none.png\)"):
        FeatureCache(tmp_path, *model).fill([*paths, str(tmp_path / "none.png")])


def test_two_caches_on_one_folder(tmp_path, model, paths):
    one, other = FeatureCache(tmp_path, *model), FeatureCache(tmp_path, *model)
    one.fill(paths[:3])
    assert other.fill(paths[:4]) == 1  # sees the three that the first one wrote
    check(one, model, paths)
    check(other, model, paths)
    assert len(one.records.index.read_text().splitlines()) == 6 and one.records.data.stat().st_size == 6 * one.records.size


def test_one_picture_under_two_names_is_one_record(tmp_path, model, paths):
    copy = tmp_path / "copy.png"
    copy.write_bytes(train_world.Path(paths[0]).read_bytes())
    cache = FeatureCache(tmp_path / "cache", *model)
    cache.fill([paths[0], str(copy), paths[1]])
    check(cache, model, [paths[0], str(copy), paths[1], paths[2]])
    check(FeatureCache(tmp_path / "cache", *model), model, [paths[1], str(copy), paths[2]])
    assert cache.records.data.stat().st_size == 3 * cache.records.size


def test_a_picture_that_changed_is_another_picture(tmp_path, model, paths):
    copy = tmp_path / "copy.png"
    copy.write_bytes(train_world.Path(paths[0]).read_bytes())
    FeatureCache(tmp_path / "cache", *model).fill([copy])
    Image.new("RGB", (54, 54), (200, 10, 10)).save(copy)
    check(FeatureCache(tmp_path / "cache", *model), model, [str(copy)])


def test_what_another_process_has_read_is_not_read_again(tmp_path, model, paths, monkeypatch):
    paths = [shutil.copy(path, tmp_path) for path in paths]
    keys = FeatureCache(tmp_path / "cache", *model).read_keys(paths)
    cache, read = FeatureCache(tmp_path / "cache", *model), []
    cache.know(pickle.loads(pickle.dumps(keys)))
    monkeypatch.setattr(features, "read_image", lambda path: read.append(path) or read_image(path))
    assert cache.read_keys(paths) == keys and not read
    Image.new("RGB", (64, 64), "teal").save(paths[0])
    assert cache.read_keys(paths)[paths[0]] != keys[paths[0]] and read == [paths[0]]


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
    known = {tower_hash(other)}
    for config, key, value in ((other.config, "vision_post_layernorm", not other.config.vision_post_layernorm), (other.config.vision_config, "hidden_act", "relu"),
                               (other.config.vision_config, "num_attention_heads", 1), (other.config.vision_config, "layer_norm_eps", 1e-3)):
        setattr(config, key, value)
        assert tower_hash(other) not in known, key
        known.add(tower_hash(other))


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


@pytest.mark.parametrize("at", range(0, 80, 9))
def test_a_damaged_index_never_gives_another_pictures_features(tmp_path, model, paths, at):
    cache = FeatureCache(tmp_path, *model)
    cache.fill(paths[:3])
    index = bytearray(cache.records.index.read_bytes())
    index[at] ^= 1
    cache.records.index.write_bytes(index)
    check(FeatureCache(tmp_path, *model), model, paths)
    check(FeatureCache(tmp_path, *model), model, paths)


def test_other_preprocessing_and_other_precision_have_records_of_their_own(tmp_path, world, model, paths):
    cache = FeatureCache(tmp_path, *model)
    cache.fill(paths[:2])
    other, processor = train_world.build(world)
    processor.image_processor.image_mean = [0.4, 0.5, 0.5]
    changed = FeatureCache(tmp_path, other, processor)
    assert not changed.has(paths[0])
    check(changed, (other, processor), paths[:2])
    rounded = FeatureCache(tmp_path, *model, precision="bf16")
    assert not rounded.has(paths[0])
    difference = (rounded.get(paths[:2]).float() - cache.get(paths[:2]).float()).abs().max()
    assert 0 < difference < 0.3  # values up to some 8 in 8 bits


def test_a_picture_that_changes_while_the_cache_is_open(tmp_path, model, paths):
    copy = tmp_path / "copy.png"
    copy.write_bytes(train_world.Path(paths[0]).read_bytes())
    cache = FeatureCache(tmp_path / "cache", *model)
    check(cache, model, [str(copy)])
    Image.new("RGB", (54, 54), (200, 10, 10)).save(copy)
    check(cache, model, [str(copy)])


def gib_of(cache, records):
    return (records * cache.records.size + 1) / 2**30


def test_a_full_cache_adds_nothing_and_says_so_once(tmp_path, model, paths, capsys):
    size = gib_of(FeatureCache(tmp_path / "none", *model), 4)
    cache = FeatureCache(tmp_path / "cache", *model, most_gib=size)
    assert cache.fill(paths, batch_size=2) == 4
    said = capsys.readouterr().err
    assert "is full" in said and "2 of 6 pictures are not in it" in said and cache.folder.name in said
    check(cache, model, paths)  # computed, not kept
    assert cache.fill(paths) == 0 and capsys.readouterr().err == ""
    assert cache.records.data.stat().st_size == 4 * cache.records.size and [one is None for one in cache.kept(paths)] == [False] * 4 + [True] * 2
    assert FeatureCache(tmp_path / "cache", *model).fill(paths) == 2  # it is allowed more


def test_all_towers_share_the_limit(tmp_path, world, model, paths):
    size = gib_of(FeatureCache(tmp_path / "none", *model), 4)
    FeatureCache(tmp_path / "cache", *model, most_gib=size).fill(paths[:3])
    other, processor = train_world.build(world)
    with torch.no_grad():
        other.model.vision_tower.embeddings.patch_embedding.bias[3] += 1e-3
    assert FeatureCache(tmp_path / "cache", other, processor, most_gib=size).fill(paths, batch_size=1) == 1


def test_a_disk_without_room_is_a_full_cache(tmp_path, model, paths, monkeypatch, capsys):
    monkeypatch.setattr(room, "SPARED", 2**60)
    cache = FeatureCache(tmp_path, *model)
    assert cache.fill(paths) == 0 and "the disk has no more room" in capsys.readouterr().err
    check(cache, model, paths)


def test_processes_take_their_shares_and_what_is_left_of_the_others(tmp_path, model, paths, monkeypatch):
    """Two processes in turns of a batch: each begins at another end, and no picture runs twice."""
    one, other, seen = FeatureCache(tmp_path, *model), FeatureCache(tmp_path, *model), []

    def between(made: int) -> None:
        seen.append(made)
        if len(seen) == 1:
            assert other.fill(paths[:4], batch_size=2, rank=1, ranks=2) == 2  # its own share: the first batch is there

    assert one.fill(paths, batch_size=2, rank=0, ranks=2, progress=between) == 4
    check(one, model, paths)
    assert len(one.records) == 6 and one.records.data.stat().st_size == 6 * one.records.size


def test_a_loaders_worker_that_is_started_anew_reads_and_gets_no_model(tmp_path, model, paths):
    cache = FeatureCache(tmp_path, *model)
    cache.fill(paths[:4])
    sent = pickle.dumps(Collator(model[1], cache))
    again = pickle.loads(sent).cache
    assert again._model is None and len(sent) < 100_000
    assert all(map(torch.equal, again.kept(paths[:4]), cache.kept(paths[:4]))) and again.kept(paths[4:]) == [None, None]
    assert again.records.add({"another": torch.zeros(cache.shape, dtype=torch.float16).numpy()}) == 1  # with a lock of its own


def test_each_process_begins_with_its_share_and_then_helps(tmp_path, model, paths, monkeypatch):
    begun, computed = [], FeatureCache._computed
    monkeypatch.setattr(FeatureCache, "_computed", lambda self, sources: begun.append(paths.index(sources[0]) // 2) or computed(self, sources))
    for rank in range(2):
        assert FeatureCache(tmp_path / str(rank), *model).fill(paths, batch_size=2, rank=rank, ranks=2) == 6  # the other does nothing
    assert begun == [0, 2, 1] + [1, 2, 0]
