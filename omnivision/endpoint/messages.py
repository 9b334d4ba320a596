"""Messages of the chat format: texts, pictures, how many tokens they can be at most, and the object that a reply was to be."""

from __future__ import annotations

import base64
import json

from omnivision.data.raw import parse

IMAGE_TOKENS = 2_000  # for the cost limit only: published schemes count 85 to 1,600 a picture of ordinary size
MESSAGE_TOKENS = 16  # the template's marks around a message
TEMPLATE_TOKENS = 64  # what a template puts before all of them, such as a system text of its own
FENCE = "```"


def message(role: str, *parts: str | dict) -> dict:
    """One message.

    Args:
        role: system, user or assistant. parts: one text, or parts made by `text_part` and `image_part`.
    """
    if len(parts) == 1 and isinstance(parts[0], str):
        return {"role": role, "content": parts[0]}
    return {"role": role, "content": [text_part(part) if isinstance(part, str) else part for part in parts]}


def text_part(text: str) -> dict:
    """A text beside pictures."""
    return {"type": "text", "text": text}


def image_part(image: bytes, mime: str) -> dict:
    """A picture inside the message, as a data: URI: the server needs no access to our files, nor to the net.

    Args:
        image: the encoded file. mime: such as "image/png".

    Raises:
        ValueError: the MIME type is not one of a picture.
    """
    if not mime.startswith("image/"):
        raise ValueError(f"the MIME type {mime!r} is not one of a picture: give one such as image/png")
    return {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{base64.b64encode(image).decode('ascii')}"}}


def prompt_bound(messages: list) -> int:
    """Tokens that the messages can be at most: no token is shorter than a byte; pictures as `IMAGE_TOKENS`."""
    total = TEMPLATE_TOKENS
    for one in messages:
        content = one.get("content")
        parts = content if isinstance(content, list) else [content]
        total += MESSAGE_TOKENS + sum(map(_part_bound, parts))
    return total


def _part_bound(part: object) -> int:
    if isinstance(part, dict) and part.get("type") == "image_url":
        return IMAGE_TOKENS
    return len(str(part.get("text", "") if isinstance(part, dict) else part or "").encode("utf-8", "replace"))


def object_in(text: str) -> dict:
    """The one JSON object that a reply was to be; a code fence around it is forgiven.

    Raises:
        ValueError: it is none.
    """
    bare = text.strip()
    if bare.startswith(FENCE) and bare.endswith(FENCE):
        bare = bare.removeprefix(FENCE).removesuffix(FENCE).removeprefix("json")
    reply = parse(bare.strip())
    if not isinstance(reply, dict):
        raise ValueError("the reply is no JSON object")
    json.dumps(reply, ensure_ascii=False).encode()  # a UnicodeEncodeError is a ValueError: half a character, which no file could hold
    return reply
