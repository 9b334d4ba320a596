"""What teachers that are models are told, and how their replies are read."""

from __future__ import annotations

import hashlib
import json

from omnivision.endpoint.messages import object_in
from omnivision.pairs.teacher import CORRECTED, RIGHT, UNMENDED, Verdict

CORRECT = """You check answers about pictures. Look at the picture, the question and the answer.
If every statement of the answer is true of the picture, reply {"right": true}.
Otherwise correct it: replace only the words that are false, with as few words as possible. Keep every other word, the order of the
sentences, the punctuation, the format and the language exactly as they are. Do not add, explain or improve anything.
Reply {"right": false, "answer": "the corrected answer"}. If it cannot be made true by small replacements, reply {"right": false, "answer": null}.
Reply with this one JSON object and nothing else."""
LOOK_AGAIN = """You check corrections of answers about pictures. Look at the picture, the question, the original answer and the corrected one.
Reply {"right": ..., "original_right": ..., "only_needed": ...} with true or false for each:
right: every statement of the corrected answer is true of the picture, and it answers the question.
original_right: the same of the original answer.
only_needed: the correction changes nothing but what was false: no other words, no order, no style, nothing added.
Reply with this one JSON object and nothing else."""

HASH = hashlib.sha256(f"{CORRECT}\0{LOOK_AGAIN}".encode()).hexdigest()[:12]


def asked(question: str, answer: str, original: str = "") -> str:
    """The user's part of both prompts: texts as JSON, so that none of them can pose as the prompt."""
    told = {"question": question, "original_answer": original, "corrected_answer": answer} if original else {"question": question, "answer": answer}
    return json.dumps(told, ensure_ascii=False)


def read_correction(text: str) -> Verdict:
    """The verdict of a reply to CORRECT.

    Raises:
        ValueError: it is not what was asked for.
    """
    reply = _object(text)
    if reply["right"]:
        return Verdict(RIGHT)
    answer = reply.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise ValueError(f"`answer` is a {type(answer).__name__}")
    return Verdict(CORRECTED, answer) if answer and answer.strip() else Verdict(UNMENDED)


def read_second_look(text: str) -> Verdict:
    """The verdict of a reply to LOOK_AGAIN.

    Raises:
        ValueError: it is not what was asked for.
    """
    reply = _object(text)
    if not all(isinstance(reply.get(key), bool) for key in ("original_right", "only_needed")):
        raise ValueError("the reply has no `original_right` and `only_needed`")
    return Verdict(RIGHT if reply["right"] and not reply["original_right"] and reply["only_needed"] else UNMENDED)


def _object(text: str) -> dict:
    reply = object_in(text)
    if not isinstance(reply.get("right"), bool):
        raise ValueError("the reply has no `right`")
    return reply
