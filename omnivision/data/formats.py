"""Other people's records as ours: LLaVA, ShareGPT, TRL, OpenAI, question-answer tables, captions. Recognised by their keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from omnivision.data.pictures import Packed

PLACEHOLDER = "<image>"  # LLaVA's and ShareGPT's mark of a picture inside a text
CAPTION_REQUEST = "Describe the image."  # the user's turn of a record that has a caption alone
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant", "chatgpt": "assistant",
         "bing": "assistant", "bard": "assistant", "system": "system"}
ANSWERS = ("answer", "label", "answers", "response")
QUESTIONS = ("question", "query", "text")
IMAGES = ("image", "imgname", "imagename", "image_path", "file_name", "img")
PICTURE_KEY = re.compile(r"^(?!.*(id|ids|hash|size|width|height|count|type)$).*(image|img|picture|photo|jpe?g|png|webp)", re.IGNORECASE)
LETTER = re.compile(r"^(option|choice)[_ ]?(?=[a-z]$)", re.IGNORECASE)  # before the letter of a column of choices
KEPT = ("regions", "edit_spans")


def to_internal(raw: Any) -> list[dict]:
    """The internal rows of one record: one, or one a caption.

    Raises:
        ValueError: a record of no known format, or one that contradicts itself; says what is wrong.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"it is {_short(raw)}, not an object with keys")
    for name, recognises, converts in FORMATS:
        if recognises(raw):
            rows = converts(raw)
            if not any(row["images"] for row in rows):
                _check_nothing_lost(raw)
            rows = [_without_marks(row, name) for row in rows]
            return [{"id": raw.get("id", raw.get("question_id")), "format": name, **{key: raw[key] for key in KEPT if key in raw}, **row} for row in rows]
    raise ValueError(f"it has neither turns, conversations, messages, prompt/chosen/rejected, request/calls, question and answer, nor a caption "
                     f"(its keys: {', '.join(map(repr, list(raw)[:12]))})")


def _without_marks(row: dict, name: str) -> dict:
    """LLaVA's marks also stand in other people's messages and prompts; as text they would be learnt as words."""
    turns = row.get("turns") or [{"role": "user", "text": row.get("prompt", row.get("request"))},
                                 *({"role": "assistant", "text": row[side]} for side in ("chosen", "rejected") if side in row)]
    if not any(isinstance(turn, dict) and PLACEHOLDER in str(turn.get("text")) for turn in turns):
        return row
    if name == "omnivision" and "chosen" not in row:
        raise ValueError(f"a text holds {PLACEHOLDER}; pictures stand at the head of the first question")
    turns = _without_placeholders(turns, len(row["images"]))
    return {**row, "turns": turns} if "turns" in row else {**row, "prompt": turns[0]["text"]}


