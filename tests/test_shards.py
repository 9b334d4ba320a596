"""Tar shards: which of their members are a row's pictures and in which order; what is damaged is refused."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from test_formats import colours, picture

from omnivision.data.rows import load_rows
from omnivision.errors import DataError


SPOKEN = {"conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat"}]}


def shard(path, members):
    with tarfile.open(path, "w") as file:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            if data is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            entry.size = len(data or b"")
            file.addfile(entry, io.BytesIO(data or b""))
    return path


def test_tar_shards(tmp_path):
    llava = json.dumps({"id": "1", "image": "train/1.png", **SPOKEN}).encode()
    file = shard(tmp_path / "0.tar", [
        ("a/1.png", picture("red")), ("a/1.json", llava), ("a/2.txt", b"A blue square.\n"), ("a/2.jpg", picture("blue", "JPEG")), ("a/2.cls", b"7"),
        ("3.json", b"{broken"), ("3.png", picture()), ("4.png", None), ("4.txt", b"x"), ("5.txt", b"alone"), ("6.png", picture("lime")), ("6.txt", b"Green.")])
    loaded = load_rows(file)
    assert [row.id for row in loaded.rows] == ["1", "a/2", "6"] and [colours(row)[0] for row in loaded.rows] == [(255, 0, 0), (0, 0, 254), (0, 255, 0)]
    assert [turn["text"] for row in loaded.rows[:2] for turn in row.turns] == ["What is it?", "A cat", "Describe the image.", "A blue square."]
    said = [str(error) for error in loaded.bad]
    assert len(said) == 3 and "0.tar::3.json" in said[0] and "a link or a device" in said[1] and "a caption and no image" in said[2]


def test_a_shard_that_is_another_one_now_gives_no_pictures(tmp_path):
    """Its members may lie at the same places in another order: the rows would train each other's pictures."""
    members = [(f"{number}{suffix}", data) for number, colour in enumerate(("red", "lime")) for suffix, data in ((".bmp.png", picture(colour)), (".txt", colour.encode()))]
    rows = load_rows(shard(tmp_path / "0.tar", members)).rows
    assert [colours(row)[0] for row in rows] == [(255, 0, 0), (0, 255, 0)]
    shard(tmp_path / "new.tar", [*members[2:], *members[:2]]).replace(tmp_path / "0.tar")
    with pytest.raises(DataError, match="shard has changed since its rows were read"):
        colours(rows[0])


def test_a_broken_shard_is_refused_whole(tmp_path):
    file = shard(tmp_path / "0.tar", [("1.png", picture()), ("1.txt", b"One."), ("2.png", picture()), ("2.txt", b"Two.")])
    file.write_bytes(file.read_bytes()[:2700])
    with pytest.raises(DataError, match="shard is broken.*0.tar::2.*Copy the shard again"):
        load_rows(file)
    (row,) = load_rows(shard(tmp_path / "1.tar", [("1.png", picture()), ("1.txt", b"One.")])).rows
    shard(tmp_path / "1.tar", [])
    (tmp_path / "1.tar").write_bytes(b"")
    with pytest.raises(DataError, match="shard has changed.*1.tar::1.png"):
        row.images[0].read()


@pytest.mark.parametrize("damage", ["a header", "cut at a member's edge", "cut inside a header", "two shards in one"])
def test_a_shard_that_tarfile_would_read_in_part_is_refused(tmp_path, damage):
    file = shard(tmp_path / "0.tar", [(f"{number}.{suffix}", data) for number in range(6) for suffix, data in (("png", picture()), ("txt", b"A thing."))])
    assert len(load_rows(file).rows) == 6
    data = bytearray(file.read_bytes())
    if damage == "a header":
        data[4 * 1024 + 20] ^= 1
    elif damage == "two shards in one":
        data = data + data
    else:
        data = data[: 4 * 1024 + (100 if "inside" in damage else 0)]
    file.write_bytes(data)
    with pytest.raises(DataError, match="shard is broken"):
        load_rows(file)


