"""From turns to ids and labels: the template gives the structure, every text is encoded by itself and spliced in.

A user who types `<|im_end|>`, `<|image_pad|>` or `<nexa_3>` gets ordinary text, never the control token: the template
is rendered with private marks in place of the texts, only the structure between the marks may become control tokens,
and texts are encoded with `split_special_tokens=True`. Text and structure never merge into one token, so the ids do
not depend on what stands beside them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omnivision.constants import IGNORE_INDEX, IMAGE_TOKEN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_FILE = Path(__file__).with_name("chat_template.jinja")
_MARK = "\ue000text{}\ue001"  # private use area; user text is never rendered, so it cannot collide
_MARKS = re.compile("\ue000text(\\d+)\ue001")

Turn = dict[str, Any]


class Encoded(NamedTuple):
    """Ids of a conversation and, at every position, the id to be predicted there or IGNORE_INDEX."""

    input_ids: list[int]
    labels: list[int]


class _Piece(NamedTuple):
    """A stretch of the rendered template: ids of the structure, or the number of a text."""

    ids: tuple[int, ...]
    text: int | None
    generated: bool  # inside the template's generation block


@lru_cache(maxsize=1)
def default_template() -> str:
    """The project's chat template."""
    return TEMPLATE_FILE.read_text(encoding="utf-8")


def encode_conversation(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], num_images: int,
                        image_seq_length: int, add_generation_prompt: bool = False) -> Encoded:
    """Encodes turns whose images stand at the head of the first user turn.

    Args:
        tokenizer: with ChatML's and the image placeholder's special tokens.
        turns: {"role": "system|user|assistant", "text": str, "loss": bool}. An assistant turn may carry
            "ids": list[int] in place of text; that is how functional tokens get into a target.
        num_images: images of this conversation.
        image_seq_length: placeholders of one image.
        add_generation_prompt: whether to end with the head of an assistant turn.

    Returns:
        Ids and labels; supervised are assistant turns with loss, text and end token.

    Raises:
        ValueError: images without a user turn, or an unknown role.
    """
    images_left = num_images
    messages: list[dict[str, Any]] = []
    bodies: list[Any] = []
    for turn in turns:
        parts = [{"type": "image"}] * (images_left if turn["role"] == "user" else 0)
        images_left -= len(parts)
        bodies.append(turn["ids"] if "ids" in turn else turn["text"])
        messages.append({"role": turn["role"], "content": [*parts, {"type": "text", "text": len(bodies) - 1}],
                         "loss": bool(turn.get("loss", turn["role"] == "assistant"))})
    if images_left:
        raise ValueError(f"The conversation has {num_images} images and no user turn to hold them: add a user turn.")
    return encode_messages(tokenizer, messages, bodies, default_template(), image_seq_length, add_generation_prompt)


def encode_messages(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]], bodies: Sequence[Any],
                    template: str, image_seq_length: int, add_generation_prompt: bool) -> Encoded:
    """Encodes messages whose text parts hold the number of a body instead of the text.

    Args:
        messages: {"role", "content": [{"type": "image"} | {"type": "text", "text": number}], "loss": bool}.
        bodies: the texts (str), or ids that are taken as they are.
        template: a jinja chat template with a generation block.
        image_seq_length: placeholders of one image.
        add_generation_prompt: as in encode_conversation.
    """
    shape = tuple((m["role"], tuple(p["type"] for p in m["content"])) for m in messages)
    with_loss = [m.get("loss", True) for m in messages for p in m["content"] if p["type"] == "text"]
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    ids: list[int] = []
    labels: list[int] = []
    supervised = False
    for piece in _structure(tokenizer, template, shape, add_generation_prompt):
        new = _expand(piece.ids, image_id, image_seq_length) if piece.text is None else _encode(tokenizer, bodies[piece.text])
        if piece.text is not None:
            supervised = with_loss[piece.text]  # holds for the end token that follows
        ids += new
        labels += new if piece.generated and supervised else [IGNORE_INDEX] * len(new)
    return Encoded(ids, labels)


@lru_cache(maxsize=256)
def _structure(tokenizer: PreTrainedTokenizerBase, template: str, shape: tuple[tuple[str, tuple[str, ...]], ...],
               add_generation_prompt: bool) -> tuple[_Piece, ...]:
    """Renders the template with marks and cuts it at the marks and at the edges of the generation blocks."""
    from transformers.utils.chat_template_utils import render_jinja_template

    number = 0
    messages = []
    for role, kinds in shape:
        content = []
        for kind in kinds:
            content.append({"type": kind, "text": _MARK.format(number)} if kind == "text" else {"type": kind})
            number += kind == "text"
        messages.append({"role": role, "content": content})
    rendered, spans = render_jinja_template([messages], chat_template=template, return_assistant_tokens_mask=True,
                                            add_generation_prompt=add_generation_prompt)
    text, spans = rendered[0], [tuple(span) for span in (spans[0] if spans else [])]
    marks = {m.start(): (m.end(), int(m.group(1))) for m in _MARKS.finditer(text)}
    if sorted(n for _, n in marks.values()) != list(range(number)):
        raise ValueError("The chat template drops or repeats a message's text, so its ids cannot be spliced safely. "
                         "Use the project's template (omnivision/model/chat_template.jinja).")
    cuts = sorted({0, len(text), *marks, *(end for end, _ in marks.values()), *(edge for span in spans for edge in span)})
    pieces = []
    for start, end in zip(cuts, cuts[1:]):
        generated = any(a <= start and end <= b for a, b in spans)
        mark = marks.get(start)
        ids = () if mark else tuple(tokenizer(text[start:end], add_special_tokens=False)["input_ids"])
        pieces.append(_Piece(ids, mark[1] if mark else None, generated))
    return tuple(pieces)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of untrusted text: control tokens inside it stay letters."""
    return list(_text_ids(tokenizer, len(tokenizer), text))


@lru_cache(maxsize=1 << 12)
def _text_ids(tokenizer: PreTrainedTokenizerBase, _size: int, text: str) -> tuple[int, ...]:
    """Questions and short answers recur thousands of times; the size tells apart a tokenizer before and after new tokens."""
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _encode(tokenizer: PreTrainedTokenizerBase, body: str | list[int]) -> list[int]:
    return encode_text(tokenizer, body) if isinstance(body, str) else list(body)


def _expand(ids: tuple[int, ...], image_id: int, image_seq_length: int) -> list[int]:
    return [new for token in ids for new in ([token] * image_seq_length if token == image_id else [token])]
