"""POPE: is the object in the image? Yes or no, three splits that differ only in their negatives.

Source: the rules of the official script (`evaluate.py` of the POPE repository), read there; its division by
zero where nothing is answered "yes" is F1 0 here.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from omnivision.errors import DataError

from .questions import Questions, first_file, image_file, no_id_twice, test_tables
from .questions import read_rows as read_questions

SPLITS = ("random", "popular", "adversarial")
PUBLISHED = "RUCAIBox/POPE, output/coco"
TABLE = ("question_id", "image", "question", "answer", "category")  # columns of lmms-lab/POPE
LLAVA_FILE = "llava_pope_test.jsonl"  # all splits in one file with ids of its own, as LLaVA asks them

VARIANTS = ("official", "normalised")
MAX_NEW_TOKENS = 16
SUFFIX = "\nAnswer the question using a single word or phrase."  # LLaVA's; without it many models begin "Based on the image, …" and are cut off
METRICS = ("f1", "accuracy", "precision", "recall", "yes_ratio", "false_yes", "false_yes_rate", "valid_rate")

_BETWEEN = re.compile(r"\s+|[。，！？、；：—–…]|(?<=[^\W\d_])[.,!?;:](?=[^\W\d_])")  # words, also in "Yes.There is" and "Yes—there is"
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")  # quotes, marks and what has no width
# how an answer opens in Chinese: "对不起", "不确定" and "无法判断" say neither yes nor no
_NO_ZH, _YES_ZH = re.compile("不(?!(?:太|大|很)?(?:确定|知道|清楚|能|一定|好说))|没(?!法|有?办法|错)|否|无(?!法|从)"), re.compile("是(?!否)|有|对(?!不|于)|没错")


def load(folder: Path, task: str) -> Questions:
    """The official questions of one split: JSON lines `question_id, image, text, label`.

    Args:
        folder: holds coco_pope_<split>.json (or coco/ or coco_v1/ does); optionally LLaVA's question file, whose ids
            its answer files use, and COCO's pictures in val2014/. Or holds the hub's table (test-*.parquet, also in data/), or is
            a data set, with `question_id, image, question, answer, category` (the split) and optionally `image_source`.
        task: pope_random, pope_popular or pope_adversarial.

    Raises:
        DataError: a missing or broken file, a label that is neither yes nor no, or a question file of LLaVA that does
            not ask the same questions in the same order.

    Source: RUCAIBox/POPE@e3e3926 output/coco (its random file has 2,910 lines; later ones have 3,000).
    """
    split = task.removeprefix("pope_")
    if files := test_tables(folder):
        rows = [_from_table(one) for file in files for one in read_questions(file, TABLE) if one["category"] == split]
        return _checked(rows, files, split)
    name = f"coco_pope_{split}.json"
    path = first_file(folder, [name, f"coco_v1/{name}", f"coco/{name}"], f"The questions of POPE's {split} split", PUBLISHED)
    rows = [
        {"question_id": str(one["question_id"]), "image": one["image"], "text": one["text"], "label": one["label"],
         "question": one["text"], "image_file": image_file(folder, ("val2014", "images", "."), one["image"])}
        for one in read_questions(path, ("question_id", "image", "text", "label"))
    ]
    found = _checked(rows, [path], split)
    if not (folder / LLAVA_FILE).is_file():
        return found
    return found._replace(files=[path, folder / LLAVA_FILE], beside=_add_aliases(rows, folder / LLAVA_FILE, split))


def _from_table(one: dict) -> dict:
    return {"question_id": str(one["question_id"]), "image": str(one.get("image_source") or one["image"]), "text": one["question"],
            "label": one["answer"], "question": one["question"], "pictures": [one["image"]]}


def _checked(rows: list[dict], files: list, split: str) -> Questions:
    where = str(files[0])
    if not rows:
        raise DataError(f"No question is of POPE's {split} split", where, "Its table names the split as `category`.")
    no_id_twice(rows, where)
    if wrong := [row["question_id"] for row in rows if row["label"] not in ("yes", "no")]:
        raise DataError(f"{len(wrong)} labels are neither yes nor no, the first of question {wrong[0]}", where, "Copy it again.")
    return Questions(rows, files, {}, {"questions": f"{Path(where).name}, {len(rows):,} lines"})


def _add_aliases(rows: list[dict], path: Path, split: str) -> dict[str, str]:
    """Gives each row LLaVA's id; returns the ids of the other splits."""
    asked = read_questions(path, ("question_id", "image", "text", "category"))
    mine = [one for one in asked if one["category"] == split]
    same = len(mine) == len(rows) and all(
        one["image"] == row["image"] and one["text"].split("\n")[0] == row["text"] for one, row in zip(mine, rows, strict=True))
    if not same:
        raise DataError(f"LLaVA's {len(mine)} questions of the {split} split are not the {len(rows)} official ones in their order",
                        str(path), "Use files of one version (LLaVA's is POPE commit e3e3926).")
    for one, row in zip(mine, rows, strict=True):
        row["alias"] = str(one["question_id"])
    return {str(one["question_id"]): one["category"] for one in asked if one["category"] != split}


