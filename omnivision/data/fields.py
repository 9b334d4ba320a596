"""Fields of other people's records: typed access that says what stands in a field's place, turns, and pictures' columns."""

from __future__ import annotations

from typing import Any

from omnivision.data.pictures import Packed

PLACEHOLDER = "<image>"  # LLaVA's and ShareGPT's mark of a picture inside a text
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant", "chatgpt": "assistant",
         "bing": "assistant", "bard": "assistant", "system": "system"}
IMAGES = ("image", "imgname", "imagename", "image_path", "file_name", "img")
SEEN_AND_HEARD = ("video", "videos", "audio", "audios")
NOT_IN_TURNS = ("images", *IMAGES, *SEEN_AND_HEARD, "tool_calls", "function_call")


def short(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def list_of(value: Any, name: str) -> list:
    """The value, if it is a list with something in it.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"`{name}` is {short(value)}, not a list with something in it")
    return value


def value_of(mapping: Any, *names: str) -> Any:
    """What stands under the first of the names that a mapping has.

    Raises:
        ValueError: it is no mapping, or has none of them.
    """
    if not isinstance(mapping, dict):
        raise ValueError(f"{short(mapping)} stands where a mapping is needed")
    for name in names:
        if name in mapping:
            return mapping[name]
    raise ValueError(f"{short(mapping)} has no `{names[0]}`")


def text_of(value: Any, name: str) -> str:
    """The value, if it is a text.

    Raises:
        ValueError: it is none; `name` says what it was to be.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} is {short(value)}, not a text")
    return value


def turn_of(role: Any, text: str) -> dict:
    """A turn of ours; only answers are supervised.

    Raises:
        ValueError: an unknown role.
    """
    if role not in ROLES:
        raise ValueError(f"a turn is of {short(role)}; known are {', '.join(ROLES)}")
    return {"role": ROLES[role], "text": text, "loss": ROLES[role] == "assistant"}


def as_told(told: dict, turn: dict) -> dict:
    """The turn, without loss where its record says so: `weight` 0 (OpenAI's way) or `loss` false (ours).

    Raises:
        ValueError: they are something else, or the record's turn holds what would be lost: pictures, sounds, calls.
    """
    loss, weight = told.get("loss"), told.get("weight")
    if not isinstance(loss, bool | None):
        raise ValueError(f"`loss` of a turn is {short(loss)}, neither true nor false")
    if weight not in (None, 0, 1):
        raise ValueError(f"`weight` of a turn is {short(weight)}; 0 leaves it out of the loss, 1 does not")
    if lost := [key for key in NOT_IN_TURNS if told.get(key)]:
        raise ValueError(f"a turn has `{lost[0]}`, which nothing reads there; pictures stand in the record's `images`, calls in `calls` beside `request`")
    return {**turn, "loss": False} if weight == 0 or loss is False else turn


def images_of(raw: dict) -> list:
    """Pictures of the record's own columns.

    Raises:
        ValueError: one is no path.
    """
    if "images" in raw:
        value = raw["images"]
        if not isinstance(value, list):
            raise ValueError(f"`images` is {short(value)}, not a list of texts")
    else:
        key = next((key for key in IMAGES if raw.get(key) is not None), None)
        value = [] if key is None else raw[key]
        value = value if isinstance(value, list) else [value]
    return [image_of(one) for one in value]


def image_of(one: Any) -> str | Packed:
    """A picture's path, URI or bytes; `datasets` wraps a path.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(one, bytes) or isinstance(one, dict) and one.get("bytes"):
        raise ValueError("an image is bytes inside another field; a table's pictures stand in the column `images`")
    if isinstance(one, dict) and isinstance(one.get("path"), str):
        one = one["path"]
    if not isinstance(one, str | Packed) or one == "":
        raise ValueError(f"an image is {short(one)}, not a path")
    return one


def without_placeholders(turns: list[dict], images: int) -> list[dict]:
    """Takes the marks out of the texts; pictures stand at the head of the first question, as LLaVA puts them, too.

    Raises:
        ValueError: another number of marks than of images, or one behind the first question.
    """
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    marks = sum(turn["text"].count(PLACEHOLDER) for turn in turns)
    if marks != images:
        raise ValueError(f"it has {images} images and {marks} {PLACEHOLDER}")
    if marks and (first is None or first["text"].count(PLACEHOLDER) != marks):
        raise ValueError(f"{PLACEHOLDER} stands behind the first question")
    if marks:
        first["text"] = "\n".join(part.strip() for part in first["text"].split(PLACEHOLDER) if part.strip())
    return turns
