"""Tables: pictures as bytes and as paths, in files, saved folders and the hub's data sets; their bytes are read one picture at a time."""

from __future__ import annotations

import os
import tracemalloc

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_formats import ANSWER, MESSAGES, USER, colours, picture

from omnivision.data import tables
from omnivision.data.rows import load_rows, read_rows
from omnivision.data.sources import source_hash
from omnivision.errors import DataError

QUESTION = {"question": "What?", "answer": "A cat"}


def test_parquet_with_pictures_as_bytes_and_as_paths(tmp_path):
    rows = [{"images": [{"bytes": picture("red"), "path": None}, {"bytes": picture("blue"), "path": None}], "messages": MESSAGES},
            {"images": [{"bytes": None, "path": "a.png"}], "messages": MESSAGES}, {"images": [], "messages": MESSAGES}]
    made = datasets.Dataset.from_list(rows)
    made.to_parquet(tmp_path / "rows.parquet")
    made.save_to_disk(tmp_path / "saved")
    for source in ("rows.parquet", "saved"):
        packed, named, text = read_rows(tmp_path / source)
        assert colours(packed) == [(255, 0, 0), (0, 0, 255)] and named.images == ("a.png",) and text.images == ()
        assert packed.turns == (USER, ANSWER) and packed.source == f"{tmp_path / source}[0]"
    image = datasets.Dataset.from_list([{"image": {"bytes": picture("blue"), "path": None}, "question": "What?", "answer": "A cat"}])
    image.cast_column("image", datasets.Image()).to_parquet(tmp_path / "image.parquet")
    (row,) = read_rows(tmp_path / "image.parquet")
    assert colours(row) == [(0, 0, 255)]


