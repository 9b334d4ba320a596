"""A feature cache that holds a part of a run's pictures, or a damaged one: the run trains as with all of them."""

from __future__ import annotations

import shutil
from functools import cache

import pytest
import torch
import train_world
from omnivision_train import throughput
from omnivision_train import meters
from omnivision_train.run_data import open_squashed

from omnivision.errors import ConfigError

RECORD = 2 * 81 * 32  # bytes of the tests' tower


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """final/ of a stage with all its features in a cache."""
    @cache
    def find(stage):
        out = tmp_path_factory.mktemp(f"whole-{stage}")
        return train_world.train(train_world.settings(world, out, stage, feature_cache=str(out / "features")), stage)

    return find


def same(final, expected):
    assert train_world.losses(final) == pytest.approx(train_world.losses(expected), abs=1e-4)
    found, weights = train_world.weights(final), train_world.weights(expected)
    assert all(torch.allclose(found[name], weights[name], atol=5e-3) for name in weights)


@pytest.mark.parametrize("stage, records, changes", [("sft", 5, {}), ("sft", 0.5, {"workers": 1}), ("dpo", 7, {"share": "none"}),
                                                     pytest.param("functions", 3, {}, marks=pytest.mark.slow)])
def test_a_part_of_the_pictures_in_the_cache_trains_the_same(world, whole, tmp_path, monkeypatch, capsys, stage, records, changes):
    counted, of = [], throughput.Flops.of
    monkeypatch.setattr(throughput.Flops, "of", lambda self, **seen: counted.append((seen["pictures"], seen.get("uncached", 0))) or of(self, **seen))
    monkeypatch.setattr(meters, "device_peak", lambda: 1e6)
    monkeypatch.setattr("omnivision.data.features.FeatureCache.fill.__defaults__", (1, None, 0, 1))
    config = train_world.settings(world, tmp_path, stage, feature_cache=str(tmp_path / "features"), cache_gib=(records * RECORD + 1) / 2**30, **changes)
    same(train_world.train(config, stage), whole(stage))
    assert f"{12 - int(records) if stage != 'sft' else 8 - int(records)} of" in (said := capsys.readouterr().err) and said.count("is full") == 1
    pictures, uncached = (sum(column) for column in zip(*counted, strict=True))
    assert 0 < uncached <= pictures and (uncached < pictures or not int(records))


def test_a_record_that_is_damaged_meanwhile_is_made_in_the_step(world, whole, tmp_path, capsys):
    shutil.copytree(whole("sft").parent.parent / "features", tmp_path / "features")
    (data,) = (tmp_path / "features").glob("*/features.bin")
    raw = bytearray(data.read_bytes())
    for start in range(0, len(raw), RECORD):
        raw[start + 7] ^= 1
    data.write_bytes(raw)
    capsys.readouterr()
    same(train_world.train(train_world.settings(world, tmp_path / "again", "sft", feature_cache=str(tmp_path / "features")), "sft"), whole("sft"))
    assert capsys.readouterr().err.count("left out and made anew") == 1


def test_the_limit_holds_for_squashed_pictures_too(world, tmp_path):
    config = train_world.settings(world, tmp_path, "align", picture_cache=str(tmp_path), cache_gib=3.0)
    assert open_squashed(config, train_world.build(world)[1]).room.most_gib == 3.0


def test_pictures_that_are_resized_otherwise_are_not_kept(world, tmp_path):
    processor = train_world.build(world)[1]
    processor.image_processor.resample = 2
    with pytest.raises(ConfigError, match="resizes by filter 2, the cache by 3"):
        open_squashed(train_world.settings(world, tmp_path, "align", picture_cache=str(tmp_path)), processor)
    assert open_squashed(train_world.settings(world, tmp_path, "align"), processor) is None


def test_zero_three_wants_all_features_or_none(world, tmp_path):
    config = train_world.settings(world, tmp_path, "sft", zero_stage=3, feature_cache=str(tmp_path / "features"), cache_gib=RECORD / 2**30)
    with pytest.raises(ConfigError, match="do not fit into the cache, and ZeRO-3 needs all of them.*cache_gib"):
        train_world.train(config, "sft")
