"""Preference pairs from a model's own answers: only the wrong words differ, whoever the teacher is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairs_world import IMAGE

from omnivision.data.rows import Row
from omnivision.errors import DataError
from omnivision.pairs import prompts
from omnivision.pairs.factory import correct_all, pair_rows, statistics_of
from omnivision.pairs.gates import Limits, failed_gate, ratios
from omnivision.pairs.teacher import Oracle, Task, read_truths
from omnivision.pairs.words import sentences, word_edits
from omnivision.world.truth import Item, Scene

STREET = Scene("street", "noto", (Item("cat", 0.2, 0.2, 0.3, "red"), Item("apple", 0.5, 0.5, 0.2), Item("apple", 0.55, 0.8, 0.2),
                                  Item("dog", 0.8, 0.2, 0.3)), 5)
REFERENCES = {"Describe the image.": "A red cat, two apples and a dog on a street.", "How many apples are there?": "2",
              "What color is the cat?": "red", "Is there an owl in the image?": "No"}


def row(question, number=0):
    turns = ({"role": "user", "text": question}, {"role": "assistant", "text": REFERENCES[question]})
    return Row(id=f"d{number}", images=(IMAGE,), source=f"dpo.jsonl:{number + 1}", turns=turns)


class Street(Oracle):
    """The oracle, of the one picture."""

    def __init__(self) -> None:
        self.truths = {IMAGE: STREET}


def pairs_of(*answers, **limits):
    """(rows of pairs, counts) of (question, answer) pairs."""
    rows = [row(question, i) for i, (question, _) in enumerate(answers)]
    tasks = [Task(f"{i}/0", one, IMAGE, one.turns[0]["text"], answer, one.turns[1]["text"]) for i, (one, (_, answer)) in enumerate(zip(rows, answers, strict=True))]
    outcomes = correct_all(tasks, Street(), Limits(**limits), second_look=True)
    pairs = pair_rows(outcomes, {"model": "runs/x"})
    return pairs, statistics_of(outcomes, pairs)["outcomes"]


def unchanged(pair, side):
    """An answer with its edited spans taken out."""
    text = pair[side]
    for start, end in reversed(pair["edit_spans"][side]):
        text = text[:start] + text[end:]
    return text


def test_a_right_answer_gives_no_pair():
    pairs, counts = pairs_of(("How many apples are there?", "Two."), ("Describe the image.", REFERENCES["Describe the image."]))
    assert pairs == [] and counts == {"right": 2, "pairs": 0}


def test_garbage_gives_no_pair():
    pairs, counts = pairs_of(("What color is the cat?", "wibble wobble"), ("Describe the image.", ""), ("How many apples are there?", "2 or 3"))
    assert pairs == [] and counts == {"right": 0, "pairs": 0, "unmended": 3}


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
    assert counts == {"right": 1, "pairs": 2, "unmended": 1}
    assert [(pair["id"], pair["chosen"]) for pair in pairs] == [("d0-pair", "2"), ("d2-pair", "Red.")]


def test_an_edit_of_the_whole_answer_is_not_minimal():
    said = (("How many apples are there?", "3"), ("Describe the image.", "A red cat, two apples and a dog on a farm."))
    pairs, counts = pairs_of(*said)
    assert [pair["id"] for pair in pairs] == ["d1-pair"] and counts == {"right": 0, "pairs": 1, "too_much_edited": 1}
    pairs, counts = pairs_of(*said, most_edited=1.0)
    assert [pair["id"] for pair in pairs] == ["d0-pair", "d1-pair"] and counts["pairs"] == 2
    pairs, counts = pairs_of(*said, most_edited=0.05)  # one of twelve words is edited
    assert pairs == [] and counts["too_much_edited"] == 2


def test_an_unknown_picture_names_the_row():
    with pytest.raises(DataError, match=r"truth of images/other.png is not known \(dpo.jsonl:1\)"):
        list(Street().correct([Task("0/0", Row("d0", ("images/other.png",), "dpo.jsonl:1"), "", "How many apples are there?", "2", "2")]))


def test_a_world_without_truth_is_named(tmp_path):
    with pytest.raises(DataError, match="truth of the split `dpo` is missing.*dpo.jsonl"):
        read_truths(tmp_path, [IMAGE])


GATES = [  # original, corrected, the gate that stops it
    ("A red cat sits on a mat.", "A black cat sits on a mat.", None),
    ("A red cat sits on a mat.", "a red cat sits on a mat", "empty_edit"),
    ("A red cat.", "Two dogs play chess.", "too_much_edited"),
    ("A cat.", "A cat, which is black and sleeps.", "length"),
    ("- a cat\n- a dog", "- a cow\n* a dog\n", None),
    ("- a cat\n- a dog", "a cow and - a dog", "format"),
    ("1. a cat\n2. a dog\n3. a cow", "1. a cat\n2. a pig 3. a cow", "format"),
    ("A red cat sits here.", "A black cat sits here", "format"),
    ("There is a cat. There is a big dog on the right.", "There is a pig. There is a big dog on the right.", None),
    ("A small cat is here. There is a big dog on the right.", "There is a big dog on the right. A small pig is here.", "order"),
    ("街上有一只猫", "街上有两只猫", None), ("街上有一只猫", "there are two cats in the street", "too_much_edited"),
    ("There are two cats", "There are 两 cats", "format"),
    ("The value is 3.5.", "The value is 4.", None), ("It is -5 degrees.", "It is 5 degrees.", None), ("It costs about 12% more.", "It costs about 12 more.", None),
    ("The price is $3 here.", "The price is $4 here.", None), ("It is 3.5 there. It is 4 here.", "It is 3.5 there and 4 here.", "format"), ("At 10:30 in town.", "At 10:45 in town.", None),
    ("3", "2", "too_much_edited"), ("", "2", "too_much_edited"),
]  # fmt: skip


@pytest.mark.parametrize("rejected, chosen, gate", GATES)
def test_gates(rejected, chosen, gate):
    assert failed_gate(rejected, chosen, Limits()) == gate


def test_ratios_by_hand():
    found = ratios("A red cat sits on a mat.", "A big black cat sits on a mat.")  # seven words; one replaced, one put in
    assert (found.edited, found.length) == (round(2 / 8, 4), round(8 / 7, 4))
    assert ratios("街上有一只猫", "街上有两只猫").edited == round(1 / 6, 4)
    assert sentences("One. Two!  三。\n\n- four") == ["One.", "Two!", "三。", "- four"]


@given(st.text("ab .\n猫狗!", max_size=40), st.text("ab .\n猫狗!", max_size=40))
def test_any_two_texts_pass_or_fail_a_gate_and_spans_hold_all_that_differs(rejected, chosen):
    assert failed_gate(rejected, chosen, Limits()) in (None, "empty_edit", "too_much_edited", "length", "format", "order")
    assert failed_gate(rejected, rejected, Limits()) == "empty_edit"
    spans = word_edits(rejected, chosen)
    kept = [re.findall(r"[^\W]|[^\w\s]", unchanged({"rejected": rejected, "chosen": chosen, "edit_spans": spans}, side)) for side in ("rejected", "chosen")]
    assert kept[0] == kept[1]


REPLIES = [('{"right": true}', "right"), ('{"right": false, "answer": "A cat"}', "corrected"), ('{"right": false, "answer": null}', "unmended"),
           ('{"right": false, "answer": " "}', "unmended"), ('```json\n{"right": true}\n```', "right"), ("Sure! The answer is right.", None), ("[]", None),
           ('{"right": "yes"}', None), ('{"answer": "A cat"}', None), ('{"right": false, "answer": 5}', None), ("", None), ('{"right": NaN}', None)]


@pytest.mark.parametrize("text, kind", REPLIES)
def test_replies_are_read_strictly(text, kind):
    if kind is None:
        with pytest.raises(ValueError):
            prompts.read_correction(text)
    else:
        assert prompts.read_correction(text).kind == kind