def test_a_data_set_of_several_splits_or_a_broken_one_is_named(tmp_path):
    datasets.DatasetDict({"train": datasets.Dataset.from_list([{"question": "a", "answer": "b"}])}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="has the splits train"):
        read_rows(tmp_path / "saved")
    assert len(read_rows(tmp_path / "saved" / "train")) == 1
    (tmp_path / "broken.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(DataError, match="table cannot be read.*broken.parquet"):
        read_rows(tmp_path / "broken.parquet")


def test_a_parquet_file_that_was_replaced_is_read_anew_whatever_its_time(tmp_path):
    """`datasets` keeps a copy by path and time of change, which archives and build tools set back."""
    file = tmp_path / "rows.parquet"
    for answer in ("old", "new"):
        pq.write_table(pa.table({"question": ["What?"], "answer": [answer]}), file)
        os.utime(file, (1_000_000_000, 1_000_000_000))
        tables.open_table.cache_clear(), tables._columns.cache_clear()  # as another process
        assert [row.turns[1]["text"] for row in read_rows(file)] == [answer]


def test_a_parquet_file_that_datasets_cannot_take_says_why(tmp_path):
    pq.write_table(pa.table({"question": pa.array([], pa.string()), "answer": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="holds no rows.*empty.parquet"):
        read_rows(tmp_path / "empty.parquet")
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, names=["question", "answer", "answer"]), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="several columns of the name answer .*twice.parquet.*Rename or drop"):
        read_rows(tmp_path / "twice.parquet")


def test_the_cause_is_told_where_datasets_says_that_there_was_an_error(tmp_path, monkeypatch):
    def load(source, **settings):
        try:
            raise ValueError("the page is torn")
        except ValueError as error:
            raise datasets.exceptions.DatasetGenerationError("An error occurred while generating the dataset") from error

    pq.write_table(pa.table({"question": ["What?"], "answer": ["A cat"]}), tmp_path / "rows.parquet")
    monkeypatch.setattr(datasets.Dataset, "from_parquet", load)
    with pytest.raises(DataError, match="table cannot be read: the page is torn"):
        read_rows(tmp_path / "rows.parquet")


KINDS = {  # a column of pictures
    "bytes": (pa.array([picture("red"), None, picture("blue")]), "image"),
    "large bytes": (pa.array([picture("red"), None, picture("blue")], pa.large_binary()), "image"),
    "structs": (pa.array([{"bytes": picture("red"), "path": "x.png"}, None, {"bytes": picture("blue"), "path": None}]), "image"),
    "lists of bytes": (pa.array([[picture("red")], None, [picture("blue")]]), "images"),
    "lists of structs": (pa.array([[{"bytes": picture("red"), "path": None}], None, [{"bytes": picture("blue"), "path": "x.png"}]]), "images"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_in_any_column(tmp_path, kind):
    column, name = KINDS[kind]
    table = pa.table({name: column, "question": ["a", "b", "c"], "answer": ["x", "y", "z"], "note": pa.array([None, "n", None])})
    datasets.Dataset(table).to_parquet(tmp_path / "rows.parquet")
    one, text, other = read_rows(tmp_path / "rows.parquet")
    assert [colours(row) for row in (one, text, other)] == [[(255, 0, 0)], [], [(0, 0, 255)]]
    assert [row.turns[1]["text"] for row in (one, text, other)] == ["x", "y", "z"]


@pytest.mark.parametrize("second", ["b.png", picture("blue")], ids=["a path", "bytes"])
def test_a_second_picture_beside_bytes_is_not_lost(tmp_path, second):
    table = pa.table({"image": [picture(), picture()], "image_after": [None, second], "question": ["What?"] * 2, "answer": ["x"] * 2})
    pq.write_table(table, tmp_path / "rows.parquet")
    loaded = load_rows(tmp_path / "rows.parquet")
    assert [row.source for row in loaded.rows] == [f"{tmp_path / 'rows.parquet'}[0]"] and "'image_after' names another picture" in loaded.bad[0].what


@pytest.mark.parametrize("image", [{"bytes": picture(), "path": "b.png"}, {"bytes": picture(), "path": None}, picture()], ids=["and a path", "without a path", "bare"])
def test_bytes_in_a_messages_part_are_refused(tmp_path, image):
    parts = [{"type": "image", "text": None, "image": image}, {"type": "text", "text": "What is it?", "image": None}]
    pq.write_table(pa.table({"messages": [[{"role": "user", "content": parts}]]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="an image is bytes inside another field") as caught:
        read_rows(tmp_path / "rows.parquet")
    assert "PNG" not in str(caught.value)


def test_classes_are_learnt_by_their_names(tmp_path):
    animal = datasets.ClassLabel(names=["cat", "dog"])
    features = {"question": datasets.Value("string"), "answer": animal}
    made = datasets.Dataset.from_dict({"question": ["a", "b", "c", "d"], "answer": [1, 0, None, -1], "kind": [0, -1, 0, 0]}, features=datasets.Features({**features, "kind": animal}))
    made.to_parquet(tmp_path / "rows.parquet")
    made.save_to_disk(tmp_path / "saved")
    for source in ("rows.parquet", "saved"):
        loaded = load_rows(tmp_path / source)
        assert [row.turns[1]["text"] for row in loaded.rows] == ["dog", "cat"] and len(loaded.bad) == 2
    nested = {"conversations": datasets.List({"from": datasets.Value("string"), "value": animal}), "note": datasets.Value("int64")}
    turns = [{"from": "human", "value": 0}, {"from": "gpt", "value": 1}]
    datasets.Dataset.from_list([{"conversations": turns, "note": 1}], features=datasets.Features(nested)).to_parquet(tmp_path / "nested.parquet")
    assert [turn["text"] for turn in read_rows(tmp_path / "nested.parquet")[0].turns] == ["cat", "dog"]
    several = datasets.Features({**features, "answer": datasets.List(animal)})
    datasets.Dataset.from_dict({"question": ["a"], "answer": [[1]]}, features=several).to_parquet(tmp_path / "list.parquet")
    assert read_rows(tmp_path / "list.parquet")[0].turns[1]["text"] == "dog"


def test_several_pictures_and_none_keep_their_places(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "AT_ONCE", 2)
    red, lime, named = {"bytes": picture("red"), "path": None}, {"bytes": picture("lime"), "path": None}, {"bytes": None, "path": "a.png"}
    images = [[red, lime], [], [named], [lime], [lime, red]]
    datasets.Dataset.from_list([{"images": one, **QUESTION} for one in images]).to_parquet(tmp_path / "rows.parquet")
    rows = read_rows(tmp_path / "rows.parquet")
    seen = {str(red): (255, 0, 0), str(lime): (0, 255, 0)}
    assert [colours(row) if one != [named] else list(row.images) for row, one in zip(rows, images, strict=True)] == [
        [seen[str(picture)] for picture in one] if one != [named] else ["a.png"] for one in images]
    assert [row.source for row in rows] == [f"{tmp_path / 'rows.parquet'}[{number}]" for number in range(5)]


def test_a_text_that_is_no_utf8_costs_its_row_alone(tmp_path):
    texts = pa.Array.from_buffers(pa.string(), 4, pa.array([b"one", b"tw\xff", b"three", b"four"]).buffers())
    table = datasets.Dataset(pa.table({"question": texts, "answer": ["a"] * 4}))
    table.save_to_disk(tmp_path / "saved")
    loaded = load_rows(tmp_path / "saved")
    assert [row.turns[0]["text"] for row in loaded.rows] == ["one", "three", "four"] and loaded.bad[0].where == f"{tmp_path / 'saved'}[1]"


def test_bytes_of_pictures_are_not_read_with_their_rows(tmp_path):
    size, count = 1_000_000, 30
    datasets.Dataset.from_list([{"images": [{"bytes": bytes(size), "path": None}], **QUESTION} for _ in range(count)]).save_to_disk(tmp_path / "saved")
    load_rows(tmp_path / "saved", limit=1)  # imports
    tracemalloc.start()
    rows = read_rows(tmp_path / "saved")
    listed = tracemalloc.get_traced_memory()[1]
    assert len(rows[5].images[0].read()) == size
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert listed < size < read < 3 * size


def test_a_data_set_by_its_name(tmp_path):
    """`datasets` takes a folder for a name of the hub's; nothing is fetched."""
    for split, answer in (("train", "A cat"), ("test", "A dog")):
        made = datasets.Dataset.from_list([{"image": {"bytes": picture("blue"), "path": None}, "question": "What?", "answer": answer}])
        made.to_parquet(tmp_path / "set" / f"{split}-00000-of-00001.parquet")
    name = f"hub:{tmp_path / 'set'}"
    (row,) = read_rows(f"{name}:test")
    assert row.turns[1]["text"] == "A dog" and colours(row) == [(0, 0, 255)] and row.source == f"{name}:test[0]"
    with pytest.raises(DataError, match="has the splits train, test|has the splits test, train"):
        read_rows(name)
    assert source_hash(f"{name}:test") == source_hash(f"{name}:test") != source_hash(f"{name}:train")
    with pytest.raises(DataError, match="table cannot be read.*hub:.*none"):
        read_rows(f"hub:{tmp_path / 'none'}:train")
