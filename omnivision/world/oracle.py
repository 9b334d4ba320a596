"""The oracle: a teacher who knows the truth of a picture, fixes answers word by word, and grades them.

It never writes an answer of its own: it edits the model's, only where it is false, so that a preference pair differs
in nothing but the mistake.
"""

from __future__ import annotations

import re

from omnivision.world.edits import Correction, Edit, apply_edits, like, word_edit
from omnivision.world.negatives import ambiguous
from omnivision.world.oracle_phrases import NEGATION, Reading, facts, read_objects
from omnivision.world.oracle_words import all_known, pattern_for, readable, value_of
from omnivision.world.scene_facts import CELLS, CELLS_ZH, YES_NO, Asked, cell, holds, items_of, names_table, read_question, true_answer
from omnivision.world.truth import QA, Scene
from omnivision.world.vocabulary import NUMBERS, NUMBERS_ZH, article

_CLOSING = " \t\n.!?。！？\"'“”"
_SHORT = 4  # an answer of at most so many words may be replaced as a whole
_YES = {"en": re.compile(r"\s*(?:(?P<yes>yes)|(?P<no>no))\b", re.IGNORECASE),
        "zh": re.compile(r"\s*(?:(?P<no>没有|不是|不在|没|不|否)|(?P<yes>有|是|对))")}
_THERE_IS = re.compile(
    r"\s*(?:(?P<head>yes|no)\b[,.]?\s+)?there\s+(?:is|are)\s+(?P<article>no|an?)\s+(?P<name>[a-z ]+?)"
    r"(?:\s+in\s+the\s+(?:image|picture))?[.!]?\s*", re.IGNORECASE)

_FEW = re.compile(r"\s*(?:there\s+(?:is|are)\s+)?(?:(?P<one>an?)|(?P<none>none|no))\b", re.IGNORECASE)
_ONE_OF_THEM = re.compile(r"(?:one|1)\s+(?:(?:is|of\s+them)\s+)*(?:in|at|on|to)\b", re.IGNORECASE)


def correct(truth: object, question: str | QA, answer: str, reference: str | None = None) -> Correction | None:
    """Make a model's answer true by changing only its wrong words.

    Args:
        truth: the Scene (a Chart or Sign needs the reference answer).
        question: the QA, or its text as asked.
        answer: what the model said.
        reference: the true answer, used where the truth is not a Scene or the question is not one of ours.
    Returns:
        Correction(answer, spans, wrong), unchanged and with empty lists for a true answer; None where the answer
        cannot be minimally edited (garbage, contradictions, or nothing true to say).
    """
    text = question.question if isinstance(question, QA) else question
    asked = read_question(text) if isinstance(truth, Scene) else None
    if asked is not None:
        reading = _read(truth, asked, answer)
        fixed = apply_edits(answer, reading.edits) if reading and not reading.invented else None
        if fixed is None or not fixed.spans:
            return fixed
        again = _read(truth, asked, fixed.answer)  # never teach what would not itself pass as true
        return fixed if again is not None and not again.edits and fixed.wrong else None
    if reference is None and isinstance(question, QA):
        reference = question.answer
    return correct_short(reference, answer) if reference is not None else None


def judge(truth: object, question: str | QA, answer: str, reference: str | None = None) -> float:
    """Grade an answer from 0 to 1 in tenths: the share of facts stated, less false claims, never below 0.

    Questions with one short answer get 1 or 0. Arguments as in `correct`.
    """
    text = question.question if isinstance(question, QA) else question
    asked = read_question(text) if isinstance(truth, Scene) else None
    if asked is None:
        fixed = correct(truth, question, answer, reference)
        return float(fixed is not None and not fixed.spans)
    reading = _read(truth, asked, answer)
    if reading is None:
        return 0.0
    if asked.form == "where_all":
        wanted = {("count",)} | {("cell", i) for i in range(len(items_of(truth, asked.x)))}
    elif asked.form in ("caption", "list", "beside", "colored"):
        wanted = facts(truth, asked)
    else:
        return float(not reading.edits)
    score = (len(reading.right & wanted) - reading.false - reading.invented) / max(1, len(wanted))
    return round(min(1.0, max(0.0, score)), 1)


