"""Other people's records as ours: LLaVA, ShareGPT, TRL, OpenAI, question-answer tables, captions. Recognised by their keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any

from omnivision.data.captions import captions
from omnivision.data.fields import IMAGES, PLACEHOLDER, SEEN_AND_HEARD, as_told, images_of, list_of, short, text_of, turn_of, value_of, without_placeholders
from omnivision.data.messages import completion, messages, parts_of, preference
from omnivision.data.pictures import Packed, TarPicture

ANSWERS = ("answer", "label", "answers", "response")
QUESTIONS = ("question", "query", "text")
TEXTS = ("caption", "captions", "prompt", "completion", "chosen", "rejected", "request", "system", "instruction", "input", "output", "context", "title")
READ = (*QUESTIONS, *ANSWERS, *TEXTS, "id", "question_id")  # as texts, which may name a file
PICTURE_KEY = re.compile(r"^(?!.*(id|ids|hash|size|width|height|count|type)$).*(image|img|picture|photo|jpe?g|png|webp)", re.IGNORECASE)
PICTURE_ID = re.compile(r"^(image|img|picture|photo)[_ ]?ids?$", re.IGNORECASE)
PICTURE_FILE = re.compile(r"\S\.(png|jpe?g|jfif|webp|gif|bmp|tiff?|avif|heic)$", re.IGNORECASE)
MOST_WORDS = 3  # of a file's name: more are a sentence that ends with one
WHICH = "([0-9]+|[ab]|before|after|left|right|first|second|third|other|next|prev|previous|target|ref|reference|edited|rejected)"
NUMBERED = re.compile(rf"^(image|img|picture|photo)s?[_ ]?(path|file|name|url)?[_ ]?{WHICH}$|^{WHICH}[_ ]?(image|img|picture|photo)s?[_ ]?(path|file|name|url)?$",
                      re.IGNORECASE)  # one of several columns with a picture each
WEB = ("http://", "https://")
OF_THE_SAME = re.compile(r"(url|uri|link|source|src)s?$", re.IGNORECASE)  # where a picture was found on the web
SYSTEMS = ("system", "system_prompt", "system_message")
BEFORE_A_QUESTION = ("history", "context", "passage", "instruction", "hint")
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


def _values(raw: dict) -> Iterator[tuple[str, Any]]:
    """What stands under each key, one by one, also inside an object."""
    inner = [one for value in raw.values() if isinstance(value, dict) for one in value.items()]
    for key, value in [*raw.items(), *inner]:
        for one in value if isinstance(value, list) else [value]:
            yield str(key), one


def _is_file(text: str) -> bool:
    return bool(PICTURE_FILE.search(text)) and len(text.split()) <= MOST_WORDS


def _check_nothing_lost(raw: dict) -> None:
    """A picture under a key that nobody reads would be lost in silence, and its row learn to answer blindly."""
    for key, one in _values(raw):
        called = PICTURE_KEY.search(key) and one and isinstance(one, str | dict | Packed) or PICTURE_ID.search(key) and one not in (None, "", [])
        if called or isinstance(one, Packed) or key not in READ and isinstance(one, str) and _is_file(one):
            raise ValueError(f"{key!r} seems to name a picture; pictures are read from {', '.join(('images', *IMAGES))}")


def _check_nothing_beside(raw: dict, images: list) -> None:
    """A second picture under a key of its own would be lost as well. The same one as bytes and by its name, or under two paths, is one picture."""
    paths = [path for image in images for path in _paths(image)]
    nameless = any(isinstance(image, Packed) or image.startswith("data:") for image in images)
    for key, one in _values(raw):
        path = one.get("path") if isinstance(one, dict) else one
        packed = isinstance(one, Packed) or isinstance(one, dict) and isinstance(one.get("bytes"), bytes)
        if one not in images and (packed or isinstance(path, str) and path and _is_another(key, path, paths, nameless)):
            raise ValueError(f"{key!r} names another picture than the column that is read; write all of them into `images`")


def _paths(image: str | Packed) -> list[tuple[str, ...]]:
    """The names of a picture that is read, none where it has bytes alone; a shard's member also goes by what follows its record's key."""
    if isinstance(image, TarPicture):
        path = PurePath(image.member)
        return [path.parts, (path.name.partition(".")[2],)]
    return [] if isinstance(image, Packed) or image.startswith("data:") else [PurePath(image).parts]


def _is_another(key: str, path: str, paths: list[tuple[str, ...]], nameless: bool) -> bool:
    """Whether a key's path is that of another picture than those at `paths`; `nameless` says that there are some besides, which it may name."""
    if path.startswith("data:image/"):
        return True
    if NUMBERED.search(key):
        return not any(_one_ends_the_other(PurePath(path).parts, read) for read in paths)
    if nameless or key in READ or "thumb" in key.casefold() or path.startswith(WEB) and (OF_THE_SAME.search(key) or not PICTURE_KEY.search(key)):
        return False
    return (key in ("images", *IMAGES) and PICTURE_KEY.search(key) or _is_file(path)) and PurePath(path).name not in [read[-1] for read in paths if read]


def _one_ends_the_other(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Whether two paths may be one picture's: of its folders one may have been left out."""
    shared = min(len(first), len(second))
    return first[-shared:] == second[-shared:]


def _with_system(raw: dict, row: dict, name: str) -> dict:
    """Anthropic's, OpenOrca's and LLaVA's system text stands beside the turns."""
    given = {key: _system_text(raw[key], key) for key in SYSTEMS if raw.get(key)}
    given = {key: text for key, text in given.items() if text.strip()}
    key, system = next(iter(given.items()), ("", ""))
    if len({text.strip() for text in given.values()}) > 1:
        raise ValueError(f"its {' and '.join(f'`{key}`' for key in given)} are two texts")
    own = [turn["text"] for turn in row.get("turns") or () if isinstance(turn, dict) and turn.get("role") == "system"]
    if not system or [text.strip() for text in own if isinstance(text, str)] == [system.strip()]:
        return row
    if own:
        raise ValueError(f"its `{key}` is another text than its turns have")
    if name not in ("conversations", "messages"):
        raise ValueError(f"its `{key}` is read beside conversations and messages only: put it in front of the question, or leave it out")
    return {**row, "turns": [turn_of("system", system), *row["turns"]]}


def _system_text(value: Any, key: str) -> str:
    if not isinstance(value, list):
        return text_of(value, f"`{key}`")
    blocks = [parts_of([block]) for block in value]
    if any(pictures for _, pictures in blocks):
        raise ValueError(f"`{key}` has an image")
    return "\n".join(text for text, _ in blocks)


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
    if before := [key for key in BEFORE_A_QUESTION if raw.get(key)]:
        raise ValueError(f"it has `{before[0]}` beside its question: write both as one text, or earlier turns as `conversations`; or leave it out")
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
