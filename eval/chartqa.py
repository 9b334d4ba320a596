"""ChartQA: one word or number about a chart, scored by relaxed accuracy (5 % slack on numbers).

Source: the relaxed correctness of the pix2struct evaluation (Methani et al. 2020 as ChartQA section 5.1 uses it).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from omnivision.errors import DataError

from .questions import Questions, image_file, read_rows, test_tables
from .rates import columns, headline  # noqa: F401 - part of a benchmark

VARIANTS = ("official", "normalised")
MAX_NEW_TOKENS = 16
METRICS = ("relaxed_accuracy", "valid_rate")
SUFFIXES = {"en": "\nAnswer the question with a single word.", "zh": "\n用一个词回答问题。"}  # "en" is ChartQA's own
SLACK = 0.05
SOURCES = ("human", "augmented")  # the hub says 0 and 1; both halves make the score
HALVES = ("human", "machine")  # the names of its two classes
LMMS_TYPES = {f"{half}_test": at for at, half in enumerate(SOURCES)}

_CURRENCY = "$€£¥₹"
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER_AND_UNIT = re.compile(r"([-+]?\d+(?:\.\d+)?|[-+]?\.\d+)(?!(?:s|st|nd|rd|th)\b)\s*([^\W\d_][^\d]*)")  # "1950s" and "3rd" are words


def load(folder: Path, task: str = "chartqa") -> Questions:
    """ChartQA's questions in any of the layouts it is published in; ids count from 0 in each file.

    Args:
        folder: one of
            the published archive: test/test_human.json and test/test_augmented.json with `imgname, query, label`, and
            test/png/; ids human_0 ..., augmented_0 ...;
            the hub's: test-*.parquet, also in data/, with `image, query, label` (a list) and `human_or_machine` (0 is
            human), or lmms-lab's, with `image, question, answer` and `type`; or a data set with these columns; ids 0 ...;
            a piece: one JSON list with `image, question, label, source` beside img/; ids augmented_0 ...
        task: unused; every loader has it.

    Raises:
        DataError: none of these is there, one half of the test set is missing, or a file is broken.

    Source: vis-nlp/ChartQA, "ChartQA Dataset"; HuggingFaceM4/ChartQA; lmms-lab/ChartQA.
    """
    halves = {half: folder / "test" / f"test_{half}.json" for half in SOURCES}
    if any(path.is_file() for path in halves.values()):
        return Questions([row for half, path in halves.items() for row in _archive(folder, half, path)], list(halves.values()))
    if files := test_tables(folder):
        return Questions(_hub(files), files)
    pieces = sorted(folder.glob("*.json"))
    if len(pieces) != 1:
        raise DataError("ChartQA's questions are missing", str(folder),
                        "Put test/test_human.json, test/test_augmented.json and test/png/ there (vis-nlp/ChartQA), or test-*.parquet of the hub.")
    return Questions(_piece(folder, pieces[0]), pieces, {}, {"questions": f"{pieces[0].name}: a piece, not the test set"})


def _hub(files: list[str]) -> list[dict]:
    found = [one for path in files for one in read_rows(path, ("image", "query", "label", "human_or_machine"), _from_hub)]
    if odd := [one["human_or_machine"] for one in found if one["human_or_machine"] not in (0, 1)]:
        what = f"{len(odd)} rows have a human_or_machine that is neither 0 nor 1, the first {odd[0]!r}"
        raise DataError(what, files[0], "Copy the file again.")
    return [_row(str(at), one["query"], one["label"], SOURCES[one["human_or_machine"]], None, str(at)) | {"pictures": [one["image"]]}
            for at, one in enumerate(found)]


def _from_hub(one: dict) -> dict:
    """A row of HuggingFaceM4/ChartQA with the number of its half, whose name a table gives; one of lmms-lab/ChartQA with that one's names."""
    if not {"question", "answer", "type"} <= one.keys():
        half = one.get("human_or_machine")
        return one | ({"human_or_machine": HALVES.index(half)} if half in HALVES else {})
    return {"image": one.get("image"), "query": one["question"], "label": one["answer"], "human_or_machine": LMMS_TYPES.get(one["type"], one["type"])}


