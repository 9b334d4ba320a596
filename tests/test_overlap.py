"""What training shares with evaluation: near pictures are found cheaply and all the same, wherever an evaluation set holds them."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_formats import picture
from test_shards import shard

from omnivision.data.overlap import look_at, read_evaluation
from omnivision.data.signatures import NEAR_MEAN, NEAR_MOST, SIDE, Signatures
from omnivision.errors import DataError


def compared_level_by_level(found: np.ndarray, wanted: np.ndarray) -> int | None:
    """The definition."""
    apart = np.abs(found.astype(int) - wanted.astype(int))
    near = np.flatnonzero((apart.mean(1) <= NEAR_MEAN) & (apart.max(1) <= NEAR_MOST))
    return int(near[0]) if len(near) else None


@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([0, 1, 2, 3, 24, 25]), st.booleans())
def test_the_cheap_way_finds_what_a_comparison_of_all_levels_finds(seed, count, off, everywhere):
    """Signatures of a few pictures with noise around the limits, so that about half of them are near."""
    rng = np.random.default_rng(seed)
    bases = rng.integers(0, 256, (4, SIDE * SIDE))
    found = np.clip(bases[rng.integers(0, 4, count)] + rng.integers(-off, off + 1, (count, SIDE * SIDE)), 0, 255).astype(np.uint8)
    wanted = bases[0].copy()
    wanted[slice(None) if everywhere else slice(80)] += off
    wanted = np.clip(wanted, 0, 255).astype(np.uint8)
    assert Signatures(found).near(wanted) == compared_level_by_level(found, wanted)


def test_limits_are_exact():
    base = np.full(SIDE * SIDE, 100, np.uint8)
    assert Signatures([base]).near(base + 2) == 0 and Signatures([base]).near(base - 2) == 0
    one_more = base + 2
    one_more[0] += 1
    assert Signatures([base]).near(one_more) is None
    spot = base.copy()
    spot[5] += 24
    assert Signatures([base, spot]).near(spot + 0) == 0 and Signatures([base + 99, spot]).near(spot) == 1
    spot[5] += 1
    assert Signatures([base]).near(spot) is None and Signatures().near(base) is None


QUESTION = "What colour is the third chair?"
URI = "data:image/png;base64," + base64.b64encode(picture("blue")).decode()


def saved_set(folder):
    import datasets

    rows = datasets.Dataset.from_list([{"image": {"bytes": picture("blue"), "path": None}, "question": QUESTION}])
    datasets.DatasetDict({"test": rows, "dev": rows}).save_to_disk(folder / "set")
    return folder


HELD = {
    "a saved data set": lambda folder: saved_set(folder) / "set" / "test",
    "a folder with a saved data set of splits": saved_set,
    "a data URI": lambda folder: (folder / "rows.json").write_text(json.dumps([{"image": URI, "question": QUESTION}])) and folder,
    "a data URI in a message's part": lambda folder: (folder / "rows.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": URI}}]}], "question": QUESTION})) and folder,
    "a shard": lambda folder: shard(folder / "0.tar", [("1.png", picture("blue")), ("1.json", json.dumps({"question": QUESTION}).encode())]),
    "hub": lambda folder: f"hub:{(folder / 'hub').mkdir() or saved_parquet(folder / 'hub')}:test",
}  # fmt: skip


def saved_parquet(folder):
    import datasets

    datasets.Dataset.from_list([{"image": {"bytes": picture("blue"), "path": None}, "question": QUESTION}]).to_parquet(folder / "test-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("kind", HELD)
def test_pictures_and_questions_are_found_wherever_a_set_holds_them(tmp_path, kind):
    found = read_evaluation([str(HELD[kind](tmp_path))])
    (tmp_path / "a.png").write_bytes(picture("blue"))
    (tmp_path / "b.png").write_bytes(picture("red"))
    assert found.match(*look_at(tmp_path / "a.png")[:2]) and found.match(*look_at(tmp_path / "b.png")[:2]) is None
    assert found.asks(QUESTION.upper())


def test_broken_pictures_and_files_beside_are_passed_over(tmp_path):
    (tmp_path / "a.png").write_bytes(picture("blue"))
    (tmp_path / "broken.png").write_bytes(b"")
    (tmp_path / "rows.json").write_text(json.dumps({"image": "data:image/png;base64,%%"}))
    (tmp_path / "notes.json").write_text("{")
    found = read_evaluation([str(tmp_path)])
    assert found.names == [str(tmp_path / "a.png")] and found.unread == [str(tmp_path / "notes.json"), str(tmp_path / "rows.json")]
    assert found.unreadable == [f"a data URI of {tmp_path / 'rows.json'}:1", str(tmp_path / "broken.png")]
    with pytest.raises(DataError, match="no evaluation set"):
        read_evaluation([str(tmp_path / "none")])


def test_pictures_behind_links_are_found_once_and_a_ring_ends(tmp_path):
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "a.png").write_bytes(picture("blue"))
    (tmp_path / "ev" / "pope").mkdir(parents=True)
    (tmp_path / "ev" / "pope" / "images").symlink_to("../../coco")
    (tmp_path / "ev" / "pope" / "same").symlink_to("../../coco")
    (tmp_path / "ev" / "pope" / "ring").symlink_to("..")
    assert read_evaluation([str(tmp_path / "ev")]).names == [str(tmp_path / "ev" / "pope" / "images" / "a.png")]
    both = read_evaluation([str(tmp_path / "ev"), str(tmp_path / "coco")])
    assert both.names == [str(tmp_path / "ev" / "pope" / "images" / "a.png")]


@pytest.mark.parametrize("nothing", ["empty", "rows.csv", "short.json", "broken.png"])
def test_each_path_has_to_hold_something(tmp_path, nothing):
    (tmp_path / "a.png").write_bytes(picture("blue"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.csv").write_text(f"image,question\na.png,{QUESTION}\n")
    (tmp_path / "short.json").write_text(json.dumps([{"question": "What?"}]))
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(DataError, match=f"neither pictures nor questions.*{nothing}"):
        read_evaluation([str(tmp_path / "a.png"), str(tmp_path / nothing)])


def test_two_paths_may_ask_the_same(tmp_path):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps([{"question": QUESTION}]))
    assert read_evaluation([str(tmp_path / "a.json"), str(tmp_path / "b.json")]).asks(QUESTION)


@pytest.mark.parametrize("name", ["a", "a.jfif", "a.dat"])
def test_a_file_named_itself_is_tried_by_its_content(tmp_path, name):
    (tmp_path / name).write_bytes(picture("blue", "JPEG"))
    assert read_evaluation([str(tmp_path / name)]).names == [str(tmp_path / name)]
    (tmp_path / name).write_text(json.dumps({"question": QUESTION}) + "\n")
    assert read_evaluation([str(tmp_path / name)]).asks(QUESTION)


def test_a_folders_files_go_by_their_suffixes(tmp_path):
    (tmp_path / "a.jfif").write_bytes(picture("blue", "JPEG"))
    (tmp_path / "b").write_bytes(picture("red"))
    (tmp_path / "rows.ndjson").write_text(json.dumps({"question": QUESTION}) + "\n")
    found = read_evaluation([str(tmp_path)])
    assert found.names == [str(tmp_path / "a.jfif")] and found.asks(QUESTION)


NAMED = {  # how 50 rows name pictures of which the first lies there -> what is told of the other 49
    "below their ids": (lambda n: {"id": str(n), "image": f"{n}/image.png"}, lambda n: f"{n}/image.png"),
    "from a folder's root": (lambda n: {"image": f"./images/test/{n}/image.png"}, lambda n: f"./images/test/{n}/image.png"),
    "from the disk's root": (lambda n: {"image": f"/test/{n}/image.png"}, lambda n: f"/test/{n}/image.png"),
    "by URL": (lambda n: {"image": f"https://a.org/test/{n}/image.png"}, lambda n: f"https://a.org/test/{n}/image.png"),
    "bare, in folders of their ids": (lambda n: {"id": n, "image": "image.png"}, lambda n: f"{n}/image.png"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMED)
def test_missing_pictures_are_told_although_another_has_their_name(tmp_path, kind):
    (tmp_path / "images" / "test" / "1").mkdir(parents=True)
    (tmp_path / "images" / "test" / "1" / "image.png").write_bytes(picture("blue"))
    row, told = NAMED[kind]
    (tmp_path / "rows.json").write_text(json.dumps([row(number) for number in range(1, 51)]))
    found = read_evaluation([str(tmp_path)])
    assert found.missing == {told(number) for number in range(2, 51)} and len(found.names) == 1


def test_a_bare_name_is_found_where_only_one_picture_has_it(tmp_path):
    for number, colour in enumerate(("blue", "red")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "same.png").write_bytes(picture(colour))
    (tmp_path / "0" / "one.png").write_bytes(picture("green"))
    (tmp_path / "rows.json").write_text(json.dumps([{"image": "same.png"}, {"image": "one.png"}, {"image": "none.png"}, {"image": "1/one.png"}]))
    assert read_evaluation([str(tmp_path)]).missing == {"same.png", "none.png", "1/one.png"}


def test_a_picture_that_a_folder_holds_and_rows_name_or_carry_counts_once(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture("blue"))
    (tmp_path / "rows.json").write_text(json.dumps([{"image": "images/a.png"}, {"image": "./images/../images/a.png"}, {"image": URI}, {"image": URI}]))
    found = read_evaluation([str(tmp_path)])
    assert len(found.names) == 1 and not found.missing and found.match(*look_at(tmp_path / "images" / "a.png")[:2])


def test_what_is_not_read_is_told(tmp_path):
    (tmp_path / "a.png").write_bytes(picture("blue"))
    for name in ("scan.tif", "scan.gif", "table.csv", "table.TSV", "table.xlsx", "more.zip"):
        (tmp_path / name).write_bytes(b"index,question")
    (tmp_path / "numbers.json").write_text(json.dumps({"scores": [1, 2], "model": "x"}))
    (tmp_path / "LICENSE").write_text("")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": QUESTION, "image": "none.tiff"}) + '\n{"question": NaN}\n{"question\n')
    found = read_evaluation([str(tmp_path)])
    assert found.unread == [str(tmp_path / name) for name in ("more.zip", "numbers.json", "table.TSV", "table.csv", "table.xlsx")]
    assert found.unreadable == [str(tmp_path / "scan.gif"), str(tmp_path / "scan.tif")] and found.missing == {"none.tiff"}
    assert found.broken == [f"{tmp_path / 'rows.jsonl'}:2", f"{tmp_path / 'rows.jsonl'}:3"] and found.asks(QUESTION)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("held", [{"info": {"year": 2017}, "version": 2, "questions": [{"question": QUESTION, "image": "none.png"}]},
                                  {"data": [{"id": 1, "qas": [{"question": QUESTION}], "image": "none.png"}]}])
def test_questions_in_lists_of_one_object_are_read(tmp_path, held, indent):
    (tmp_path / "vqa.json").write_text(json.dumps(held, indent=indent))
    found = read_evaluation([str(tmp_path)])
    assert found.asks(QUESTION) and len(found.questions) == 1 and found.missing == {"none.png"} and not found.unread


def test_answers_in_turns_are_no_questions(tmp_path):
    turns = [{"role": "assistant", "text": "It is a red chair by the door"}]
    (tmp_path / "rows.json").write_text(json.dumps([{"turns": turns}, {"question": QUESTION, "choices": [{"text": "A chair of another colour"}]}]))
    assert len(read_evaluation([str(tmp_path)]).questions) == 1


def test_a_saved_data_set_tells_nothing_unread(tmp_path):
    assert not any(read_evaluation([str(saved_set(tmp_path))]).told().values())


@pytest.mark.parametrize("text", [True, False])
def test_a_file_named_itself_is_not_told_for_what_it_is_not(tmp_path, text):
    (tmp_path / "a.png").write_bytes(json.dumps({"question": QUESTION}).encode() if text else picture("blue"))
    assert not any(read_evaluation([str(tmp_path / "a.png")]).told().values())
