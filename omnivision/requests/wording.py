"""A call in words: what the function does, what its arguments are called, and their values, in English or Chinese."""

from __future__ import annotations

import random
import re

from omnivision.functions import Function
from omnivision.requests import chinese
from omnivision.requests.drawing import Undrawable
from omnivision.requests.language import CHINESE
from omnivision.requests.words import tables, words_of

LONGEST_LABEL = 6  # words
VERSION = re.compile(r"[vV]?\d+(?:(?:alpha|beta|rc)\d*)?")  # as a part of a function's name: says nothing of what it does
ARTICLES = frozenset(("a", "an", "the", "my", "your", "all", "every"))
# What descriptions begin with before they come to the point.
ABOUT_ITSELF = re.compile(r"^(?:(?:this|an?|the)\s+)?(?:function|tool|method|api|utility)\s+(?:is used\s+|used\s+)?(?:(?:to|that|which|for)\s+)?", re.IGNORECASE)
# Where the part of a description that names its arguments begins.
ARGUMENTS_TOLD = re.compile(r",? (?:given|based on|based upon|using|for a given|for the given|if|including|according to|by its|from its)\b.*|\s*\(.*")
FIRST_SENTENCE = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)[.;。；]\s|[.。]$|。")
NO_LABEL = re.compile(r"\b(?:default|optional|e\.g|if|whether|format|can be|should|must)\b|[:(\"'‘“]", re.IGNORECASE)


def deeds(function: Function, language: str) -> list[tuple[bool, str]]:
    """What a function does, in several wordings: (whether it is a deed, "calculate the area", or a thing, "the area of a triangle").

    A Chinese wording is a Chinese description, or else made of the name.

    Raises:
        Undrawable: neither gives one that is Chinese throughout.
    """
    sentence = ABOUT_ITSELF.sub("", FIRST_SENTENCE.split(function.description.strip(), maxsplit=1)[0].strip()).strip(" .。")
    parts = [words_of(part) for part in function.name.split(".") if not VERSION.fullmatch(part)] or [words_of(function.name)]
    name = " ".join(parts[-1] if len(parts[-1]) > 1 else [word for part in parts for word in part])
    if CHINESE.search(sentence):
        return [(True, sentence)]
    if language == "zh":
        return [_chinese_deed(name)]
    wordings = dict.fromkeys(one for one in (ARGUMENTS_TOLD.sub("", sentence), sentence, name) if one)
    verb = _shared_verb(name, sentence)
    return list(dict.fromkeys(_deed(one, verb) for one in wordings))


def _shared_verb(name: str, sentence: str) -> str | None:
    """The word with which name and description begin, where an article behind it shows a verb: shift, "Shifts the schedule"."""
    first, (said, following) = name.partition(" ")[0], [*sentence.lower().split(), "", ""][:2]
    return first if said in (first, f"{first}s") and following in ARTICLES else None


def _deed(sentence: str, verb: str | None) -> tuple[bool, str]:
    first, _, rest = sentence.partition(" ")
    plain = verb if verb and first.lower() in (verb, f"{verb}s") else infinitive(first.lower())
    if (plain == verb or is_verb(plain)) and not rest.startswith("of "):
        return True, f"{plain} {rest}".strip()
    keeps = any(letter.isupper() for letter in first[1:])  # DNA, eBay
    return False, sentence if keeps else sentence[:1].lower() + sentence[1:]


def is_verb(word: str) -> bool:
    """Whether a description that begins with the word says what is done."""
    return word in VERBS or word in tables()["zh_verbs"]


# Verbs with which descriptions and names begin, besides those that have a Chinese word.
VERBS = frozenset("access activate adjust allocate answer apply arrange ask assess assign build call cancel capture change classify clean collect "
                  "combine compile complete compose conduct confirm connect control cook count crop decode define deliver describe design detect display "
                  "divide do download draw edit email enable encode enter evaluate execute explain explore export extract filter fix forecast format give "
                  "grade guess help hire import improve increase install invest invite join launch learn lock log make manage map mark measure merge "
                  "modify monitor move multiply name notify obtain offer organize paint parse pay perform place plan plot post prepare print process "
                  "prove purchase query rank rate read recommend record recycle redesign reduce register remind rename rent repair replace request "
                  "resolve restore review rotate route run save scan select sell share shop sign sort split store submit subtract suggest sum summarize "
                  "take tell test text throw train transfer turn understand unlock upload use validate verify view visit wash watch weigh".split())


