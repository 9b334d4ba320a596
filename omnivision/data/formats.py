"""Other people's records as ours: LLaVA, ShareGPT, TRL, OpenAI, question-answer tables, captions. Recognised by their keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from omnivision.data.captions import captions
from omnivision.data.fields import IMAGES, PLACEHOLDER, SEEN_AND_HEARD, as_told, images_of, list_of, short, text_of, turn_of, value_of, without_placeholders
from omnivision.data.messages import completion, messages, preference
from omnivision.data.pictures import Packed

ANSWERS = ("answer", "label", "answers", "response")
QUESTIONS = ("question", "query", "text")
TEXTS = ("caption", "captions", "prompt", "completion", "chosen", "rejected", "request", "system", "instruction", "input", "output", "context", "title")
READ = (*QUESTIONS, *ANSWERS, *TEXTS, "id", "question_id")  # as texts, which may name a file
PICTURE_KEY = re.compile(r"^(?!.*(id|ids|hash|size|width|height|count|type)$).*(image|img|picture|photo|jpe?g|png|webp)", re.IGNORECASE)
PICTURE_ID = re.compile(r"^(image|img|picture|photo)[_ ]?ids?$", re.IGNORECASE)
PICTURE_FILE = re.compile(r"\S\.(png|jpe?g|jfif|webp|gif|bmp|tiff?|avif|heic)$", re.IGNORECASE)
MOST_WORDS = 3  # of a file's name: more are a sentence that ends with one
NUMBERED = re.compile(r"^(image|img|picture|photo)s?[_ ]?(path|file|name)?[_ ]?([0-9]+|[ab]|before|after|left|right)$"
                      r"|^(first|second|third|before|after|left|right|other)[_ ](image|img|picture|photo)s?$", re.IGNORECASE)  # one of several columns with a picture each
LETTER = re.compile(r"^(option|choice)[_ ]?(?=[a-z]$)", re.IGNORECASE)  # before the letter of a column of choices
KEPT = ("regions", "edit_spans")


def to_internal(raw: Any) -> list[dict]:
    """The internal rows of one record: one, or one a caption.

    Raises:
        ValueError: a record of no known format, or one that contradicts itself; says what is wrong.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"it is {short(raw)}, not an object with keys")
    for name, recognises, converts in FORMATS:
        if recognises(raw):
            rows = converts(raw)
            if any(raw.get(key) for key in SEEN_AND_HEARD):
                raise ValueError(f"it has `{next(key for key in SEEN_AND_HEARD if raw.get(key))}`; models see pictures only")
            rows = [_with_system(raw, row, name) for row in rows]
            images = [image for row in rows for image in row["images"]]
            if images:
                _check_nothing_beside(raw, images)
            else:
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
    turns = without_placeholders(turns, len(row["images"]))
    return {**row, "turns": turns} if "turns" in row else {**row, "prompt": turns[0]["text"]}


def _check_nothing_lost(raw: dict) -> None:
    """A picture under a key that nobody reads would be lost in silence, and its row learn to answer blindly."""
    inner = [(name, one) for value in raw.values() if isinstance(value, dict) for name, one in value.items()]
    for key, value in [*raw.items(), *inner]:
        held = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str | dict | Packed)]
        called = isinstance(key, str) and (PICTURE_KEY.search(key) and any(held) or PICTURE_ID.search(key) and value not in (None, "", []))
        named = key not in READ and any(isinstance(one, str) and PICTURE_FILE.search(one) and len(one.split()) <= MOST_WORDS for one in held)
        if called or named or any(isinstance(one, Packed) for one in held):
            raise ValueError(f"{key!r} seems to name a picture; pictures are read from {', '.join(('images', *IMAGES))}")


def _check_nothing_beside(raw: dict, images: list) -> None:
    """A second picture in a column of its own would be lost as well. The same one as bytes and by its name, or under two paths, is one picture."""
    paths = [PurePath(image).parts for image in images if isinstance(image, str)]
    names = {parts[-1:] for parts in paths}
    for key, value in raw.items():
        for one in value if isinstance(value, list) else [value]:
            path = one.get("path") if isinstance(one, dict) else one
            packed = isinstance(one, Packed) and one not in images
            parts = PurePath(path).parts if isinstance(path, str) else ()
            other = key in ("images", *IMAGES) and names and parts[-1:] not in names
            beside = paths and isinstance(key, str) and NUMBERED.search(key) and not any(_one_ends_the_other(parts, read) for read in paths)
            if packed or parts and (other or beside):
                raise ValueError(f"{key!r} names another picture than the column that is read; write all of them into `images`")


