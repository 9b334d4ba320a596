"""Whether the values of a call stand in its request."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

from omnivision.functions import Function
from omnivision.functions.options import options
from omnivision.requests.language import CHINESE
from omnivision.requests.same import normalised
from omnivision.requests.words import words_of

LIKENESS = 90  # of 100, rapidfuzz's partial_ratio: how near a text of the call has to be to a part of the request; one letter in ten may differ
SLIP = 4  # letters of a word in which one may differ: "living room lamp" is no slip of "dining room lamp"
THOUSANDS = re.compile(r"\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)")  # 1,500 and 12,34,567
FIGURES = re.compile(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")
MINUS = re.compile(r"(?<![A-Za-z0-9_)])[-\u2212\u2013]\s?(?=\d)|\bminus\b|\bnegative\b|\bbelow (?:zero|freezing)\b|负|零下", re.IGNORECASE)
SIGN_BEFORE = re.compile(r"(?:(?<![A-Za-z0-9_)])[-\u2212\u2013]|\bminus\s+|\bnegative\s+|负|零下)$", re.IGNORECASE)
ANOTHER_BEFORE = re.compile(r"\d\s*\w{0,3}\s*$")
NOT_COUNTED = re.compile("(?<![周期拜])一下|一些|一起|一样|一定|一直|一般")  # words in which "one" counts nothing
COUNTED = {"en": "zero one two three four five six seven eight nine ten eleven twelve".split(), "zh": "零一二三四五六七八九十"}


def values_not_said(function: Function, arguments: dict, request: str, language: str) -> list[str]:
    """Arguments with a text or number that does not stand in the request.

    Truth values, null, and values that the schema lists or has as its default may be told in other words.
    """
    fields = function.parameters.get("properties", {})
    return [name for name, value in arguments.items() if not _is_said(value, fields.get(name, {}), function, request, language)]


def _is_said(value: object, schema: dict | bool, function: Function, request: str, language: str) -> bool:
    if value is None or isinstance(value, bool) or isinstance(schema, dict) and _is_told(value, schema, function):
        return True
    if isinstance(value, str):
        return text_said(value, request)
    if isinstance(value, int | float):
        return number_said(value, request, language)
    if isinstance(value, list):
        items = schema.get("items", {}) if isinstance(schema, dict) else {}
        return all(_is_said(one, items, function, request, language) for one in value)
    fields = schema.get("properties", {}) if isinstance(schema, dict) else {}
    return all(_is_said(one, fields.get(key, {}), function, request, language) for key, one in value.items())


def _is_told(value: object, schema: dict, function: Function) -> bool:
    """Whether the schema itself names the value."""
    return "default" in schema and schema["default"] == value or any(value in option.get("enum", ()) for option in options(schema, function, set()))


def text_said(text: str, request: str) -> bool:
    """Whether a text stands in a request, whatever its case, punctuation and underscores; long ones with a slip of the pen."""
    for wanted, given in ((normalised(text), normalised(request)), (" ".join(words_of(text)), " ".join(words_of(request)))):
        if not wanted:
            continue
        if CHINESE.search(wanted):
            found = wanted.replace(" ", "") in given.replace(" ", "")
        else:
            found = f" {wanted} " in f" {given} " or re.search(rf"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9])", given)
        if found or len(wanted) >= 100 // (100 - LIKENESS) and not FIGURES.search(wanted) and _is_near(wanted, given):
            return True
    return not normalised(text) and text in request


def _is_near(wanted: str, given: str) -> bool:
    """Whether a part of the request differs by slips of the pen only."""
    if len(wanted) > len(given):  # partial_ratio_alignment would look for the request in the text
        like, part = fuzz.ratio(wanted, given), given
    else:
        place = fuzz.partial_ratio_alignment(wanted, given)
        like, part = place.score, given[place.dest_start : place.dest_end]
    if like < LIKENESS:
        return False
    words, slips = wanted.split(" "), Counter(wanted.count(" ", 0, edit.src_pos) for edit in Levenshtein.editops(wanted, part)
                                              if wanted[edit.src_pos : edit.src_pos + 1] != " ")
    return all(count == 1 and len(words[number]) >= SLIP for number, count in slips.items())


def number_said(value: int | float, request: str, language: str) -> bool:
    """Whether a number stands in a request: in figures, as a percentage, or as a word up to twelve; one below 0 with its sign or a word for it."""
    plain, size = unicodedata.normalize("NFKC", request), abs(value)
    if value < 0 and not MINUS.search(plain):
        return False
    places = list(FIGURES.finditer(plain))
    signs = [_is_signed(plain[: place.start()]) for place in places]
    loose = len(MINUS.findall(plain)) > sum(signs)  # a word for it that stands elsewhere, or a dash that may be none
    written = [one for place, sign in zip(places, signs, strict=True) if loose or sign is (value < 0) for one in _readings(place[0])]
    figures = {float(one) for one in written if one.count(".") < 2}
    as_share = "%" in plain and size < 1e9 and any(abs(one / 100 - size) < 1e-9 for one in figures)
    if size in figures or str(size) in written or as_share:  # as written: a double does not hold a long whole number
        return True
    words = COUNTED[language]
    if size != int(size) or size >= len(words):
        return False
    word = words[int(size)]
    if language == "zh":
        plain = NOT_COUNTED.sub("", plain)
        return word in plain or size == 2 and "两" in plain
    return re.search(rf"\b{word}\b", plain.casefold()) is not None


def _readings(figures: str) -> list[str]:
    """The numbers that figures with commas write: thousands (1,500), a decimal comma (1,5) or a list (1,2,3)."""
    if THOUSANDS.match(figures):
        return [figures.replace(",", "")]
    parts = figures.split(",")
    return [".".join(parts)] if len(parts) == 2 and "." not in figures else parts


def _is_signed(before: str) -> bool:
    """Whether what stands before a figure makes it one below 0; behind another figure ("3-5", "10 minus 3") it does not."""
    sign = SIGN_BEFORE.search(before)
    return sign is not None and ANOTHER_BEFORE.search(before[: sign.start()]) is None
