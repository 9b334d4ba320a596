"""Reference answers that travel with an export: questions, pictures, and what the fp32 checkpoint says next.

L = tokens of a prompt, V = vocabulary rows
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw

from omnivision.data.image import open_image
from omnivision.errors import DataError
from omnivision.export.folder import PICTURE_FOLDER, REFERENCE_FILE
from omnivision.generation import stop_ids

TOP = 5  # log-probs kept of each next token
PLAIN_QUESTIONS = (
    "What is in the image?",
    "Is there a circle in the image?",
    "How many things are there?",
    "图中有什么？",
    "What colour is it?\nAnswer the question with a single word.",
)


class Question(NamedTuple):
    """One prompt; image is None for a text-only one."""

    text: str
    image: Path | None


def gather_questions(file: str | Path | None, image_root: str | Path | None, count: int, room: Path) -> list[Question]:
    """What an export is asked: rows of a file, or drawn pictures where there is none.

    Args:
        file, image_root, count: as in read_questions.
        room: a folder for drawn pictures.

    Returns:
        The questions, and one about a drawn picture more where none has a picture: nothing else would run the tower.
    """
    asked = read_questions(file, image_root, count) if file else plain_questions(room, count)
    return asked if any(one.image for one in asked) else [*asked, *plain_questions(room, 1)]


def read_questions(file: str | Path, image_root: str | Path | None, count: int) -> list[Question]:
    """Up to `count` rows of a question file, spread evenly over it.

    Args:
        file: JSON lines with "text" and, where there is a picture, "image".
        image_root: the folder that the image paths start from; None is the file's own.
        count: how many.

    Raises:
        DataError: no such file, a broken row, no row at all, or an image outside the folder.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError("no question file", str(file), "Give JSON lines with text and image.")
    root = Path(image_root) if image_root is not None else file.parent
    lines = [
        (number, line) for number, line in enumerate(_lines(file), 1) if line.strip()
    ]
    if not lines:
        raise DataError("the question file is empty", str(file), "Give JSON lines with text and image.")
    count = min(count, len(lines))
    return [_read_row(*lines[index * len(lines) // count], file, root) for index in range(count)]


def _lines(file: Path) -> list[str]:
    """Of JSON lines: str.splitlines would also cut a text at U+2028 and the like, which JSON lets stand as they are."""
    with file.open(encoding="utf-8") as rows:
        return [line.rstrip("\n") for line in rows]


def _read_row(number: int, line: str, file: Path, root: Path) -> Question:
    where = f"{file}:{number}"
    try:
        row = json.loads(line)
        text, image = row["text"], row.get("image")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError("not a JSON line with a text", where, "Fix or remove the line.") from error
    if not isinstance(text, str) or not isinstance(image, str | None):
        raise DataError("text and image must be strings", where, "Fix or remove the line.")
    if image is None:
        return Question(text, None)
    path = (root / image).resolve()
    if not path.is_relative_to(root.resolve()):
        raise DataError(f"image {image!r} lies outside {root}", where, "Keep images under --image-root.")
    if not path.is_file():
        raise DataError(f"no image {image!r} under {root}", where, "Check --image-root.")
    return Question(text, path)


def plain_questions(folder: Path, count: int) -> list[Question]:
    """Questions about drawn rectangles and circles, for an export without a question file.

    Args:
        folder: where the pictures are written.
        count: how many questions, each about a picture of its own.
    """
    dice = random.Random("export reference")
    folder.mkdir(parents=True, exist_ok=True)
    questions: list[Question] = []
    for number in range(count):
        picture = Image.new("RGB", (216, 216), _color(dice))
        draw = ImageDraw.Draw(picture)
        for _ in range(dice.randint(1, 6)):
            x, y, size = dice.randrange(180), dice.randrange(180), dice.randint(20, 90)
            dice.choice((draw.rectangle, draw.ellipse))((x, y, x + size, y + size), fill=_color(dice))
        file = folder / f"plain{number:03d}.png"
        picture.save(file)
        questions.append(Question(PLAIN_QUESTIONS[number % len(PLAIN_QUESTIONS)], file))
    return questions


def _color(dice: random.Random) -> tuple[int, int, int]:
    return dice.randrange(256), dice.randrange(256), dice.randrange(256)


@torch.inference_mode()
def next_token(model, processor, question: Question) -> tuple[list[int], torch.Tensor]:
    """The prompt's ids and the log-probabilities of the token that follows it.

    Returns:
        Ids (L) as a list, and log-probs (V) in fp32 on the CPU, whatever the model computes in.
    """
    inputs = _inputs(model, processor, question)
    logits_V = model(**inputs, logits_to_keep=1).logits[0, -1]
    return inputs["input_ids"][0].tolist(), logits_V.float().cpu().log_softmax(-1)


def _inputs(model, processor, question: Question) -> dict[str, torch.Tensor]:
    """A question as the model takes it."""
    content: list[dict] = [{"type": "text", "text": question.text}]
    if question.image is not None:
        content.insert(0, {"type": "image", "image": open_image(question.image)})
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


@torch.inference_mode()
def greedy_steps(model, processor, question: Question, new_tokens: int) -> tuple[list[int], list[torch.Tensor]]:
    """The prompt's ids and the log-probabilities (V) of every token of the greedy answer, its end included.

    Each token is the most likely one, as engines take it: `model.generate` would heed a repetition_penalty of the generation config.
    """
    inputs, stops = _inputs(model, processor, question), stop_ids(model)
    ids, steps, cache = inputs["input_ids"][0].tolist(), [], None
    while len(steps) < new_tokens:
        found = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits_V, cache = found.logits[0, -1], found.past_key_values
        steps.append(logits_V.float().cpu().log_softmax(-1))
        chosen = logits_V.argmax()
        if int(chosen) in stops:
            break
        inputs = {"input_ids": chosen[None, None]}
    return ids, steps


def write_reference(folder: Path, model, processor, questions: Iterable[Question], new_tokens: int = 1) -> int:
    """Answers every question with the model and writes reference.jsonl with the pictures beside it.

    Args:
        folder: of the export. model, processor: the checkpoint's, in fp32.
        questions: what is asked.
        new_tokens: above 1 the whole greedy answer is kept too, under "steps", one entry a token.

    Returns:
        How many questions were written.

    Raises:
        DataError: a picture that cannot be opened, or an answer with non-finite numbers.
    """
    (folder / PICTURE_FOLDER).mkdir(exist_ok=True)
    number = 0
    with (folder / REFERENCE_FILE).open("w", encoding="utf-8") as out:
        for question in questions:
            ids_L, steps = greedy_steps(model, processor, question, new_tokens)
            if not all(bool(torch.isfinite(logprobs_V).all()) for logprobs_V in steps):
                raise DataError(
                    "the checkpoint answers with non-finite numbers",
                    f"question {question.text!r}",
                    "Take an earlier checkpoint.",
                )
            first, *_ = kept = [_best(logprobs_V) for logprobs_V in steps]
            row = {"text": question.text, "image": _keep_picture(question.image, folder), "input_ids": ids_L, **first}
            if new_tokens > 1:
                row["steps"] = [{"id": step["top_ids"][0], **step} for step in kept]
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            number += 1
    return number


def _best(logprobs_V: torch.Tensor) -> dict[str, list]:
    """The most likely tokens of a step."""
    best = logprobs_V.topk(min(TOP, len(logprobs_V)))
    return {"top_ids": best.indices.tolist(), "top_logprobs": [round(value, 6) for value in best.values.tolist()]}


def _keep_picture(image: Path | None, folder: Path) -> str | None:
    """Copies the file as it is, once however many questions it has; named by its content."""
    if image is None:
        return None
    name = f"{hashlib.sha256(image.read_bytes()).hexdigest()[:16]}{image.suffix.lower()}"
    target = folder / PICTURE_FOLDER / name
    if not target.exists():
        shutil.copyfile(image, target)
    return f"{PICTURE_FOLDER}/{name}"


def read_reference(folder: Path) -> Iterator[tuple[Question, dict]]:
    """The rows of an export's reference.jsonl with their questions.

    Raises:
        DataError: the file is missing or broken.
    """
    file = folder / REFERENCE_FILE
    if not file.is_file():
        raise DataError("no reference answers", str(file), "This is no export, or not a whole one: export again.")
    for number, line in enumerate(_lines(file), 1):
        question = _read_row(number, line, file, folder)
        row = json.loads(line)
        if not row.get("top_ids") or "input_ids" not in row or "top_logprobs" not in row:
            raise DataError("a reference row without an answer", f"{file}:{number}", "Export again.")
        yield question, row