def correct_short(reference: str, answer: str) -> Correction | None:
    """Fix a short answer against the one true answer: equal (numbers by value, text without case) or replaced.

    None where the answer has no word or more than a few.
    """
    start, end = _core(answer)
    said = answer[start:end]
    if _same(said, reference):
        return Correction(answer, [], [])
    if not re.search(r"\w", said) or len(said.split()) > max(_SHORT, len(reference.split())) or len(said) > 60 + len(reference):
        return None
    return apply_edits(answer, [word_edit(answer, start, end, reference)])


def _same(said: str, reference: str) -> bool:
    if said.casefold() == reference.strip(_CLOSING).casefold():
        return True
    try:
        return float(said.replace(",", "").rstrip("%")) == float(reference.replace(",", "").rstrip("%")) and (
            said.endswith("%") or not reference.endswith("%"))
    except ValueError:
        return False


def _core(answer: str) -> tuple[int, int]:
    """The answer without the space and full stops around it."""
    start = len(answer) - len(answer.lstrip(_CLOSING))
    return (0, 0) if start == len(answer) else (start, len(answer.rstrip(_CLOSING)))


def _read(scene: Scene, asked: Asked, answer: str) -> Reading | None:
    true = true_answer(scene, asked)
    if true is None or not answer.strip():
        return None
    if asked.form == "sign":
        return _read_sign_word(true, answer)
    if not readable(_without_sign(answer) if asked.form == "caption" else answer):
        return None
    if asked.form in YES_NO:
        return _read_yes_no(scene, asked, true, answer)
    if asked.form == "where_all":
        return _read_where(scene, asked, answer)
    if asked.form in ("count", "color", "position", "place"):
        reading = _read_one(scene, asked, true, answer)
    else:
        reading = read_objects(scene, asked, answer)
    if reading is None and asked.form != "caption" and not _mentions(asked, answer):
        return _instead(true, answer)
    return reading


def _without_sign(answer: str) -> str:
    """What a sign is said to read is no sentence: it must not make a description look like garbage."""
    return re.sub(r"(?i)((?:says|reads)|写着)[^.。]*", r"\1", answer)


def _mentions(asked: Asked, answer: str) -> bool:
    """Whether the answer is of the kind asked for at all (then it is fixed word by word or not at all)."""
    if asked.form in ("list", "beside", "colored"):
        return any(name in answer.lower() for name in names_table(asked.language))
    return bool(pattern_for(asked.form, asked.language).search(answer))


def _instead(true: str, answer: str) -> Reading | None:
    """A short answer of the wrong sort ("cat" to "What color ...?") is wrong as a whole."""
    start, end = _core(answer)
    said = answer[start:end]
    if start == end or not all_known(said) or len(said.split()) > _SHORT or len(said) > 30:
        return None
    return Reading([Edit(start, end, true, said)], set(), 1)


def _read_one(scene: Scene, asked: Asked, true: str, answer: str) -> Reading | None:
    """An answer that states one number, colour, position or place. A higher number of an ambiguous kind is no mistake."""
    what, language = asked.form, asked.language
    found, wanted = list(pattern_for(what, language).finditer(answer)), value_of(what, true, language)
    if what == "count" and language == "en" and not found and (said := _FEW.match(answer)):
        if wanted == (1 if said["one"] else 0):
            return Reading()
        return None if said["one"] else Reading([word_edit(answer, *said.span("none"), like(said["none"], NUMBERS[wanted]))], set(), 1)
    values = {value_of(what, match.group(), language) for match in found}
    if len(values) != 1:
        return None
    if values == {wanted} or (what == "count" and min(values) > wanted and asked.x in ambiguous(scene)):
        return Reading()
    edits = []
    for match in found:
        new = true
        if what == "count" and not match.group().isdigit():
            new = (NUMBERS_ZH if language == "zh" else NUMBERS)[wanted]
        if language == "zh":
            edits.append(Edit(*match.span(), new, match.group()))
        else:
            edits.append(word_edit(answer, *match.span(), like(match.group(), new)))
    return Reading(edits, set(), 1)


