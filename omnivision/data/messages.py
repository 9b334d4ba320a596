"""Records with messages: TRL's and OpenAI's conversations, TRL's preferences and completions."""

from __future__ import annotations

from typing import Any

from omnivision.data.fields import ROLES, as_told, image_of, images_of, list_of, short, text_of, turn_of, value_of

ADDRESSED = ("image_url", "input_image")  # types of OpenAI's image parts


def messages(raw: dict) -> list[dict]:
    """One conversation: TRL's, OpenAI's.

    Raises:
        ValueError: it contradicts itself; says how. So do the others.
    """
    turns, found = _from_messages(raw["messages"])
    return [{"images": _together(images_of(raw), found), "turns": turns}]


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
    for number, message in enumerate(list_of(messages, "messages")):
        role, content = value_of(message, "role", "from"), value_of(message, "content", "value")
        text, found = parts_of(content) if isinstance(content, list) else (text_of(content, "a message"), [])
        if found and any(turn["role"] == "user" for turn in turns):
            raise ValueError(f"message {number} has an image behind the first question")
        if found and ROLES.get(role) != "user":
            raise ValueError(f"message {number}, of `{role}`, has an image")
        images += found
        turns.append(as_told(message, turn_of(role, text)))
    return turns, images


def parts_of(content: list) -> tuple[str, list]:
    """(text, pictures) of a content that is written in parts.

    Raises:
        ValueError: a part of an unknown type.
    """
    texts, images = [], []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = value_of(part, "type")
        if kind in ("text", "input_text"):
            texts.append(text_of(value_of(part, "text"), "a text part"))
        elif kind in (*ADDRESSED, "image"):
            source = _source(part)
            images.append(None if source is None and kind == "image" else image_of(source))
        else:
            raise ValueError(f"a part is of type `{short(kind)}`; known are text, image, image_url")
    return "".join(texts), images  # as the chat template puts them together


def _source(part: dict) -> Any:
    """What an image part says of where its picture lies; None where it says nothing."""
    if part["type"] in ADDRESSED:
        address = part.get("image_url")
        return address.get("url") if isinstance(address, dict) else address
    return next((part[key] for key in ("image", "path", "url") if part.get(key) is not None), None)


def named_parts(raw: dict) -> list[tuple[dict, str]]:
    """The image parts of a record's messages that name a picture, in order, each with the name; what is wrong with others is found when they are read."""
    lists = [raw[key] for key in ("messages", "prompt") if isinstance(raw.get(key), list)]
    contents = [message.get("content", message.get("value")) for one in lists for message in one if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    sources = [(part, _source(part)) for part in parts if part.get("type") in (*ADDRESSED, "image")]
    names = [(part, source.get("path") if isinstance(source, dict) else source) for part, source in sources]
    return [(part, name) for part, name in names if isinstance(name, str) and name]


def preference(raw: dict) -> list[dict]:
    """TRL's preference: texts, or lists of messages."""
    chosen, rejected = (_answer_turns(raw[side], side) for side in ("chosen", "rejected"))
    if raw.get("prompt") is None:  # the prompt is what both sides begin with
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        asked, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        found = []
    elif isinstance(raw["prompt"], str):
        asked, found = [turn_of("user", raw["prompt"])], []
    else:
        asked, found = _from_messages(raw["prompt"])
    if [turn["role"] for turn in asked] != ["user"] or not len(chosen) == len(rejected) == 1:
        raise ValueError(f"a preference needs one question and one answer a side; it has {len(asked)}, {len(chosen)} and {len(rejected)} turns")
    images = _together(images_of(raw), found)
    return [{"images": images, "prompt": asked[0]["text"], "chosen": chosen[0]["text"], "rejected": rejected[0]["text"]}]


def _answer_turns(side: Any, name: str) -> list[dict]:
    if isinstance(side, str):
        return [turn_of("assistant", side)]
    turns, images = _from_messages(side)
    if images:
        raise ValueError(f"`{name}` has images of its own")
    return turns


def completion(raw: dict) -> list[dict]:
    """A prompt, which is not supervised, with its completion."""
    asked, found = ([turn_of("user", raw["prompt"])], []) if isinstance(raw["prompt"], str) else _from_messages(raw["prompt"])
    answer = [turn_of("assistant", raw["completion"])] if isinstance(raw["completion"], str) else _from_messages(raw["completion"])[0]
    asked = [{**turn, "loss": False} for turn in asked]
    return [{"images": _together(images_of(raw), found), "turns": [*asked, *answer]}]
