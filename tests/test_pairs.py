"""Preference pairs from a model's own answers: only the wrong words differ."""

from __future__ import annotations

import re

import pytest
import train_world

from omnivision.data.pairs import make_pairs, parser, read_truths, run
from omnivision.data.rows import Row, read_rows
from omnivision.errors import ConfigError, DataError
from omnivision.world.truth import Item, Scene

IMAGE = "images/dpo/000000.png"
STREET = Scene("street", "noto", (Item("cat", 0.2, 0.2, 0.3, "red"), Item("apple", 0.5, 0.5, 0.2), Item("apple", 0.55, 0.8, 0.2),
                                  Item("dog", 0.8, 0.2, 0.3)), 5)
REFERENCES = {"Describe the image.": "A red cat, two apples and a dog on a street.", "How many apples are there?": "2",
              "What color is the cat?": "red", "Is there an owl in the image?": "No"}


def row(question, number=0):
    turns = ({"role": "user", "text": question}, {"role": "assistant", "text": REFERENCES[question]})
    return Row(id=f"d{number}", images=(IMAGE,), source=f"dpo.jsonl:{number + 1}", turns=turns)


def pairs_of(*answers, **limits):
    """make_pairs on (question, answer) pairs."""
    rows = [row(question, i) for i, (question, _) in enumerate(answers)]
    return make_pairs(rows, [a for _, a in answers], {IMAGE: STREET}, "runs/x", **limits)


def unchanged(pair, side):
    """An answer with its edited spans taken out."""
    text = pair[side]
    for start, end in reversed(pair["edit_spans"][side]):
        text = text[:start] + text[end:]
    return text


def test_a_right_answer_gives_no_pair():
    pairs, counts = pairs_of(("How many apples are there?", "Two."), ("Describe the image.", REFERENCES["Describe the image."]))
    assert pairs == [] and counts == {"right": 2, "pairs": 0, "not_minimal": 0}


def test_garbage_gives_no_pair():
    pairs, counts = pairs_of(("What color is the cat?", "wibble wobble"), ("Describe the image.", ""), ("How many apples are there?", "2 or 3"))
    assert pairs == [] and counts == {"right": 0, "pairs": 0, "not_minimal": 3}


def test_one_wrong_word_is_all_that_differs():
    answer = "A red cat, two apples and a dog on a farm."
    (pair,), counts = pairs_of(("Describe the image.", answer))
    assert counts["pairs"] == 1 and pair["rejected"] == answer and pair["chosen"] == "A red cat, two apples and a dog on a street."
    assert pair["wrong_words"] == ["farm"]
    ((start, end),) = pair["edit_spans"]["rejected"]
    ((new_start, new_end),) = pair["edit_spans"]["chosen"]
    assert answer[start:end] == "farm" and pair["chosen"][new_start:new_end] == "street"
    assert (pair["id"], pair["images"], pair["prompt"], pair["model"]) == ("d0-pair", [IMAGE], "Describe the image.", "runs/x")


def test_several_wrong_words_are_edited_apart():
    (pair,), _ = pairs_of(("Describe the image.", "A blue cat, three apples and a dog on a street."))
    assert pair["chosen"] == REFERENCES["Describe the image."] and pair["wrong_words"] == ["blue", "three"]
    assert unchanged(pair, "chosen") == unchanged(pair, "rejected") == "A  cat,  apples and a dog on a street."


def test_answers_are_counted_apart_and_keep_their_rows():
    pairs, counts = pairs_of(("How many apples are there?", "3"), ("Is there an owl in the image?", "No"),
                             ("What color is the cat?", "Blue."), ("Is there an owl in the image?", "wibble wobble wibble"), most_edited=1.0)
    assert counts == {"right": 1, "pairs": 2, "not_minimal": 1}
    assert [(pair["id"], pair["chosen"]) for pair in pairs] == [("d0-pair", "2"), ("d2-pair", "Red.")]


def test_an_edit_of_the_whole_answer_is_not_minimal():
    said = (("How many apples are there?", "3"), ("Describe the image.", "A red cat, two apples and a dog on a farm."))
    pairs, counts = pairs_of(*said)
    assert [pair["id"] for pair in pairs] == ["d1-pair"] and counts == {"right": 0, "pairs": 1, "not_minimal": 1}
    pairs, counts = pairs_of(*said, most_edited=1.0)
    assert [pair["id"] for pair in pairs] == ["d0-pair", "d1-pair"] and counts["pairs"] == 2
    pairs, counts = pairs_of(*said, most_edited=0.05)  # 4 of 42 characters are edited
    assert pairs == [] and counts["not_minimal"] == 2


def test_an_unknown_picture_names_the_row():
    with pytest.raises(DataError, match=r"truth of images/dpo/000000.png is not known \(dpo.jsonl:1\)"):
        make_pairs([row("How many apples are there?")], ["2"], {})


def test_a_world_without_truth_is_named(tmp_path):
    with pytest.raises(DataError, match="truth of the split `dpo` is missing.*dpo.jsonl"):
        read_truths(tmp_path, [IMAGE])


@pytest.fixture()
def folder(tmp_path):
    """A world of eight pictures with one question each."""
    from omnivision.world.build import build_world

    build_world(tmp_path / "world", seed=3, sizes={"dpo": 8}, workers=1, progress=False)
    return tmp_path


def options(folder, model, *more):
    return parser().parse_args(["--model", str(model), "--data", str(folder / "world" / "dpo.jsonl"), "--image-root", str(folder / "world"),
                                "--out", str(folder / "pairs" / "pairs.jsonl"), *more])


def test_the_command_writes_pairs_of_wrong_answers_only(folder, tmp_path_factory, monkeypatch):
    rows = read_rows(folder / "world" / "dpo.jsonl")
    references = [row.turns[1]["text"] for row in rows]
    swapped = {"left": "right", "right": "left", "左": "右", "右": "左"}

    def mirrored(text):
        return "".join(swapped.get(part, part) for part in re.split("(left|right|左|右)", text))

    monkeypatch.setattr("omnivision.generation.generate_answers", lambda model, processor, questions, *rest: [
        mirrored(reference) for reference in references])
    model = train_world.road(tmp_path_factory)["sft"]
    counts = run(options(folder, model, "--feature-cache", str(folder / "features"), "--most-edited", "1"))
    wrong = sum(reference != mirrored(reference) for reference in references)
    assert counts == {"right": len(rows) - wrong, "pairs": wrong, "not_minimal": 0} and len(rows) > wrong > 0
    written = train_world.read_lines(folder / "pairs" / "pairs.jsonl")
    assert len(written) == wrong and all(pair["rejected"] == mirrored(pair["chosen"]) for pair in written)
    none = run(options(folder, model, "--feature-cache", str(folder / "features"), "--most-edited", "0.01"))
    assert none == {"right": len(rows) - wrong, "pairs": 0, "not_minimal": wrong}
    assert not list(folder.rglob("*.partial"))


def test_a_folder_without_a_model_is_refused(folder):
    with pytest.raises(ConfigError, match="no model in the folder"):
        run(options(folder, folder))
