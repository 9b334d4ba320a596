"""How the oracle reads lists and descriptions: which objects they claim, which claims are false, how to fix them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from omnivision.world.captions import kinds_in_order
from omnivision.world.edits import Edit, like
from omnivision.world.negatives import ambiguous
from omnivision.world.oracle_words import has_strangers, mention_pattern, number_words, pattern_for, value_of
from omnivision.world.scene_facts import Asked, alternatives, items_of, kinds_asked_for, names_table
from omnivision.world.truth import Scene
from omnivision.world.vocabulary import NUMBERS, NUMBERS_ZH, article, color_name, kinds, places

_AND = {"en": re.compile(r"\s*,?\s+and\s+|\s*,\s*", re.IGNORECASE), "zh": re.compile(r"\s*(?:、|，|,|和)\s*")}
NEGATION = re.compile(r"\b(?:no|not|nowhere|never|cannot|without|neither|nor)\b|n['’]t\b|没|不|无", re.IGNORECASE)
_PART = re.compile(r"[,.;:!?、，。；：！？]|\band\b|和", re.IGNORECASE)  # between the parts of a list
_SHORT = 4  # words of a part that may name one thing
_SIGN = {"en": re.compile(r"\s*\b(?:the|a)\s+sign\s+(?:says|reads)\s*:?\s*[\"']?(?P<word>[^.!\"'\n]+)[\"']?[.!]?", re.IGNORECASE),
         "zh": re.compile(r"牌子上写着[：:]?\s*[“\"]?(?P<word>[^。，”\"\n]+)[”\"]?。?")}

_QUOTED = re.compile(r"\b(?:says|reads)\b|写着", re.IGNORECASE)


@dataclass
class Reading:
    """What an answer says: edits that make it true, the facts it got right, the number of its false claims; things it invents, which no edit takes away."""

    edits: list[Edit] = field(default_factory=list)
    right: set[tuple] = field(default_factory=set)
    false: int = 0
    invented: int = 0


def read_objects(scene: Scene, asked: Asked, text: str) -> Reading | None:
    """Read a list or description of objects.

    Args:
        scene: the truth.
        asked: the question (list, caption, beside or colored).
        text: the answer.
    Returns:
        A Reading, or None where the text names no object, denies something, or would be left empty.
    """
    language, reading = asked.language, Reading()
    rest = _read_sign(scene, text, language, reading) if asked.form == "caption" else text
    if asked.form == "caption" and (_QUOTED.search(rest) or len(_SIGN[language].findall(text)) > 1):
        return None  # what a sign is said to read is not looked at for objects: it has to be read as a sign's word, and once
    mentions = list(mention_pattern(language).finditer(rest))
    bare = rest
    for mention in mentions:
        bare = _mask(bare, mention.start(), mention.end())
    if not mentions or NEGATION.search(bare):
        return None
    reading.invented = _inventions(bare, asked)
    allowed = kinds_asked_for(scene, asked)
    named = [names_table(language)[mention["name"].lower()] for mention in mentions]
    missing = [kind for kind in allowed if kind not in named]
    seen: set[str] = set()
    removed = []
    for index, (mention, kind) in enumerate(zip(mentions, named)):
        if kind in allowed and kind not in seen:
            seen.add(kind)
            reading.right.add(("name", kind))
            _check(scene, kind, mention, language, reading)
        elif kind in seen and rest[: mention.start()].lower().endswith("the "):
            continue  # "... The cat is ..." goes back to an object already named
        elif asked.form in ("caption", "list") and kind in ambiguous(scene):
            continue  # "a bird" of an owl is not false
        else:
            reading.false += 1
            if missing:
                _replace(scene, missing.pop(0), mention, language, reading)
            else:
                removed.append(index)
    if removed and not _remove(text, mentions, removed, language, reading):
        return None
    if asked.form == "caption":
        _read_place(scene, bare, language, reading)
    return reading


def _inventions(bare: str, asked: Asked) -> int:
    """Things that no kind is called: names in the other language, and parts of a list with a word that the oracle does not know.

    Args:
        bare: the answer, with every object of the vocabulary masked.
    """
    found, listed = sum(1 for _ in mention_pattern("en" if asked.language == "zh" else "zh").finditer(bare)), False
    counted = rf"\s*(?:an?|[0-9]+|{alternatives(number_words(asked.language))})"
    for part in _PART.split(bare):
        named = re.match(counted + (r"\b" if asked.language == "en" else ""), part, re.IGNORECASE) or listed and asked.form != "caption"
        found += bool(named and "\0" not in part and len(part.split()) <= _SHORT and has_strangers(part))
        listed |= "\0" in part  # words before the list ("Sure, ...") are none of its parts
    return found


def facts(scene: Scene, asked: Asked) -> set[tuple]:
    """The facts a full answer to an open question states."""
    wanted = {("name", kind) for kind in kinds_asked_for(scene, asked)}
    if asked.form == "caption":
        for kind in kinds_in_order(scene):
            items = items_of(scene, kind)
            wanted |= {("count", kind)} if len(items) > 1 else set()
            wanted |= {("color", kind)} if items[0].color else set()
        wanted |= {("place",)} | ({("sign",)} if scene.sign else set())
    return wanted


def _mask(text: str, start: int, end: int) -> str:
    return text[:start] + "\0" * (end - start) + text[end:]


def _count_of(mention: re.Match, language: str) -> int | None:
    word = mention["count"]
    if word is None:
        return None
    return 1 if word.lower() in ("a", "an") else value_of("count", word, language)


def _write_count(count: int, original: str, language: str, follows: str) -> str:
    if original.isdigit():
        return str(count)
    if language == "zh":
        return NUMBERS_ZH[count]
    return like(original, article(follows) if count == 1 else NUMBERS[count])


def _check(scene: Scene, kind: str, mention: re.Match, language: str, reading: Reading) -> None:
    """Number and colour claimed of an object that is there. A colour nobody set, and more of an ambiguous kind, can be neither right nor wrong."""
    items, claimed = items_of(scene, kind), _count_of(mention, language)
    color, follows = items[0].color, mention["color"] or mention["name"]
    if mention["color"] and color:
        written = color_name(color, language)
        if value_of("color", mention["color"], language) == color:
            reading.right.add(("color", kind))
        else:
            reading.false += 1
            reading.edits.append(Edit(*mention.span("color"), like(mention["color"], written), mention["color"]))
            follows = written
    if claimed is None or (claimed > len(items) and kind in ambiguous(scene)):
        return
    name = kinds()[kind].name(language, len(items))
    if claimed == len(items):
        reading.right.add(("count", kind))
        if mention["count"].lower() in ("a", "an") and follows not in (mention["color"], mention["name"]):
            reading.edits.append(Edit(*mention.span("count"), like(mention["count"], article(follows))))
        return
    reading.false += 1
    if not mention["color"]:
        follows = name
    reading.edits.append(Edit(*mention.span("count"), _write_count(len(items), mention["count"], language, follows), mention["count"]))
    if mention["name"].lower() != name:
        reading.edits.append(Edit(*mention.span("name"), like(mention["name"], name)))


def _replace(scene: Scene, kind: str, mention: re.Match, language: str, reading: Reading) -> None:
    """Put a true object in the place of a wrong one, with its own number and colour where these were stated."""
    items = items_of(scene, kind)
    plural = len(items) > 1 and (mention["count"] is not None or _is_plural(mention["name"]))
    name = kinds()[kind].name(language, 2 if plural else 1)
    color = color_name(items[0].color, language) if items[0].color else None
    reading.edits.append(Edit(*mention.span("name"), like(mention["name"], name), mention["name"]))
    follows = name
    if mention["color"]:
        if color is None:
            reading.edits.append(Edit(mention.start("color"), mention.start("name"), "", mention["color"]))
        else:
            false = mention["color"] if mention["color"].lower() != color else None
            reading.edits.append(Edit(*mention.span("color"), like(mention["color"], color), false))
            follows = color
    if mention["count"]:
        if _count_of(mention, language) != len(items):
            written, false = _write_count(len(items), mention["count"], language, follows), mention["count"]
        else:
            written, false = mention["count"], None
            if written.lower() in ("a", "an"):
                written = like(written, article(follows))
        reading.edits.append(Edit(*mention.span("count"), written, false))
    if mention.groupdict().get("measure"):
        reading.edits.append(Edit(*mention.span("measure"), kinds()[kind].measure))


def _is_plural(written: str) -> bool:
    kind = kinds()[names_table("en")[written.lower()]] if written.lower() in names_table("en") else None
    return kind is not None and written.lower() == kind.plural and kind.plural != kind.en


def _remove(text: str, mentions: list[re.Match], removed: list[int], language: str, reading: Reading) -> bool:
    """Take whole phrases out of a list together with their commas; the last comma left becomes "and" again."""
    kept = [i for i in range(len(mentions)) if i not in removed]
    if not kept:
        return False
    joint = _AND[language]
    gaps = [(a.end(), b.start()) for a, b in zip(mentions, mentions[1:])]
    for i in removed:
        start, end = mentions[i].span()
        if i > kept[0] or (i > 0 and not joint.fullmatch(text, *gaps[i])):
            before = gaps[i - 1]
            start = before[0] if joint.fullmatch(text, *before) else start
        elif joint.fullmatch(text, *gaps[i]):
            end = gaps[i][1]
        reading.edits.append(Edit(start, end, "", mentions[i].group()))
    last = text[slice(*gaps[-1])] if gaps else ""
    if removed[-1] == len(mentions) - 1 and len(kept) > 1 and re.fullmatch(r".*(?:and|和).*", last, re.IGNORECASE):
        before = gaps[kept[-1] - 1]
        if joint.fullmatch(text, *before):
            reading.edits.append(Edit(*before, last))
    if removed[0] == 0 and text[mentions[0].start()].isupper():
        _capitalise(text, mentions[kept[0]].start(), reading)
    return True


def _capitalise(text: str, at: int, reading: Reading) -> None:
    for index, edit in enumerate(reading.edits):
        if edit.start == at:
            reading.edits[index] = edit._replace(text=like("A", edit.text))
            return
    reading.edits.append(Edit(at, at + 1, text[at].upper()))


def _read_sign(scene: Scene, text: str, language: str, reading: Reading) -> str:
    """Judge "The sign says ..." and mask it, so that words on signs are not taken for objects."""
    for match in list(_SIGN[language].finditer(text)):
        word = match["word"].strip()
        if scene.sign is None:
            reading.false += 1
            reading.edits.append(Edit(*match.span(), "", word or match.group()))
        elif word.casefold() == scene.sign.casefold():
            reading.right.add(("sign",))
        else:
            reading.false += 1
            reading.edits.append(Edit(*match.span("word"), scene.sign, match["word"]))
        text = _mask(text, *match.span())
    return text


def _read_place(scene: Scene, bare: str, language: str, reading: Reading) -> None:
    place = places()[scene.place]
    for match in pattern_for("place", language).finditer(bare):
        if value_of("place", match.group(), language) == scene.place:
            reading.right.add(("place",))
            continue
        reading.false += 1
        reading.edits.append(Edit(*match.span(), like(match.group(), place.name(language)), match.group()))
        if language == "zh":
            after = re.compile("[里上中]").match(bare, match.end())
            if after:
                reading.edits.append(Edit(*after.span(), place.phrase_zh[len(place.zh) :]))
            continue
        before = re.search(r"\b(in|on|at)\s+(an?|the)\s+$", bare[: match.start()], re.IGNORECASE)
        if before:
            preposition, its_article, _ = place.phrase.split(" ", 2)
            reading.edits.append(Edit(*before.span(1), like(before[1], preposition)))
            if before[2].lower() != "the":
                reading.edits.append(Edit(*before.span(2), like(before[2], its_article)))