MEMBERS = {  # names in the shard, all of other colours; names in the JSON -> names of the pictures in order, or what is said
    "a plain one": (["1.png"], [], ["1.png"]),
    "a plain one under its old name": (["1.png"], ["train/x.png"], ["1.png"]),
    "a mask beside": (["1.png", "1.seg.png"], [], ["1.png"]),
    "a mask in front": (["1.depth.png", "1.png"], ["train/x.png"], ["1.png"]),
    "a mask that is named": (["1.png", "1.seg.png"], ["1.seg.png"], ["1.seg.png"]),
    "one that is not plain": (["1.image.png"], [], ["1.image.png"]),
    "numbered, out of order": (["1.1.png", "1.0.png", "1.10.png"], [], ["1.0.png", "1.1.png", "1.10.png"]),
    "numbered, under old names": (["1.1.png", "1.0.png"], ["train/b.png", "train/a.png"], ["1.0.png", "1.1.png"]),
    "named in another order": (["1.a.png", "1.b.png"], ["x/1.b.png", "x/1.a.png"], ["1.b.png", "1.a.png"]),
    "named by suffix": (["1.0.png", "1.1.png"], ["1.png", "0.png"], ["1.1.png", "1.0.png"]),
    "several that are not plain": (["1.a.png", "1.b.png"], [], "the shard has 1.a.png, 1.b.png: name the row's own"),
    "names that do not fit": (["1.a.png", "1.b.png"], ["x.png", "y.png"], "its JSON names x.png, y.png, and the shard has 1.a.png, 1.b.png"),
    "fewer than are named": (["1.png"], ["x.png", "y.png"], "its JSON names x.png, y.png, and the shard has 1.png"),
    "more than are named": (["1.0.png", "1.1.png"], ["x.png"], "its JSON names x.png, and"),
    "one name twice": (["1.0.png", "1.2.png"], ["0.png", "0.png"], "its JSON names 0.png, 0.png"),
    "two members of one name": (["1.png", "1.png"], [], "two of its members have one name"),
}  # fmt: skip
COLOURS = ("red", "lime", "blue")
SEEN = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@pytest.mark.parametrize("case", MEMBERS)
def test_which_members_are_the_rows_pictures(tmp_path, case):
    members, names, expected = MEMBERS[case]
    row = {"images": names, "messages": [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A cat"}]}
    file = shard(tmp_path / "0.tar", [("0.txt", b"A thing."), ("0.png", picture()), *((name, picture(colour)) for name, colour in zip(members, COLOURS)),
                                      ("1.json", json.dumps(row).encode())])
    loaded = load_rows(file)
    if isinstance(expected, str):
        (error,) = loaded.bad
        assert expected in error.what and error.where.startswith(f"{file}::1")
    else:
        assert colours(loaded.rows[1]) == [SEEN[members.index(name)] for name in expected]


ANSWER = {"role": "assistant", "content": "A cat"}
PARTS = {  # parts of a message about the red 1.0.png and the lime 1.1.png -> colours of the row's pictures, or what is said
    "two names": ([{"type": "image", "path": "x/1.1.png"}, {"type": "image", "image": {"path": "1.0.png"}}], ["lime", "red"]),
    "OpenAI's": ([{"type": "image_url", "image_url": {"url": "1.1.png"}}, {"type": "input_image", "image_url": "1.0.png"}], ["lime", "red"]),
    "suffixes": ([{"type": "image", "url": "1.png"}, {"type": "image", "image": "0.png"}], ["lime", "red"]),
    "old names": ([{"type": "image", "path": "train/b.png"}, {"type": "image", "path": "train/a.png"}], ["red", "lime"]),
    "no names": ([{"type": "image"}, {"type": "image"}], ["red", "lime"]),
    "one of the two": ([{"type": "image", "path": "1.1.png"}], ["lime"]),
    "a path out of the shard": ([{"type": "image", "path": "../../etc/1.1.png"}], ["lime"]),
    "a name and none": ([{"type": "image", "path": "1.1.png"}, {"type": "image"}], "some image parts name a picture and some do not"),
    "one that is not there": ([{"type": "image", "path": "/etc/passwd"}], "its JSON names /etc/passwd, and the shard has 1.0.png, 1.1.png"),
    "another record's": ([{"type": "image", "path": "a.png"}, {"type": "image", "path": "1.1.png"}], "its JSON names a.png, which is another record's"),
    "a later record's": ([{"type": "image", "path": "./z.png"}], "its JSON names ./z.png, which is another record's"),
    "a picture in the JSON": ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}], "its JSON holds a picture, and the shard has 1.0.png, 1.1.png"),
    "no mapping": (["What", 3], "3 stands where a mapping is needed"),
    "no address": ([{"type": "image_url"}], "an image is None, not a path"),
}  # fmt: skip