def infinitive(verb: str) -> str:
    """Calculates -> calculate; other words as they are."""
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("s", "")):
        if verb.endswith(ending):
            plain = verb.removesuffix(ending) + instead
            return plain if is_verb(plain) else verb
    return verb


def _chinese_deed(name: str) -> tuple[bool, str]:
    words = name.split()
    if words[-1] in tables()["zh_verbs"] and words[0] not in chinese.verbs():
        words = [words[-1], *words[:-1]]  # books_search
    verb, rest = words[0], words[1:]
    is_deed = verb in chinese.verbs() and rest[:1] != ["of"]
    said = chinese.phrase(rest if is_deed else words)
    if said is None or not (said or is_deed):
        raise Undrawable(f"{name!r} has no Chinese words")
    return is_deed, (chinese.verbs()[verb] if is_deed else "") + said


def labels(function: Function, name: str, language: str) -> list[str]:
    """What an argument is called: the words of its name, and those of its description where they are few.

    Raises:
        Undrawable: it has no Chinese name.
    """
    words = words_of(name) or (name,)
    described = str(_property(function, name).get("description", ""))
    first = FIRST_SENTENCE.split(described.strip(), maxsplit=1)[0].strip(" .。")
    is_label = first and len(first.split()) <= LONGEST_LABEL and not NO_LABEL.search(first)
    if language == "zh":
        return [first] if is_label and CHINESE.search(first) else [_chinese_label(words)]
    plain = [" ".join(words)]
    return plain + [re.sub(r"^(?:The|An?)\s", lambda match: match[0].lower(), first)] if is_label and re.match(r"(?:The|An?)\s", first) else plain


def _chinese_label(words: tuple[str, ...]) -> str:
    if any(CHINESE.search(word) for word in words):
        return "".join(words)
    found = tables()["zh_labels"].get(words[0]) if len(words) == 1 else None
    if label := found or chinese.phrase(words):
        return label
    raise Undrawable(f"the argument {' '.join(words)!r} has no Chinese words")


def _property(function: Function, name: str) -> dict:
    found = function.parameters.get("properties", {}).get(name, {})
    return found if isinstance(found, dict) else {}


def said(value: object, language: str, rng: random.Random, inside: bool = False, plain: bool = False) -> str:
    """A value in words; every text in it stands there as it is.

    Args:
        plain: no quotes that its sentence does not have. inside: it stands in a list or an object, whose own commas it must not be mixed up with.
    """
    english = language != "zh"
    if value is None:
        return "nothing" if english else "空"
    if isinstance(value, bool):
        return (("no", "yes") if english else ("否", "是"))[value]
    if isinstance(value, str):
        quotes = ("'", "'") if english else ("“", "”")
        quoted = not value or value != value.strip() or not plain and rng.random() < 0.2 or inside and re.search(r"[,;，、]| and ", value)
        return f"{quotes[0]}{value}{quotes[1]}" if quoted and quotes[0] not in value else value
    if isinstance(value, list):
        items = [said(one, language, rng, inside=True) for one in value]
        if inside:
            return f"[{', '.join(items)}]"
        if not items:
            return "none" if english else "无"
        head = (", " if english else "、").join(items[:-1])
        return f"{head}{' and ' if english else '和'}{items[-1]}" if head else items[-1]
    if isinstance(value, dict):
        whole = (", " if english else "，").join(f"{_key(key, english)} {said(one, language, rng, inside=True)}" for key, one in value.items())
        return f"({whole})" if inside or not whole else whole
    return str(value)


def _key(key: str, english: bool) -> str:
    """What a part of an object is called; keys are as often data as names, so that one without Chinese words stays as it is."""
    words = words_of(key)
    return " ".join(words) or key if english else chinese.phrase(words) or key


def preposition(name: str, value: object, language: str) -> str | None:
    """The English word that says what a text is by itself: "in Paris"; None where the argument has to be named."""
    words = words_of(name)
    tells = isinstance(value, str) or words == ("year",)
    return tables()["en_prepositions"].get(words[0]) if language == "en" and len(words) == 1 and tells else None