def _check_nothing_lost(raw: dict) -> None:
    """A picture under a key that nobody reads would be lost in silence, and its row learn to answer blindly."""
    for key, value in raw.items():
        held = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str | dict | Packed)]
        if any(isinstance(one, Packed) for one in held) or (isinstance(key, str) and PICTURE_KEY.search(key) and any(held)):
            raise ValueError(f"{key!r} seems to name a picture; pictures are read from {', '.join(('images', *IMAGES))}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _images(raw: dict) -> list:
    """Pictures of the record's own columns."""
    if "images" in raw:
        value = raw["images"]
        if not isinstance(value, list):
            raise ValueError(f"`images` is {_short(value)}, not a list of texts")
    else:
        key = next((key for key in IMAGES if raw.get(key) is not None), None)
        value = [] if key is None else raw[key]
        value = value if isinstance(value, list) else [value]
    return [_image(one) for one in value]


def _image(one: Any) -> Any:
    if isinstance(one, dict) and isinstance(one.get("path"), str):
        one = one["path"]
    if not isinstance(one, str | Packed) or one == "":
        raise ValueError(f"an image is {_short(one)}, not a path")
    return one


# -- ours


def _internal(raw: dict) -> list[dict]:
    keys = next(keys for keys in OURS if all(key in raw for key in keys))
    return [{**{key: raw[key] for key in keys}, "images": _images(raw)}]


OURS = (("turns",), ("prompt", "chosen", "rejected"), ("request", "calls"))


def _is_internal(raw: dict) -> bool:
    if all(key in raw for key in OURS[1]) and any(isinstance(raw[key], list) for key in OURS[1]):
        return False  # TRL's lists of messages
    return any(all(key in raw for key in keys) for keys in OURS)


# -- conversations: LLaVA, ShareGPT


def _conversations(raw: dict) -> list[dict]:
    turns = [(_of(turn, "from", "role"), _text(_of(turn, "value", "content"), "a turn")) for turn in _list(raw["conversations"], "conversations")]
    if isinstance(raw.get("system"), str) and raw["system"]:
        turns.insert(0, ("system", raw["system"]))
    images = _images(raw)
    return [{"images": images, "turns": _without_placeholders([_turn(role, text) for role, text in turns], len(images))}]


def _without_placeholders(turns: list[dict], images: int) -> list[dict]:
    """Takes the marks out of the texts; pictures stand at the head of the first question, as LLaVA puts them, too."""
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    marks = sum(turn["text"].count(PLACEHOLDER) for turn in turns)
    if marks != images:
        raise ValueError(f"it has {images} images and {marks} {PLACEHOLDER}")
    if marks and (first is None or first["text"].count(PLACEHOLDER) != marks):
        raise ValueError(f"{PLACEHOLDER} stands behind the first question")
    if marks:
        first["text"] = "\n".join(part.strip() for part in first["text"].split(PLACEHOLDER) if part.strip())
    return turns


# -- messages: TRL, OpenAI


def _messages(raw: dict) -> list[dict]:
    turns, found = _from_messages(raw["messages"])
    return [{"images": _together(_images(raw), found), "turns": turns}]


def _together(columns: list, parts: list) -> list:
    """Pictures of the record's columns and of its messages' parts: parts without a source stand for the columns' in order."""
    named = [one for one in parts if one is not None]
    if not parts:
        return columns
    if columns and named:
        raise ValueError("it has images both in its own column and in its messages")
    if named and len(named) != len(parts):
        raise ValueError("some image parts name a picture and some do not")
    if not named and len(columns) != len(parts):
        raise ValueError(f"it has {len(columns)} images and {len(parts)} image parts")
    return named or columns


def _from_messages(messages: Any) -> tuple[list[dict], list]:
    """(turns, pictures of their parts; None for a part that names none)."""
    turns, images = [], []
    for number, message in enumerate(_list(messages, "messages")):
        role, content = _of(message, "role", "from"), _of(message, "content", "value")
        text, found = _parts(content) if isinstance(content, list) else (_text(content, "a message"), [])
        if found and any(turn["role"] == "user" for turn in turns):
            raise ValueError(f"message {number} has an image behind the first question")
        if found and ROLES.get(role) != "user":
            raise ValueError(f"message {number}, of `{role}`, has an image")
        images += found
        turn = _turn(role, text)
        if message.get("weight") == 0 or message.get("loss") is False:  # OpenAI's and our way to leave an answer out of the loss
            turn["loss"] = False
        turns.append(turn)
    return turns, images


def _parts(content: list) -> tuple[str, list]:
    texts, images = [], []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = _of(part, "type")
        if kind in ("text", "input_text"):
            texts.append(_text(_of(part, "text"), "a text part"))
        elif kind in ("image_url", "input_image"):
            address = _of(part, "image_url")
            images.append(_image(address.get("url") if isinstance(address, dict) else address))
        elif kind == "image":
            source = next((part[key] for key in ("image", "path", "url") if part.get(key) is not None), None)
            images.append(None if source is None else _image(source))
        else:
            raise ValueError(f"a part is of type `{_short(kind)}`; known are text, image, image_url")
    return "\n".join(text for text in texts if text), images


# -- preferences: TRL


def _preference(raw: dict) -> list[dict]:
    chosen, rejected = (_answer_turns(raw[side], side) for side in ("chosen", "rejected"))
    if raw.get("prompt") is None:  # the prompt is what both sides begin with
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        asked, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        found = []
    elif isinstance(raw["prompt"], str):
        asked, found = [_turn("user", raw["prompt"])], []
    else:
        asked, found = _from_messages(raw["prompt"])
    if [turn["role"] for turn in asked] != ["user"] or not len(chosen) == len(rejected) == 1:
        raise ValueError(f"a preference needs one question and one answer a side; it has {len(asked)}, {len(chosen)} and {len(rejected)} turns")
    images = _together(_images(raw), found)
    return [{"images": images, "prompt": asked[0]["text"], "chosen": chosen[0]["text"], "rejected": rejected[0]["text"]}]


def _answer_turns(side: Any, name: str) -> list[dict]:
    if isinstance(side, str):
        return [_turn("assistant", side)]
    turns, images = _from_messages(side)
    if images:
        raise ValueError(f"`{name}` has images of its own")
    return turns


# -- one question, one caption


def _completion(raw: dict) -> list[dict]:
    asked, found = ([_turn("user", raw["prompt"])], []) if isinstance(raw["prompt"], str) else _from_messages(raw["prompt"])
    answer = [_turn("assistant", raw["completion"])] if isinstance(raw["completion"], str) else _from_messages(raw["completion"])[0]
    asked = [{**turn, "loss": False} for turn in asked]
    return [{"images": _together(_images(raw), found), "turns": [*asked, *answer]}]


def _question(raw: dict) -> list[dict]:
    question = next(raw[key] for key in QUESTIONS if key in raw)
    if "choices" in raw or "options" in raw or _letters(raw):
        raise ValueError("it has choices: write question and choices as one text and the answer as it is to be said")
    answer = next(raw[key] for key in ANSWERS if key in raw)
    answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    turns = [_turn("user", _text(question, "the question")), _turn("assistant", _text(answer, "the answer"))]
    images = _images(raw)
    return [{"images": images, "turns": _without_placeholders(turns, len(images)) if PLACEHOLDER in turns[0]["text"] else turns}]


def _letters(raw: dict) -> bool:
    """Whether choices stand in columns A, B, ...: the answer, a bare letter, would be learnt without what it stands for."""
    return {"a", "b"} <= {LETTER.sub("", key).casefold() for key in raw if isinstance(key, str)}


def _captions(raw: dict) -> list[dict]:
    texts = raw["captions"] if "captions" in raw else [raw["caption"] if "caption" in raw else raw["text"]]
    if "question_id" in raw:
        raise ValueError("it has a question and no answer")
    images, regions = _images(raw), _regions(raw)
    if not images:
        raise ValueError("it has a caption and no image")
    rows = [{"images": images, "turns": [_turn("user", CAPTION_REQUEST), _turn("assistant", _text(text, "the caption"))]}
            for text in _list(texts, "captions")]
    if regions and rows:
        rows[0]["regions"] = regions
    if len(rows) > 1:
        name = raw.get("id", images[0])
        rows = [{**row, "id": f"{name}-{number}"} for number, row in enumerate(rows)]
    return rows


def _regions(raw: dict) -> list[dict]:
    """COCO's boxes (left, top, width, height in pixels) as ours."""
    if not all(key in raw for key in ("objects", "width", "height")):
        return []
    width, height, found = raw["width"], raw["height"], []
    for one in _list(raw["objects"], "objects"):
        left, top, across, down = one["bbox"]
        box = [left / width, top / height, (left + across) / width, (top + down) / height]
        found.append({"box": box, "label": one["category"], "kind": "object"})
    return found


def _list(value: Any, name: str) -> list:
    if not isinstance(value, list) or not value:
        raise ValueError(f"`{name}` is {_short(value)}, not a list with something in it")
    return value


def _of(mapping: Any, *names: str) -> Any:
    if not isinstance(mapping, dict):
        raise ValueError(f"{_short(mapping)} stands where a mapping is needed")
    for name in names:
        if name in mapping:
            return mapping[name]
    raise ValueError(f"{_short(mapping)} has no `{names[0]}`")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_short(value)}, not a text")
    return value


def _turn(role: Any, text: str) -> dict:
    if role not in ROLES:
        raise ValueError(f"a turn is of {_short(role)}; known are {', '.join(ROLES)}")
    return {"role": ROLES[role], "text": text, "loss": ROLES[role] == "assistant"}


def _has(*names: str) -> Callable[[dict], bool]:
    return lambda raw: all(name in raw for name in names)


FORMATS: tuple[tuple[str, Callable[[dict], bool], Callable[[dict], list[dict]]], ...] = (
    ("omnivision", _is_internal, _internal),
    ("preference", _has("chosen", "rejected"), _preference),
    ("conversations", _has("conversations"), _conversations),
    ("messages", _has("messages"), _messages),
    ("prompt and completion", _has("prompt", "completion"), _completion),
    ("question and answer", lambda raw: any(key in raw for key in QUESTIONS) and any(key in raw for key in ANSWERS), _question),
    ("caption", lambda raw: any(key in raw for key in ("caption", "captions", "text")), _captions),
)