def _one_ends_the_other(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Whether two paths may be one picture's: of its folders one may have been left out."""
    shared = min(len(first), len(second))
    return first[-shared:] == second[-shared:]


def _with_system(raw: dict, row: dict, name: str) -> dict:
    """Anthropic's and LLaVA's system text stands beside the turns."""
    system = raw.get("system")
    own = [turn["text"] for turn in row.get("turns") or () if isinstance(turn, dict) and turn.get("role") == "system"]
    if not isinstance(system, str) or not system.strip() or [text.strip() for text in own if isinstance(text, str)] == [system.strip()]:
        return row
    if own:
        raise ValueError("its `system` is another text than its turns have")
    if name not in ("conversations", "messages"):
        raise ValueError("its `system` is read beside conversations and messages only: put it in front of the question, or leave it out")
    return {**row, "turns": [turn_of("system", system), *row["turns"]]}


# -- ours


def _internal(raw: dict) -> list[dict]:
    keys = next(keys for keys in OURS if all(key in raw for key in keys))
    row = {key: raw[key] for key in keys}
    if isinstance(row.get("turns"), list):
        row["turns"] = [_own_turn(turn) if isinstance(turn, dict) else turn for turn in row["turns"]]
    return [{**row, "images": images_of(raw)}]


def _own_turn(turn: dict) -> dict:
    given = {key: value for key, value in turn.items() if value is not None}
    if more := [key for key in given if key not in ("role", "text", "loss", "weight")]:
        raise ValueError(f"a turn has {short(more[0])}; known are role, text, loss and weight")
    return as_told(given, {key: value for key, value in given.items() if key != "weight"})


OURS = (("turns",), ("prompt", "chosen", "rejected"), ("request", "calls"))


def _is_internal(raw: dict) -> bool:
    if all(key in raw for key in OURS[1]) and any(isinstance(raw[key], list) for key in OURS[1]):
        return False  # TRL's lists of messages
    return any(all(key in raw for key in keys) for keys in OURS)


# -- conversations: LLaVA, ShareGPT


def _conversations(raw: dict) -> list[dict]:
    turns = [as_told(turn, turn_of(value_of(turn, "from", "role"), text_of(value_of(turn, "value", "content"), "a turn")))
             for turn in list_of(raw["conversations"], "conversations")]
    images = images_of(raw)
    return [{"images": images, "turns": without_placeholders(turns, len(images))}]


# -- one question


def _question(raw: dict) -> list[dict]:
    question = next(raw[key] for key in QUESTIONS if key in raw)
    if "choices" in raw or "options" in raw or _letters(raw):
        raise ValueError("it has choices: write question and choices as one text and the answer as it is to be said")
    answer = next(raw[key] for key in ANSWERS if key in raw)
    answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    turns = [turn_of("user", text_of(question, "the question")), turn_of("assistant", text_of(answer, "the answer"))]
    images = images_of(raw)
    return [{"images": images, "turns": without_placeholders(turns, len(images)) if PLACEHOLDER in turns[0]["text"] else turns}]


def _letters(raw: dict) -> bool:
    """Whether choices stand in columns A, B, ...: the answer, a bare letter, would be learnt without what it stands for."""
    return {"a", "b"} <= {LETTER.sub("", key).casefold() for key in raw if isinstance(key, str)}


def _has(*names: str) -> Callable[[dict], bool]:
    return lambda raw: all(name in raw for name in names)


FORMATS: tuple[tuple[str, Callable[[dict], bool], Callable[[dict], list[dict]]], ...] = (
    ("omnivision", _is_internal, _internal),
    ("preference", _has("chosen", "rejected"), preference),
    ("conversations", _has("conversations"), _conversations),
    ("messages", _has("messages"), messages),
    ("prompt and completion", _has("prompt", "completion"), completion),
    ("question and answer", lambda raw: any(key in raw for key in QUESTIONS) and any(key in raw for key in ANSWERS), _question),
    ("caption", lambda raw: any(key in raw for key in ("caption", "captions", "text")), captions),
)
