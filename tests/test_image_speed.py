"""The picture benchmark: equal pixels where they are claimed, seeded photos, honest ratios."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from omnivision.data import picture_speed
from omnivision.data.picture_speed import ARMS, EQUAL, arms, difference, make_photos, ratio, table, time_arms, time_rows, two_passes


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), 4)


def test_photos_are_seeded_and_of_the_size_named(file, tmp_path):
    again = make_photos(tmp_path, 4)
    for number in range(4):
        assert (file.parent / f"{number}.jpg").read_bytes() == (again.parent / f"{number}.jpg").read_bytes()
        assert Image.open(file.parent / f"{number}.jpg").size == (640, 480)
    assert len({(file.parent / f"{number}.jpg").read_bytes() for number in range(4)}) == 4


def test_arms_that_claim_equality_are_equal(file, tmp_path):
    found = arms(file, tmp_path)
    for arm in EQUAL:
        assert difference(found[arm](range(4)), found["plain"](range(4))) == 0
    pixels = [next(found[arm](range(1))) for arm in ARMS]
    assert {tuple(one.shape) for one in pixels} == {(1, 3, 384, 384)}
    assert len(list(tmp_path.rglob("*/*/*"))) == 4  # records: kept had something to find


def test_a_difference_is_seen(file, tmp_path):
    found = arms(file, tmp_path)
    assert difference(found["ours"](range(1)), found["plain"](range(1, 2))) > 10


def test_times_of_one_process(file, tmp_path):
    clocks = time_arms(file, tmp_path, 4, 2, 1)
    assert set(clocks) == {"wall", "cpu"}
    for speeds in clocks.values():
        assert set(speeds) == set(ARMS) and all(len(found) == 2 and min(found) > 0 for found in speeds.values())
    assert set(time_rows(file, 1)) == {"plain", "ours"}


def test_ratios():
    assert ratio([2, 4, 6], [1, 2, 3]) == (2, 2, 2)
    middle, low, high = ratio([1, 2, 3], [1, 1, 1])
    assert middle == 2 and low == 1 and high == 3
    assert two_passes({"cached": [100], "kept": [300]}) == [150]  # a hundredth and a three-hundredth of a second


def test_the_table_names_every_arm():
    one = {arm: {"images": 100.0, "ratio": (1.5, 1.4, 1.6), "cpu_ms": 9.0, "cpu_ratio": (1.7, 1.6, 1.8)} for arm in (*ARMS, "cached + kept")}
    text = table({"photos": 4, "bytes": 80_000, "rows": {"plain": 10.0, "ours": 20.0}, "levels": dict.fromkeys(ARMS[1:], 0.0),
                  "1 process": one, "2 processes": one})
    assert all(text.count(arm) >= 2 for arm in ARMS) and "1.40 - 1.60" in text and "1.60 - 1.80" in text


def test_reduced_decoding_saves_time_and_changes_pixels(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    monkeypatch.setattr(picture_speed, "sample_photos", lambda: [Image.fromarray(noise)])
    result = picture_speed.reduced_differences((2,))[2]
    assert result["largest"] > 0 and result["mean"] > 0 and result["reduced_ms"] < result["whole_ms"]


@pytest.mark.slow
def test_the_command(capsys):
    picture_speed.main(["--photos", "8", "--rounds", "2", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert set(result["2 processes"]) == {*ARMS, "cached + kept"}
