"""Any record, however strange, gives rows or a DataError that names it: nothing else, and never another row than alone."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnivision.data.rows import Row, load_rows
from omnivision.errors import DataError

KEYS = ("id", "\ud800", "image", "images", "imgname", "conversations", "messages", "turns", "system", "prompt", "chosen", "rejected", "completion", "question", "query",
        "text", "answer", "label", "caption", "captions", "objects", "width", "height", "request", "calls", "regions", "edit_spans", "choices", "question_id")
WORDS = st.sampled_from(["", " ", "cat", "<image>", "<image><image>", "Hi <image>", "a.png", "../a.png", "data:image/png;base64,QUJD", "http://x.org/a.png",
                         "human", "gpt", "user", "assistant", "system", "tool", "\ud800", "\udfff tool", "\0", "猫", "x" * 300])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 10**20), st.floats(), WORDS)
TURN = st.dictionaries(st.sampled_from(["from", "value", "role", "content", "text", "loss", "weight", "type", "image", "image_url", "url", "path", "bytes", "name", "arguments", "\udc80"]),
                       st.one_of(WORDS, SCALARS), max_size=4)
PARTS = st.lists(st.one_of(TURN, WORDS, st.fixed_dictionaries({"type": st.sampled_from(["text", "image", "image_url", "video"]), "text": WORDS, "image_url": WORDS})), max_size=3)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": st.one_of(WORDS, PARTS)})
SPOKEN = st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": WORDS})
REGION = st.fixed_dictionaries({"box": st.lists(st.one_of(st.floats(), st.integers(-3, 3)), max_size=5), "label": SCALARS, "kind": SCALARS})
THING = st.fixed_dictionaries({"category": SCALARS, "bbox": st.lists(st.floats(-1, 1000), max_size=5)})
VALUES = st.one_of(SCALARS, st.lists(st.one_of(SCALARS, TURN, MESSAGE, SPOKEN, REGION, THING), max_size=4), TURN)
RECORDS = st.one_of(
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=7),
    st.fixed_dictionaries({"conversations": st.lists(SPOKEN, max_size=4)}, optional={"image": WORDS, "images": st.lists(WORDS, max_size=2), "id": SCALARS}),
    st.fixed_dictionaries({"messages": st.lists(MESSAGE, max_size=4)}, optional={"images": st.lists(WORDS, max_size=2)}),
    st.fixed_dictionaries({"chosen": st.one_of(WORDS, st.lists(MESSAGE, max_size=2)), "rejected": st.one_of(WORDS, st.lists(MESSAGE, max_size=2))},
                          optional={"prompt": st.one_of(WORDS, st.lists(MESSAGE, max_size=2)), "images": st.lists(WORDS, max_size=2)}),
    st.fixed_dictionaries({"request": WORDS, "calls": st.lists(st.one_of(st.fixed_dictionaries({"name": WORDS, "arguments": VALUES}), TURN), max_size=2)}),
    st.fixed_dictionaries({"captions": st.lists(WORDS, max_size=3), "image": WORDS, "objects": st.lists(THING, max_size=2), "width": SCALARS, "height": SCALARS}),
    VALUES,
)
FINE = json.dumps({"id": "fine", "question": "Fine?", "answer": "Yes"})


def check(record) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text(f"{FINE}\n{json.dumps(record)}\n{FINE}\n", encoding="utf-8")
        loaded = load_rows(file)
    assert all(isinstance(row, Row) for row in loaded.rows) and all(isinstance(error, DataError) for error in loaded.bad)
    assert [row.source for row in loaded.rows if row.id == "fine" and row.turns[0]["text"] == "Fine?"][:: len(loaded.rows)] == [f"{file}:1"]
    for error in loaded.bad:
        assert error.where.startswith(f"{file}:2") and len(str(error).encode()) < 1500
    for row in loaded.rows:
        assert sum(bool(one) for one in (row.turns, row.prompt and row.chosen and row.rejected, row.calls and row.request)) == 1
        json.dumps(asdict(row), ensure_ascii=False, default=str).encode()  # nothing that cannot be written again


@given(RECORDS)
@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_record_is_a_row_or_a_named_error(record):
    check(record)


@pytest.mark.slow
@pytest.mark.timeout(900)
@given(RECORDS)
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ten_thousand_records_are_rows_or_named_errors(record):
    check(record)