def _read_yes_no(scene: Scene, asked: Asked, true: str, answer: str) -> Reading | None:
    yes, language = holds(scene, asked), asked.language
    said = _YES[language].match(answer)
    whole = _THERE_IS.fullmatch(answer) if language == "en" and asked.form == "exist" else None
    if said is None and not whole:
        return _instead(true, answer)
    if whole and names_table("en").get(whole["name"].lower()) == asked.x:
        edits = []
        if whole["head"] and (whole["head"].lower() == "yes") != yes:
            edits.append(Edit(*whole.span("head"), like(whole["head"], "yes" if yes else "no"), whole["head"]))
        if (whole["article"].lower() != "no") != yes:
            edits.append(Edit(*whole.span("article"), article(whole["name"]) if yes else "no", whole["article"]))
        return Reading(edits, set(), int(bool(edits)))
    if said is None:
        return None  # of something else
    start, end = said.span("yes" if said["yes"] else "no")
    if _core(answer) == (start, end) or (language == "zh" and answer[start:].strip(_CLOSING) in ("有的", "是的", "对的")):
        if bool(said["yes"]) == yes:
            return Reading()
        return Reading([Edit(start, _core(answer)[1], like(answer[start:end], true), answer[start:end])], set(), 1)
    return None  # a reason after the yes or no: nothing short would set it right, and agreeing may be for a false reason


def _read_where(scene: Scene, asked: Asked, answer: str) -> Reading | None:
    """A number and positions ("2: top left, bottom"). Wrong positions become missing ones, or go; an ambiguous kind may have more of both."""
    language, reading, items, more = asked.language, Reading(), items_of(scene, asked.x), asked.x in ambiguous(scene)
    counts = list(pattern_for("count", language).finditer(answer))
    found = list(pattern_for("position", language).finditer(answer))
    if len(counts) > 1:  # "two dogs: one in the center and one at the left" counts once
        counts = [match for match in counts if not _ONE_OF_THEM.match(answer, match.start())]
    if len(counts) > 1 or not (counts or found) or NEGATION.search(answer):
        return None
    for match in counts:
        said = value_of("count", match.group(), language)
        if said == len(items) or (more and said > len(items)):
            reading.right.add(("count",))
        else:
            new = str(len(items)) if match.group().isdigit() else (NUMBERS_ZH if language == "zh" else NUMBERS)[len(items)]
            reading.edits.append(Edit(*match.span(), like(match.group(), new), match.group()))
            reading.false += 1
    missing = [cell(item) for item in items]
    wrong = []
    for match in found:
        at = value_of("position", match.group(), language)
        if at in missing:
            missing.remove(at)
            reading.right.add(("cell", len(items) - len(missing) - 1))
        elif not more:
            wrong.append(match)
    for match in wrong:
        reading.false += 1
        if missing:
            new = (CELLS_ZH if language == "zh" else CELLS)[missing.pop(0)]
            edit = word_edit(answer, *match.span(), new) if language == "en" else Edit(*match.span(), new, match.group())
            reading.edits.append(edit)
            continue
        before = re.search(r"(?:\s*,?\s+and\s+|\s*[,、，和]\s*|\s+)$", answer[: match.start()])
        reading.edits.append(Edit(before.start() if before else match.start(), match.end(), "", match.group()))
    return reading


def _read_sign_word(true: str, answer: str) -> Reading | None:
    start, end = _core(answer)
    lead = re.search(r"\b(?:says|reads)\s*:?\s*[\"'“]?|写着\s*[“\"]?", answer[:end], re.IGNORECASE)
    start = lead.end() if lead else start
    said = answer[start:end]
    if said.casefold() == true.casefold():
        return Reading()
    if not re.search(r"\w", said) or len(said.split()) > 3 or len(said) > 30:
        return None
    return Reading([Edit(start, end, true, said)], set(), 1)
