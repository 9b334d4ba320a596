"""Other people's records: each known kind gives the row it means; what contradicts itself is named."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from omnivision.data.image import open_image
from omnivision.data.rows import load_rows, read_rows
from omnivision.errors import DataError

USER, ANSWER = {"role": "user", "text": "What is it?", "loss": False}, {"role": "assistant", "text": "A cat", "loss": True}
MESSAGES = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A cat"}]
PARTS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
         {"role": "assistant", "content": [{"type": "text", "text": "A cat"}]}]


def picture(colour="red", format="PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, format)
    return file.getvalue()


URI = "data:image/png;base64," + base64.b64encode(picture()).decode()

CONVERSATIONS = {
    "LLaVA": {"id": "1", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat"}]},
    "LLaVA, mark behind": {"image": "a.png", "conversations": [{"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": "A cat"}]},
    "ShareGPT": {"images": ["a.png"], "conversations": [{"from": "user", "value": "<image>What is it?"}, {"from": "assistant", "value": "A cat"}]},
    "ShareGPT with roles": {"images": ["a.png"], "conversations": [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A cat"}]},
    "TRL": {"images": ["a.png"], "messages": MESSAGES},
    "TRL, image parts": {"images": ["a.png"], "messages": PARTS},
    "TRL, prompt and completion": {"images": ["a.png"], "prompt": PARTS[:1], "completion": PARTS[1:]},
    "prompt and completion as texts": {"image": "a.png", "prompt": "What is it?", "completion": "A cat"},
    "OpenAI": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "What is it?"}]}, MESSAGES[1]]},
    "Qwen's image parts": {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}]}, MESSAGES[1]]},
    "ChartQA": {"imgname": "a.png", "query": "What is it?", "label": "A cat"},
    "LLaMA-Factory": {"images": ["a.png"], "messages": [{"role": "user", "content": "<image>What is it?"}, MESSAGES[1]]},
    "a mark in a prompt": {"images": ["a.png"], "prompt": "<image>\nWhat is it?", "completion": "A cat"},
    "a VQA table": {"image": "a.png", "question": "What is it?", "answer": ["A cat"]},
    "POPE": {"question_id": 1, "image": "a.png", "text": "What is it?", "label": "A cat"},
}


def written(tmp_path, *rows, name="rows.jsonl"):
    file = tmp_path / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("raw", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_conversation_of_any_kind(tmp_path, raw):
    (row,) = read_rows(written(tmp_path, raw))
    assert row.images == ("a.png",) and row.turns == (USER, ANSWER) and row.format


def test_text_parts_of_a_message_stand_as_the_chat_template_puts_them(tmp_path):
    said = [{"type": "text", "text": "Context.\n"}, "Question", {"type": "text", "text": "?"}]
    rows = read_rows(written(tmp_path, {"messages": [{"role": "user", "content": said}, MESSAGES[1]]}))
    assert rows[0].turns[0]["text"] == "Context.\nQuestion?"


def test_a_system_text_and_answers_outside_the_loss(tmp_path):
    raw = {"messages": [{"role": "system", "content": "Be brief."}, MESSAGES[0], {**MESSAGES[1], "weight": 0}, MESSAGES[0], MESSAGES[1]]}
    (row,) = read_rows(written(tmp_path, raw))
    assert [turn["role"] for turn in row.turns] == ["system", "user", "assistant", "user", "assistant"]
    assert [turn["loss"] for turn in row.turns] == [False, False, False, False, True] and row.images == ()
    (row,) = read_rows(written(tmp_path, {"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}))
    assert row.turns[0] == {"role": "system", "text": "Be brief.", "loss": False}
    (row,) = read_rows(written(tmp_path, {"system": "Be brief.", "messages": MESSAGES}))
    assert row.turns == ({"role": "system", "text": "Be brief.", "loss": False}, USER, ANSWER)
    (row,) = read_rows(written(tmp_path, {"system": "Be brief. ", "messages": [{"role": "system", "content": "Be brief."}, *MESSAGES]}))
    assert [turn["role"] for turn in row.turns] == ["system", "user", "assistant"]
    blocks = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]
    for key, value, text in (("system_prompt", "Be brief.", "Be brief."), ("system_message", "Be brief.", "Be brief."), ("system", blocks, "Be brief.\nBe kind.")):
        (row,) = read_rows(written(tmp_path, {key: value, "messages": MESSAGES}))
        assert row.turns == ({"role": "system", "text": text, "loss": False}, USER, ANSWER)
    (row,) = read_rows(written(tmp_path, {"system": "", "system_prompt": " ", "question": "What is it?", "answer": "A cat", "history": [], "hint": ""}))
    assert row.turns == (USER, ANSWER)
    (row,) = read_rows(written(tmp_path, {"turns": [USER, {**ANSWER, "weight": 0}, USER, {"role": "assistant", "text": "A cat", "loss": None}]}))
    assert [turn.get("loss") for turn in row.turns] == [False, False, False, None]
    for told in ({"weight": 0}, {"loss": False}):
        draft, *rest = ask("Hi", "Ho", "Hi", "Hey")[1:]
        (row,) = read_rows(written(tmp_path, {"conversations": [ask("Hi")[0], {**draft, **told}, *rest]}))
        assert [turn["loss"] for turn in row.turns] == [False, False, False, True]


@pytest.mark.parametrize("beside", [{"image2": "b.png"}, {"image_b": "b.png"}, {"img": "b.png"}, {"images": ["b.png"]}, {"picture 2": {"path": "b.png"}}, {"image2": "after/a.png"},
                                    {"image_after": "b.png"}, {"second_image": "b.png"}, {"image_path_2": "b.png"},
                                    {"image_target": "b.png"}, {"reference_image": "http://x/a.jpg"}, {"image_url_2": "http://x/b.png"},
                                    {"rejected_image": "b.png"}, {"image_prev": "b.png"}, {"picture": "b.png"}, {"jpg": "b.png"}, {"image_url": "b.png"}, {"shown": "b.png"},
                                    {"extra": {"image": "b.png"}}, {"extra": {"photo": {"path": "b.png"}}}, {"photo": URI}])
def test_a_second_picture_in_a_column_of_its_own_is_not_lost(tmp_path, beside):
    with pytest.raises(DataError, match="names another picture than the column that is read"):
        read_rows(written(tmp_path, {"image": "before/a.png", "question": "What differs?", "answer": "All", **beside}))


@pytest.mark.parametrize("beside", [{"file_name": "photos/a.png"}, {"images": ["a.png"]}, {"image2": None}, {"image2": ""}, {"image_id": 7}, {"img_url": "http://x/1"},
                                    {"coco_url": "http://x/train/b.jpg"}, {"url": "https://x/b.jpg"}, {"source": "https://x/b.jpg"}, {"thumbnail": "small/a_64.png"},
                                    {"id": "b.png", "title": "b.png"}, {"image_classes": ["Drink", "Beer"]}, {"photo": "more/a.png"},
                                    {"meta": {"image_path": "a.png", "file_name": "3.tar"}},
                                    {"blip_caption": "a page that shows photo.png"}, {"image_source": "coco/train2017"},
                                    {"meta": {"file": {"bytes": 900}}}])
def test_the_same_picture_under_two_names_is_one(tmp_path, beside):
    (row,) = read_rows(written(tmp_path, {"image": "a.png", "question": "What is it?", "answer": "A cat", **beside}))
    assert row.images == ("a.png",)


def test_texts_that_name_a_file_are_texts(tmp_path):
    (row,) = read_rows(written(tmp_path, {"id": "7.png", "question": "Which file shows it?", "answer": "cat.png", "image_id": None, "image_ids": [],
                                          "title": "Look for cat.png", "note": "A command that shrinks photo.png"}))
    assert row.images == () and row.turns[1]["text"] == "cat.png"


def test_packed_pictures_may_have_their_names_in_numbered_columns(tmp_path):
    (row,) = read_rows(written(tmp_path, {"images": [URI, URI], "image_1": URI, "image_2": URI, "question": "What differs?", "answer": "All"}))
    assert len(row.images) == 2


@pytest.mark.parametrize("beside, good", [({"file_name": "b.png"}, True), ({"filename": "b.png"}, True), ({"photo": URI[:-4]}, False),
                                          ({"image_2": "b.png"}, False), ({"target_image": "b.png"}, False)])
def test_a_picture_that_is_bytes_alone_may_have_its_name_beside(tmp_path, beside, good):
    loaded = load_rows(written(tmp_path, {"question": "Fine?", "answer": "Yes"}, {"image": URI, "question": "What differs?", "answer": "All", **beside}))
    assert [len(row.images) for row in loaded.rows] == ([0, 1] if good else [0]) and all("names another picture" in error.what for error in loaded.bad)


def test_a_picture_without_objects_has_no_regions(tmp_path):
    (row,) = read_rows(written(tmp_path, {"image": "a.png", "caption": "A", "width": 9, "height": 9, "objects": []}))
    assert row.regions == ()


PREFERENCES = {
    "texts": {"images": ["a.png"], "prompt": "What is it?", "chosen": "A cat", "rejected": "A dog"},
    "messages": {"images": ["a.png"], "prompt": PARTS[:1], "chosen": PARTS[1:], "rejected": [{"role": "assistant", "content": "A dog"}]},
    "a mark in the prompt": {"images": ["a.png"], "prompt": "<image>What is it?", "chosen": "A cat", "rejected": "A dog"},
    "a prompt in both sides": {"images": ["a.png"], "chosen": MESSAGES, "rejected": [MESSAGES[0], {"role": "assistant", "content": "A dog"}]},
}


@pytest.mark.parametrize("raw", PREFERENCES.values(), ids=PREFERENCES)
def test_a_preference_of_any_kind(tmp_path, raw):
    (row,) = read_rows(written(tmp_path, raw))
    assert (row.images, row.prompt, row.chosen, row.rejected) == (("a.png",), "What is it?", "A cat", "A dog")


def test_captions_with_boxes_are_rows_of_their_own(tmp_path):
    raw = {"image": "a.png", "width": 200, "height": 100, "captions": ["A cat.", "A sleeping cat."], "objects": [{"category": "cat", "bbox": [20, 10, 40, 80]}]}
    one, other = read_rows(written(tmp_path, raw))
    assert (one.id, other.id) == ("a.png-0", "a.png-1") and [row.turns[1]["text"] for row in (one, other)] == ["A cat.", "A sleeping cat."]
    assert [row.id for row in read_rows(written(tmp_path, {**raw, "id": None}))] == ["a.png-0", "a.png-1"]
    assert one.regions == ({"box": [0.1, 0.1, 0.3, 0.9], "label": "cat", "kind": "object"},) and other.regions == ()


def ask(*texts):
    return [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(texts)]


CONTRADICTIONS = {
    "an image without a mark": ({"image": "a.png", "conversations": ask("Hi", "Ho")}, "1 images and 0 <image>"),
    "two marks, one image": ({"image": "a.png", "conversations": ask("<image><image>Hi", "Ho")}, "1 images and 2 <image>"),
    "a mark without an image": ({"conversations": ask("<image>Hi", "Ho")}, "0 images and 1 <image>"),
    "a mark behind the first question": ({"image": "a.png", "conversations": ask("Hi", "Ho", "<image>And?", "So")}, "behind the first question"),
    "a mark in an answer": ({"image": "a.png", "conversations": ask("Hi", "<image>Ho")}, "behind the first question"),
    "a mark in our own turns": ({"images": ["a.png"], "turns": [{"role": "user", "text": "<image>Hi"}, {"role": "assistant", "text": "Ho"}]}, "a text holds <image>"),
    "a mark in a message and no image": ({"messages": [{"role": "user", "content": "<image>Hi"}, MESSAGES[1]]}, "0 images and 1 <image>"),
    "answers first": ({"conversations": [*reversed(ask("Hi", "Ho"))]}, "turn 1 is of `assistant`"),
    "two questions in turn": ({"conversations": [*ask("Hi"), *ask("Hi", "Ho")]}, "turn 2 is of `user`"),
    "a question at the end": ({"conversations": ask("Hi", "Ho", "And?")}, "ends with a question"),
    "an empty answer": ({"conversations": ask("Hi", "  \n")}, "an answer is empty"),
    "an empty question": ({"conversations": ask("", "Ho")}, "a question is empty"),
    "an unknown role": ({"conversations": [{"from": "observation", "value": "Hi"}, *ask("Hi", "Ho")]}, "is of 'observation'"),
    "a tool's message": ({"messages": [{"role": "tool", "content": "Hi"}, *MESSAGES]}, "is of 'tool'"),
    "a text that is no text": ({"conversations": [{"from": "human", "value": 5}, *ask("", "Ho")[1:]]}, "a turn is 5"),
    "an unknown part": ({"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}, MESSAGES[1]]}, "of type `'video'`"),
    "images twice": ({"images": ["a.png"], **CONVERSATIONS["OpenAI"]}, "both in its own column and in its messages"),
    "more parts than images": ({"messages": PARTS}, "0 images and 1 image parts"),
    "an image in an answer": ({"images": ["a.png"], "messages": [MESSAGES[0], {"role": "assistant", "content": [{"type": "image"}]}]}, "image behind"),
    "a picture under an unknown key": ({"picture_file": "a.png", "question": "What?", "answer": "A cat"}, "'picture_file' seems to name a picture"),
    "a caption of nothing": ({"caption": "A cat."}, "a caption and no image"),
    "a question without an answer": ({"question_id": 1, "image": "a.png", "text": "Is there a cat?"}, "a question and no answer"),
    "an index for an answer": ({"question": "Which?", "choices": ["a", "b"], "answer": 1}, "has choices"),
    "choices in columns": ({"question": "Which?", "A": "a cat", "B": "a dog", "answer": "B"}, "has choices"),
    "choices in named columns": ({"image": "a.png", "question": "Which?", "option_a": "a cat", "option_b": "a dog", "answer": "A"}, "has choices"),
    "several answers": ({"question": "Which?", "answer": ["a", "b"]}, "the answer is"),
    "a preference of three turns": ({"prompt": "Hi", "chosen": [MESSAGES[1], MESSAGES[1]], "rejected": "x"}, "one question and one answer a side"),
    "an empty side": ({"prompt": "Hi", "chosen": " ", "rejected": "x"}, "an answer is empty"),
    "an empty prompt": ({"prompt": " ", "chosen": "x", "rejected": "y"}, "a question is empty"),
    "an empty request": ({"request": "\n", "calls": [{"name": "order", "arguments": {}}]}, "a request is empty"),
    "no calls": ({"request": "Buy it", "calls": []}, "the list of calls is empty"),
    "half a character in a call": ({"request": "Buy it", "calls": [{"name": "order", "arguments": {"item": "\ud800"}}]}, "`calls` has half a character"),
    "half a character for a role": ({"messages": [{"role": "\ud800", "content": [{"type": "image", "image": "a.png"}]}]}, r"message 0, of `\\ud800`"),
    "an image on the web": ({"image": "http://example.org/a.png", "question": "What?", "answer": "A cat"}, "`urls` names no folder"),
    "broken base64": ({"image": "data:image/png;base64,%%%", "question": "What?", "answer": "A cat"}, "base64 is broken"),
    "a data URI of a text": ({"image": "data:text/plain;base64,QQ==", "question": "What?", "answer": "A cat"}, "not data:image"),
    "an empty image name": ({"image": [""], "question": "What?", "answer": "A cat"}, "not a path"),
    "a lone surrogate": ({"question": "What\ud800?", "answer": "A cat"}, "lone surrogate"),
    "a box of a picture without width": ({"image": "a.png", "caption": "A", "width": 0, "height": 9, "objects": [{"category": "cat", "bbox": [0, 0, 1, 1]}]}, "no sides of a picture"),
    **{f"a picture's file under `{key}`": ({key: "img/a.png", "question": "What?", "answer": "A cat"}, f"'{key}' seems to name a picture") for key in ("file", "path", "media", "chart")},
    **{f"a picture's number under `{key}`": ({key: 0, "question": "What?", "answer": "A cat"}, f"'{key}' seems to name a picture") for key in ("image_id", "imageId", "img_id")},
    "a picture in an object": ({"meta": {"image": "a"}, "question": "What?", "answer": "A cat"}, "'image' seems to name a picture"),
    "a picture beside a message's text": ({"messages": [{**MESSAGES[0], "images": ["a.png"]}, MESSAGES[1]]}, "a turn has `images`"),
    "a picture in a turn": ({"conversations": [{**ask("Hi")[0], "image": "a.png"}, *ask("Hi", "Ho")[1:]]}, "a turn has `image`"),
    "a film": ({"video": "a.mp4", "question": "What?", "answer": "A cat"}, "it has `video`"),
    "calls beside a text": ({"messages": [MESSAGES[0], {**MESSAGES[1], "tool_calls": [{"name": "f"}]}]}, "a turn has `tool_calls`"),
    "loss as a text": ({"messages": [MESSAGES[0], {**MESSAGES[1], "loss": "false"}]}, "`loss` of a turn is 'false'"),
    "half a weight": ({"messages": [MESSAGES[0], {**MESSAGES[1], "weight": 0.5}]}, "`weight` of a turn is 0.5"),
    "loss as a text in our turns": ({"turns": [USER, {**ANSWER, "loss": "false"}]}, "`loss` of a turn is 'false'"),
    "a misspelt key of our turns": ({"turns": [USER, {**ANSWER, "losss": False}]}, "a turn has 'losss'"),
    "a system text beside a question": ({"system": "Be brief.", "question": "What?", "answer": "A cat"}, "its `system` is read beside conversations"),
    "OpenOrca's system text": ({"system_prompt": "Be brief.", "question": "What?", "response": "A cat"}, "its `system_prompt` is read beside conversations"),
    "a system text under two keys": ({"system": "In French.", "system_prompt": "Be brief.", "messages": MESSAGES}, "its `system` and `system_prompt` are two texts"),
    "a system text under two keys, one of them a turn's": ({"system": "In French.", "system_prompt": "Be brief.", "messages": [{"role": "system", "content": "In French."}, *MESSAGES]},
                                                           "its `system` and `system_prompt` are two texts"),
    "a picture in the system text": ({"system": [{"type": "image", "path": "a.png"}], "messages": MESSAGES}, "`system` has an image"),
    "a system text that is none": ({"system": {"text": "Be brief."}, "messages": MESSAGES}, "`system` is {'text': 'Be brief.'}, not a text"),
    **{f"{key} beside a question": ({key: told, "query": "Where is it?", "response": "France"}, f"it has `{key}` beside its question")
       for key, told in (("history", [["Hi", "Ho"]]), ("context", "Paris is in France."), ("passage", "Paris."), ("instruction", "In French."), ("hint", "Blue."))},
    "two system texts": ({"system": "In French.", "messages": [{"role": "system", "content": "Be brief."}, *MESSAGES]}, "its `system` is another text"),
    "a misnamed key of a call": ({"request": "Buy it", "calls": [{"name": "order", "parameters": {"item": "x"}}]}, "the call 'order' has 'parameters'"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_record_that_contradicts_itself_is_named(tmp_path, name):
    raw, said = CONTRADICTIONS[name]
    file = written(tmp_path, {"question": "Fine?", "answer": "Yes"}, raw)
    with pytest.raises(DataError, match=rf"cannot be read: .*{said}.*rows.jsonl:2"):
        read_rows(file)
    loaded = load_rows(file)
    assert [row.turns[0]["text"] for row in loaded.rows] == ["Fine?"] and len(loaded.bad) == 1 and loaded.bad_fraction == 0.5


LINES = {
    "broken JSON": (b'{"question": "x", "answer"', "Expecting"), "not UTF-8": (b'{"question": "\xff", "answer": "x"}', "not UTF-8 text .byte 14"),
    "NaN": (b'{"question": "x", "answer": NaN}', "NaN is no JSON number"), "minus infinity": (b'{"question": "x", "answer": -Infinity}', "-Infinity is no"),
    "beyond a double": (b'{"question": "x", "answer": 1e400}', "beyond a double"),
    "a key twice": (b'{"question": "x", "question": "y", "answer": "z"}', "'question' stands twice"),
    "nested too deeply": (b'{"question": "x", "answer": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "a number of 5,000 digits": (b'{"question": "x", "answer": ' + b"9" * 5000 + b"}", "digits"),
    "null bytes": (b"\0\0\0", "Expecting"),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_broken_line_does_not_take_others_with_it(tmp_path, name):
    line, said = LINES[name]
    good = json.dumps({"question": "Fine?", "answer": "Yes"}).encode()
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + good + b"\n" + line + b"\n" + good)
    loaded = load_rows(tmp_path / "rows.jsonl")
    assert [row.source.rpartition(":")[2] for row in loaded.rows] == ["1", "3"]
    with pytest.raises(DataError, match=rf"cannot be read: .*{said}.*rows.jsonl:2"):
        raise loaded.bad[0]


def test_a_line_of_a_hundred_megabytes_is_never_held(tmp_path):
    import tracemalloc

    good = json.dumps({"question": "Fine?", "answer": "Yes"}).encode()
    with (tmp_path / "rows.jsonl").open("wb") as file:
        file.write(good + b'\n{"question": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'", "answer": "y"}\n' + good + b"\n")
    tracemalloc.start()
    loaded = load_rows(tmp_path / "rows.jsonl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(loaded.rows) == 2 and "more than 16,000,000 bytes" in str(loaded.bad[0]) and peak < 80e6


def test_a_json_list_and_an_object_of_records(tmp_path):
    rows = [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]
    for indent in (None, 2):
        (tmp_path / "list.json").write_text(json.dumps(rows, indent=indent))
        assert [row.source for row in read_rows(tmp_path / "list.json")] == [f"{tmp_path / 'list.json'}[0]", f"{tmp_path / 'list.json'}[1]"]
        (tmp_path / "by_id.json").write_text(json.dumps({"x": rows[0], "y": rows[1]}, indent=indent))
        assert [row.id for row in read_rows(tmp_path / "by_id.json")] == ["x", "y"]
    (tmp_path / "list.json").write_text("[" + json.dumps(rows[0]) + ", {]")
    with pytest.raises(DataError, match="no JSON.*list.json.*one row a line"):
        read_rows(tmp_path / "list.json")


def test_one_line_of_one_row_is_a_row(tmp_path):
    assert len(read_rows(written(tmp_path, {"question": "a", "answer": "b"}))) == 1
    assert len(read_rows(written(tmp_path, {"messages": MESSAGES}))) == 1


def colours(row) -> list[tuple]:
    return [open_image(image).getpixel((0, 0)) for image in row.images]


def test_pictures_inside_the_row(tmp_path):
    (row,) = read_rows(written(tmp_path, {"image": URI, "question": "What?", "answer": "A cat"}))
    assert colours(row) == [(255, 0, 0)] and str(row.images[0]) == f"{tmp_path / 'rows.jsonl'}:1#0" and "iVBOR" not in repr(row)
