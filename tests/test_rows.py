"""Rows from outside: every broken line is one clear error with file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from omnivision.data.rows import load_rows, read_rows
from omnivision.errors import DataError

GOOD = {"id": "r1", "images": ["images/0.png"], "turns": [{"role": "user", "text": "Hi"}, {"role": "assistant", "text": "Ho"}]}
USER, ASSISTANT = GOOD["turns"]
PREFERENCE = {"prompt": "What?", "chosen": "a", "rejected": "b"}

BROKEN = {
    "no JSON": "{'id': 1}",
    "half a line": json.dumps(GOOD)[:-7],
    "a list": "[1, 2]",
    "a number": "5",
    "a word": '"turns"',
    "null": "null",
    "no kind": json.dumps({"id": "r1", "images": []}),
    "turns without answers": json.dumps({**GOOD, "turns": [USER]}),
    "no supervised answer": json.dumps({**GOOD, "turns": [USER, {**ASSISTANT, "loss": False}]}),
    "an answer of which nothing can be seen": json.dumps({**GOOD, "turns": [USER, {**ASSISTANT, "text": "\u200b\ufeff \u0000"}]}),
    "a rejected answer of which nothing can be seen": json.dumps({**PREFERENCE, "rejected": "\u200b"}),
    "a wrong role": json.dumps({**GOOD, "turns": [USER, {"role": "tool", "text": "x"}, ASSISTANT]}),
    "a turn without role": json.dumps({**GOOD, "turns": [{"text": "Hi"}, ASSISTANT]}),
    "a turn without text": json.dumps({**GOOD, "turns": [{"role": "user"}, ASSISTANT]}),
    "text that is a number": json.dumps({**GOOD, "turns": [{"role": "user", "text": 5}, ASSISTANT]}),
    "a turn that is a word": json.dumps({**GOOD, "turns": ["Hi", "Ho"]}),
    "turns that are null": json.dumps({**GOOD, "turns": None}),
    "images that are null": json.dumps({**GOOD, "images": None}),
    "images that are one name": json.dumps({**GOOD, "images": "images/0.png"}),
    "an image that is a number": json.dumps({**GOOD, "images": [3]}),
    "an answer that is null": json.dumps({**PREFERENCE, "rejected": None}),
    "a prompt that is a list": json.dumps({**PREFERENCE, "prompt": ["What?"]}),
    "calls that are a mapping": json.dumps({"request": "Buy it", "calls": {"name": "order"}}),
    "a call without name": json.dumps({"request": "Buy it", "calls": [{"arguments": {}}]}),
    "a region without label": json.dumps({**GOOD, "regions": [{"box": [0, 0, 1, 1], "kind": "object"}]}),
    "a box of three": json.dumps({**GOOD, "regions": [{"box": [0, 0, 1], "label": "cat", "kind": "object"}]}),
    "a box in pixels": json.dumps({**GOOD, "regions": [{"box": [0, 0, 80, 90], "label": "cat", "kind": "object"}]}),
    "a box inside out": json.dumps({**GOOD, "regions": [{"box": [0.5, 0, 0.2, 1], "label": "cat", "kind": "object"}]}),
    "regions that are a mapping": json.dumps({**GOOD, "regions": {"box": [0, 0, 1, 1]}}),
    "a request without calls": json.dumps({"request": "Buy it"}),
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_named(tmp_path, line):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(GOOD) + "\n\n" + line + "\n")
    with pytest.raises(DataError, match=rf"cannot be read.*{file}:3\)\. Fix or remove the line"):
        read_rows(file)


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_an_empty_file_is_an_error(tmp_path, content):
    file = tmp_path / "rows.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match=f"holds no rows.*{file}"):
        read_rows(file)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read.*none.jsonl"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=f"cannot be read.*{tmp_path}"):
        read_rows(tmp_path)
    (tmp_path / "picture.jsonl").write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(DataError, match="cannot be read.*UTF-8.*picture.jsonl:1"):
        read_rows(tmp_path / "picture.jsonl")


def test_the_three_kinds_of_rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    action = {"id": "f1", "request": "Buy it", "calls": [{"name": "order", "arguments": {"item": "cat"}}]}
    file.write_text("\n".join(json.dumps(row) for row in (GOOD, PREFERENCE, action)))
    said, preferred, called = read_rows(file)
    assert (said.id, said.images, said.source, said.turns) == ("r1", ("images/0.png",), f"{file}:1", (USER, ASSISTANT))
    assert (preferred.chosen, preferred.rejected, preferred.images, preferred.id) == ("a", "b", (), f"{file}:2")
    assert called.calls == (action["calls"][0],) and called.request == "Buy it" and not called.turns
    assert len(read_rows(file, limit=2)) == 2


def test_unusual_line_ends_inside_a_text_are_no_line_ends(tmp_path):
    text = "one\u2028two\x85three"
    file = tmp_path / "rows.jsonl"
    row = {**GOOD, "turns": [{"role": "user", "text": text}, ASSISTANT]}
    file.write_bytes(f"{json.dumps(row, ensure_ascii=False)}\r\n{json.dumps(GOOD)}\n".encode())
    rows = read_rows(file)
    assert len(rows) == 2 and rows[0].turns[0]["text"] == text and rows[1].source.endswith(":2")


@pytest.mark.parametrize("call", [
    {"name": "order", "arguments": '{"item": "tea"}'}, {"name": "order", "arguments": None}, {"name": "order", "arguments": ["tea"]}, {"name": "order", "nested": "x"},
    {"name": "order", "nested": {"to": {"arguments": {}}}}, {"name": "order", "nested": {"to": {"name": "find", "arguments": "x"}}}])
def test_calls_whose_arguments_are_no_object_are_bad_rows(tmp_path, call):
    good = {"request": "Tea, please.", "calls": [{"name": "order"}], "images": []}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (good, {**good, "calls": [call]})))
    with pytest.raises(DataError, match="call|write the object"):
        read_rows(tmp_path / "rows.jsonl")


ONE, TWO = ({"question": question, "answer": "b"} for question in "ac")
BY_ID = {
    "on one line": json.dumps({"x": ONE, "y": TWO}),
    "indented": json.dumps({"x": ONE, "y": TWO}, indent=2),
    "a record a line": f'{{"x": {json.dumps(ONE)},\n"y": {json.dumps(TWO)}}}',
    "commas first": f'{{"x":\n{json.dumps(ONE)}\n,"y":\n{json.dumps(TWO)}\n}}\n',
    "blank lines": f'\n \n{{"x": {json.dumps(ONE)},\n\n"y": {json.dumps(TWO)}}}\n\n',
    "one record on one line": json.dumps({"x": ONE}) + "\n\n",
}


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"], ids=["no BOM", "BOM", "BOM and a blank line"])
@pytest.mark.parametrize("form", BY_ID)
def test_an_object_of_records_by_id_however_it_is_written(tmp_path, form, bom):
    file = tmp_path / "by_id.json"
    file.write_bytes(bom + BY_ID[form].encode())
    assert [(row.id, row.turns[0]["text"]) for row in read_rows(file)] == [("x", "a"), ("y", "c")][: 1 if form.startswith("one") else 2]


@pytest.mark.parametrize("before", ["", "\n\n", "\ufeff", "\ufeff\n"])
def test_blank_lines_and_a_byte_order_mark_before_rows(tmp_path, before):
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{before}{json.dumps(ONE)}\n\n{json.dumps(TWO)}\n", encoding="utf-8")
    assert [row.turns[0]["text"] for row in read_rows(file)] == ["a", "c"]


@pytest.mark.parametrize(("first", "good"), [(json.dumps(ONE), 2), ("{'question': 1}", 1), ('{"question": "cut ins', 1)])
def test_lines_are_not_read_whole(tmp_path, monkeypatch, first, good):
    (tmp_path / "rows.jsonl").write_text(f"{first}\n{json.dumps(TWO)}\n")
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it read the whole file"))
    loaded = load_rows(tmp_path / "rows.jsonl")
    assert len(loaded.rows) == good and len(loaded.bad) == 2 - good


def test_a_first_line_that_is_cut_is_one_bad_row(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "x",\n' + json.dumps(TWO))
    loaded = load_rows(tmp_path / "rows.jsonl")
    assert len(loaded.rows) == 1 and loaded.bad[0].where.endswith(":1")


OF_ANOTHER_KIND = {
    "gzip": (gzip.compress(json.dumps(GOOD).encode()), r"packed \(gzip\).*Unpack it"),
    "zip": (b"PK\x03\x04" + bytes(99), r"packed \(zip\).*Unpack it"),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), "UTF-16 text.*iconv"),
    "UTF-16 without a mark": (json.dumps([GOOD]).encode("utf-16-be"), "UTF-16 text.*iconv"),
    "CSV": (b"image,question,answer\n0.png,What is it?,A cat\n", "CSV.*from_csv"),
    "CSV with quotes and a BOM": (b'\xef\xbb\xbf"image";"the question"\r\n"0.png";"What?"\r\n', "CSV.*from_csv"),
    "TSV": (b"index\tquestion\n1\tWhat?\n", r"CSV.*from_csv\(OLD, sep='\\t'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_ANOTHER_KIND)
def test_a_file_of_another_kind_says_what_it_is(tmp_path, kind):
    content, said = OF_ANOTHER_KIND[kind]
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=f"cannot be read: it is .*{said}") as told:
        read_rows(tmp_path / "rows.jsonl")
    assert told.value.where == str(tmp_path / "rows.jsonl")


def test_a_broken_line_with_commas_is_no_csv(tmp_path):
    (tmp_path / "rows.jsonl").write_text("one, two\n" + json.dumps(GOOD))
    assert len(load_rows(tmp_path / "rows.jsonl").rows) == 1