def _piece(folder: Path, path: Path) -> list[dict]:
    return [_row(f"{one['source']}_{at}", one["question"], one["label"], one["source"], image_file(folder, ("img", "."), one["image"]), one["image"])
            for at, one in enumerate(read_rows(path, ("image", "question", "label", "source")))]


def _archive(folder: Path, half: str, path: Path) -> list[dict]:
    if not path.is_file():
        raise DataError(f"The {half} half of ChartQA's test set is missing", str(path), "Both halves make the score; copy it there.")
    return [_row(f"{half}_{at}", one["query"], one["label"], half, image_file(folder, ("test/png",), one["imgname"]), one["imgname"])
            for at, one in enumerate(read_rows(path, ("imgname", "query", "label")))]


def _row(key: str, question: str, label, source: str, file: str | None, image: str) -> dict:
    if not all(isinstance(one, str) for one in (label if isinstance(label, list) else [label])):
        raise DataError(f"The label {label!r} is no text", f"ChartQA, question {key}", "Copy the file again.")
    return {"question_id": key, "unit": key, "image": image, "image_file": file, "text": question, "question": question,
            "label": label, "source": source}


def prompt(row: dict) -> str:
    """The question and the direct-answer line, added where the row does not carry it already."""
    asked = row["text"].endswith(tuple(SUFFIXES.values()))
    return row["text"] if asked else row["text"] + SUFFIXES[row.get("language", "en")]


def to_number(text: str) -> float | None:
    """A float; a trailing % divides by 100; None where the text is no number."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed_match(answer: str, target: str) -> bool:
    """The official rule for one target: within 5 % where both are numbers and the target is not 0, else equal text.

    A target of 0 therefore needs the same string, "1,000" is no number, and years have the same slack.
    """
    said, true = to_number(answer), to_number(target)
    if said is not None and true:
        return abs(said - true) / abs(true) <= SLACK
    return answer.lower() == target.lower()


def normalise(text: str) -> tuple[str, str]:
    """Strip a final full stop, thousands commas and currency signs; and the same without a number's trailing unit."""
    text = text.strip().rstrip("。").strip()
    text = text[:-1].rstrip() if text.endswith(".") else text
    bare = _THOUSANDS.sub("", text)
    sign = "-" if bare.startswith("-") else ""
    bare = sign + bare.removeprefix("-").strip(_CURRENCY).strip() if any(c.isdigit() for c in bare) else bare
    with_unit = _NUMBER_AND_UNIT.fullmatch(bare)
    return bare, with_unit.group(1) if with_unit else bare


def normalised_match(answer: str, target: str) -> bool:
    """The rule on what `normalise` leaves: without units where both have the same one, or one has none; else as they are."""
    (said, said_number), (true, true_number) = normalise(answer), normalise(target)
    units = {text.removeprefix(number).strip().casefold() for text, number in ((said, said_number), (true, true_number))}
    return relaxed_match(said_number, true_number) if len(units - {""}) < 2 else relaxed_match(said, true)


def grade(row: dict, answer: str) -> dict[str, dict]:
    """Grade one answer by both variants, the best over the row's targets.

    Args:
        row: a question whose `label` is a target or a list of them.
        answer: the model's text.

    Returns:
        Per variant: `said` (what was compared, with its unit), `score` 1 or 0, and `valid` (the answer is not empty).
    """
    targets = row["label"] if isinstance(row["label"], list) else [row["label"]]
    return {
        "official": _graded(answer, any(relaxed_match(answer, t) for t in targets)),
        "normalised": _graded(normalise(answer)[0], any(normalised_match(answer, t) for t in targets)),
    }


def metrics(totals_K: np.ndarray) -> dict[str, float]:
    """Relaxed accuracy and the rate of answers that are not empty, in 0-100."""
    right, asked, valid = (float(v) for v in totals_K)
    return {"relaxed_accuracy": 100 * right / max(asked, 1), "valid_rate": 100 * valid / max(asked, 1)}


def _graded(said: str, right: bool) -> dict:
    return {"said": said, "score": float(right), "valid": bool(said.strip())}