@pytest.mark.parametrize("key", ["messages", "prompt"])
@pytest.mark.parametrize("case", PARTS)
def test_messages_name_the_shards_pictures(tmp_path, case, key):
    parts, expected = PARTS[case]
    asked = [{"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}]
    row = {"messages": [*asked, ANSWER]} if key == "messages" else {"prompt": asked, "chosen": [ANSWER], "rejected": "A dog"}
    file = shard(tmp_path / "0.tar", [("a.txt", b"A thing."), ("a.png", picture()), ("1.json", json.dumps(row).encode()), ("1.0.png", picture("red")),
                                      ("1.1.png", picture("lime")), ("z.png", picture()), ("z.txt", b"A thing.")])
    loaded = load_rows(file)
    if isinstance(expected, str):
        (error,) = loaded.bad
        assert expected in error.what and error.where == f"{file}::1" and len(loaded.rows) == 2
    else:
        assert colours(loaded.rows[1]) == [SEEN[COLOURS.index(name)] for name in expected]


@pytest.mark.parametrize("name", ["a/0.png", "0.png", "./a//0.png"])
def test_a_record_without_pictures_does_not_take_another_records(tmp_path, name):
    row = {"image": name, "question": "What is it?", "answer": "A cat"}
    file = shard(tmp_path / "0.tar", [("./a/0.png", picture()), ("./a/0.txt", b"A thing."), ("./a/1.json", json.dumps(row).encode())])
    assert "which is another record's" in load_rows(file).bad[0].what
    outside = shard(tmp_path / "1.tar", [("a/1.json", json.dumps({**row, "image": "photos/0.png"}).encode())])
    assert load_rows(outside).rows[0].images == ("photos/0.png",)  # below the image root


@pytest.mark.parametrize("members, said", [
    ([("1.bmp", b"x"), ("1.txt", b"A thing.")], "its picture 1.bmp is of a kind that shards are not read with"),
    ([("1.json", b'{"caption": "One."}'), ("1.json", b'{"caption": "Two."}'), ("1.png", picture())], "two of its members have one name"),
    ([("1.json", b'{"caption": "One."}'), ("1.txt", b"Two."), ("1.png", picture())], "its .json and its .txt have another `caption` each")])
def test_nothing_of_a_record_is_lost(tmp_path, members, said):
    loaded = load_rows(shard(tmp_path / "0.tar", [*members, ("2.png", picture()), ("2.txt", b"A thing.")]))
    assert [row.id for row in loaded.rows] == ["2"] and said in loaded.bad[0].what


@pytest.mark.parametrize("key, named, good", [("image2", "1.a.png", True), ("image2", "a.png", True), ("image2", "1.b.png", False), ("image2", "z.png", False),
                                              ("img", "b.png", False), ("photo", "x/1.b.png", False), ("file_name", "train/x.png", True), ("img", "1.a.png", True)])
def test_another_key_may_name_a_picture_that_is_read_and_no_other(tmp_path, key, named, good):
    row = {"images": ["1.a.png"], key: named, "question": "What is it?", "answer": "A cat"}
    file = shard(tmp_path / "0.tar", [("0.txt", b"A thing."), *((name, picture()) for name in ("0.png", "1.a.png", "1.b.png")), ("1.json", json.dumps(row).encode())])
    loaded = load_rows(file)
    assert [row.id for row in loaded.rows] == (["0", "1"] if good else ["0"]) and all(f"'{key}' " in error.what and " names " in error.what for error in loaded.bad)


def test_members_that_do_not_lie_together_give_no_row_without_its_picture(tmp_path):
    asked = b'{"question": "What is it?", "answer": "A cat"}'
    file = shard(tmp_path / "0.tar", [("x.json", asked), ("y.json", asked), ("z.json", asked), ("z.png", picture()), ("x.png", picture()), ("y.png", picture())])
    loaded = load_rows(file)
    assert [row.id for row in loaded.rows] == ["z"] and [error.where.rpartition("::")[2] for error in loaded.bad] == ["x", "y", "x", "y"]
    assert all("its members do not lie together" in error.what for error in loaded.bad)


def test_a_mark_of_utf_8_is_no_text(tmp_path):
    loaded = load_rows(shard(tmp_path / "0.tar", [("1.png", picture()), ("1.txt", "\ufeffA cat.".encode()), ("2.png", picture()), ("2.json", b'\xef\xbb\xbf{"caption": "A dog."}'),
                                                  ("2.mask.tif", b"beside"), ("3.png", picture()), ("3.txt", b"A cow."), ("3.json", b'{"caption": "A cow. ", "url": "x"}')]))
    assert [row.turns[1]["text"].strip() for row in loaded.rows] == ["A cat.", "A dog.", "A cow."] and not loaded.bad


def test_names_that_are_no_text_can_be_written_down(tmp_path):
    file = shard(tmp_path / "0.tar", [("a\udcff.png", picture()), ("a\udcff.txt", b"A thing."), ("b\udcff.png", b""), ("b\udcff.json", b"{")])
    loaded = load_rows(file)
    assert colours(loaded.rows[0]) == [(255, 0, 0)]
    f"{loaded.rows[0].id}{loaded.rows[0].source}{loaded.rows[0].images[0]}{loaded.bad[0]}".encode()