def prompt(row: dict) -> str:
    """POPE's own question, with LLaVA's line; the embedded world's as it is."""
    return row["text"] + SUFFIX if "question" in row else row["text"]


def parse_official(answer: str) -> str:
    """The official reading: "no" only where the first sentence has the token No, no or not; all else is "yes"."""
    tokens = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(tokens) else "yes"


def parse_normalised(answer: str) -> str | None:
    """The first yes or no word, case and punctuation aside; None where there is neither."""
    for token in _BETWEEN.split(answer.casefold()):
        word = _EDGES.sub("", token)
        if word in ("yes", "no"):
            return word
        if _NO_ZH.match(word):
            return "no"
        if _YES_ZH.match(word):
            return "yes"
    return None


def grade(row: dict, answer: str) -> dict[str, dict]:
    """Grade one answer by both variants.

    Args:
        row: a question with its `label`, "yes" or "no" in any case.
        answer: the model's text.

    Returns:
        Per variant: `said`, `score` (1 right, 0 wrong) and `valid` (a yes or no could be read).
    """
    label = row["label"].strip().lower()
    said = {"official": parse_official(answer), "normalised": parse_normalised(answer)}
    return {
        variant: {"said": word, "score": float(word == label), "valid": word is not None}
        for variant, word in said.items()
    }


def columns(row: dict, graded: dict) -> tuple[float, ...]:
    """Counts of one question: true and false positives, false and true negatives, said yes, false yes, valid.

    An unreadable answer counts as wrong: a false negative where "yes" is true, a false positive where "no" is.
    """
    positive, right = row["label"].strip().lower() == "yes", graded["score"] == 1.0
    said_yes = graded["said"] == "yes"
    return (
        float(positive and right), float(not positive and not right),
        float(positive and not right), float(not positive and right),
        float(said_yes), float(said_yes and not positive), float(graded["valid"]),
    )


def headline(totals_BK: np.ndarray) -> np.ndarray:
    """F1 of "yes" in 0-100, score_B; 0 where nothing is answered or labelled "yes"."""
    tp, fp, fn = totals_BK[:, 0], totals_BK[:, 1], totals_BK[:, 2]
    return 100 * _ratio(2 * tp, 2 * tp + fp + fn)


def metrics(totals_K: np.ndarray) -> dict[str, float]:
    """Every figure of the official script, in 0-100 (`false_yes` is a count), from the totals of the columns."""
    tp, fp, fn, tn, said_yes, false_yes, valid = (float(v) for v in totals_K)
    n = tp + fp + fn + tn
    return {
        "f1": float(headline(np.asarray(totals_K, dtype=float)[None])[0]),
        "accuracy": 100 * float(_ratio(tp + tn, n)),
        "precision": 100 * float(_ratio(tp, tp + fp)),
        "recall": 100 * float(_ratio(tp, tp + fn)),
        "yes_ratio": 100 * float(_ratio(said_yes, n)),
        "false_yes": false_yes,
        "false_yes_rate": 100 * float(_ratio(false_yes, fp + tn)),
        "valid_rate": 100 * float(_ratio(valid, n)),
    }


def _ratio(top, bottom):
    bottom = np.asarray(bottom, dtype=float)
    return np.divide(top, bottom, out=np.zeros_like(bottom), where=bottom != 0)
