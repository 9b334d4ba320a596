"""Saved answers: read from the files that official code and other tools write, and matched with questions by id, or by order.

What is wrong with a file is gathered and told at once: broken lines, ids twice, ids that no question has, answers to
another question, the questions given instead of answers. Missing answers are not a fault: they are counted.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from omnivision.data.raw import parse, writable
from omnivision.errors import DataError

from .questions import Questions
from .saved_forms import ID_KEYS, ORDER, TEXT_KEYS, key_of, plain, records_of


class Said(NamedTuple):
    """One saved answer."""

    text: str
    source: str  # file:line, file[number] or file[id]
    raw: dict[str, Any]  # the record it stands in; empty in a {id: text} file


class Predictions(NamedTuple):
    """The answers of one file, or of one file a subject.

    Attributes:
        said: id -> answer, in the order of the file.
        faults: kind of fault -> where it stands, each place.
        mapping: whether the file is one object {id: text}.
        path: as given. files: what was read.
        model: the `model_id` of the records; None where they have none.
        beside: split of POPE -> how many records are of it, and not of the one that is read.
    """

    said: dict[str, Said]
    faults: dict[str, list[str]]
    mapping: bool
    path: Path
    files: tuple[Path, ...] = ()
    model: str | None = None
    beside: dict[str, int] = {}


def read_predictions(path: Path, files: list[Path] | None = None, split: str | None = None, splits: tuple[str, ...] = ()) -> Predictions:
    """Reads answers: JSON lines, a JSON list or a table of records with an id and a text, or one object {id: text}.

    Args:
        path: the file, or the folder that `files` lie in.
        files: the files of a folder, in the order of the official code.
        split: which of the `splits` is read, where records name theirs as `category`.

    Raises:
        DataError: no file, or nothing in it can be read.
    """
    found, mapping = Predictions({}, {}, False, path, tuple(files or [path]), beside=Counter()), False
    for file in found.files:
        if not file.is_file():
            raise DataError("The predictions file does not exist", str(file), "Fix --predictions.")
        whole = _whole_object(file)
        mapping |= whole is not None
        if whole is not None:
            for key, text in whole.items():
                _keep(found, key, text, f"{file}[{key}]", {})
        else:
            _keep_records(found, file, split, splits)
    if not found.said and not found.faults and not found.beside:
        raise DataError("The predictions file holds no answer", str(path), "Fix --predictions.")
    named = [(writable(str(one.raw["model_id"])), one.source) for one in found.said.values() if one.raw.get("model_id") is not None]
    for model, source in named:
        if model != named[0][0]:
            _fault(found, f"answer of another model than {named[0][0]!r}", f"{model!r} at {source}")
    return found._replace(mapping=mapping, model=named[0][0] if named else None)


def _whole_object(file: Path) -> dict | None:
    """The object {id: text} that is the whole file; None for records."""
    try:
        whole = parse(file.read_bytes().decode("utf-8-sig"))
    except ValueError:
        return None
    return whole if isinstance(whole, dict) and whole and not whole.keys() & set(ID_KEYS) and plain(whole) is whole else None


def _keep_records(found: Predictions, file: Path, split: str | None, splits: tuple[str, ...]) -> None:
    place = 0
    for record in records_of(file):
        if record.error is not None:
            _fault(found, "broken line", f"{record.source}: {record.error.what}")
            continue
        given = record.raw if isinstance(record.raw, dict) else {}
        raw = plain(given)
        if raw.get("category") in splits and raw["category"] != split:
            found.beside[raw["category"]] += 1
            continue
        key, place = key_of(raw, place), place + 1
        if key is None:
            _fault(found, "record without an id", f"{record.source}, which {_has(given)}, not {' or '.join(ID_KEYS)}")
        else:
            texts = {name: raw[name] for name in TEXT_KEYS if name in raw}
            if len({writable(str(text)) for text in texts.values()}) > 1:
                _fault(found, "record with several texts", f"{key!r} at {record.source}, {' and '.join(texts)}: keep the answer's alone")
            else:
                _keep(found, key, next(iter(texts.values()), None), record.source, raw, given)


def _has(raw: dict[str, Any]) -> str:
    return f"has {', '.join(map(str, raw)) or 'no key'}"


def _keep(found: Predictions, key: str, text: Any, source: str, raw: dict[str, Any], given: dict[str, Any] | None = None) -> None:
    if key in found.said:
        _fault(found, "id twice", f"{key!r} at {source}")
    elif not isinstance(text, str):
        lacks = f", which {_has(given)}, not {', '.join(TEXT_KEYS[:-1])} or {TEXT_KEYS[-1]}" if given and not raw.keys() & set(TEXT_KEYS) else ""
        _fault(found, "answer that is no text", f"{key!r} at {source}{lacks}")
    else:
        found.said[key] = Said(writable(text), source, raw)


def _fault(found: Predictions, kind: str, place: str) -> None:
    found.faults.setdefault(kind, []).append(place)


def match(questions: Questions, predictions: Predictions) -> tuple[list[Said | None], dict[str, Any], bool]:
    """The answer of each question, None where it is missing.

    Args:
        questions: of one task.
        predictions: as read; ids are the questions' own, or the aliases (LLaVA's numbering) where more of these fit, or where
            only these make every id known.

    Returns:
        Answers in the order of the questions; counts to keep with the results: `answers`, `beside` (answers to
        questions of other splits, by split); and whether the ids are the aliases.

    Raises:
        DataError: faults of the file, each kind counted and its first place named; or no answer to any question.
    """
    ids = [row["question_id"] for row in questions.rows]
    aliases = [row.get("alias") for row in questions.rows]
    fitting = sum(one in predictions.said for one in aliases)
    by_alias = fitting >= max(1, sum(one in predictions.said for one in ids))
    if fitting and not predictions.said.keys() <= set(ids):  # LLaVA's ids of one split are every split's own: one answer may be missing
        by_alias |= predictions.said.keys() <= {*aliases, *questions.beside}
    ids = aliases if by_alias else ids
    if next(iter(predictions.said), "").startswith(ORDER):
        ids = _places(questions, predictions)
    known, answers = set(ids), [predictions.said.get(key) for key in ids]
    # other splits' ids are in the aliases' numbering: beside the questions' own they would hide unknown ids
    others = questions.beside if by_alias or not any(aliases) or not any(answers) else {}
    beside = predictions.beside | Counter(others[key] for key in predictions.said if key not in known and key in others)
    unknown = [f"{key!r} at {one.source}" for key, one in predictions.said.items() if key not in known and key not in others]
    if not predictions.faults:  # these are told with everything else that is wrong
        _check_any(answers, beside, predictions, questions)
    faults = predictions.faults | {"answer to an unknown id": unknown,
                                   "answer to another question": _other_question(questions.rows, answers)}
    _refuse({kind: places for kind, places in faults.items() if places}, predictions.path)
    return answers, {"answers": len(predictions.said), "beside": dict(beside)}, by_alias


def _places(questions: Questions, predictions: Predictions) -> list[str]:
    """Ids by order: only where every question is known, so that an answer out of its place is noticed."""
    if not all("question" in row for row in questions.rows):
        raise DataError("The predictions have no ids, and the questions have no text to compare", str(predictions.path), f"Add {' or '.join(ID_KEYS)}.")
    return [f"{ORDER}{at}" for at in range(len(questions.rows))]


def _check_any(answers: list[Said | None], beside: Counter, predictions: Predictions, questions: Questions) -> None:
    given = [(row, one) for row, one in zip(questions.rows, answers, strict=True) if one]
    if not given and (predictions.said or beside):
        others = ", ".join(f"{count} belong to {split}" for split, count in beside.items()) or f"the first id is {next(iter(predictions.said))!r}"
        raise DataError(f"The predictions answer none of the {len(answers)} questions: {others}, the first question is "
                        f"{questions.rows[0]['question_id']!r}", str(predictions.path), "They are of another split or benchmark.")
    asked = sum(_first_line(one.text) == _first_line(row["text"]) for row, one in given)
    if given and asked > len(given) / 2:
        raise DataError(f"The predictions file holds the questions, not the answers: {asked} of {len(given)} texts are the question",
                        str(predictions.path), "Give the model's answers file.")


def _first_line(text: str) -> str:
    """Without LLaVA's place of the picture."""
    return text.replace("<image>", "").strip().split("\n")[0]


def _other_question(rows: list[dict], answers: list[Said | None]) -> list[str]:
    """Answers whose record carries a prompt in which the question does not stand."""
    return [f"{row['question_id']!r} at {one.source}" for row, one in zip(rows, answers, strict=True)
            if one and "question" in row and isinstance(one.raw.get("prompt"), str)
            and " ".join(row["question"].split()) not in " ".join(one.raw["prompt"].split())]


def _refuse(faults: dict[str, list[str]], path: Path) -> None:
    if faults:
        told = "; ".join(f"{kind}: {len(places)}, the first {places[0]}" for kind, places in faults.items())
        raise DataError(f"The predictions have faults: {told}", str(path), "Fix the file; nothing was scored.")
