"""Patterns of the grammar for single values: numbers between bounds, strings by length and pattern."""

from __future__ import annotations

import json
import math
import random
import re
from decimal import Decimal

import llguidance
import pytest

from omnivision.functions.lexemes import byte_tokenizer, plain_pattern, strings
from omnivision.functions.literals import text_literal
from omnivision.functions.ranges import numbers, whole_numbers


def matcher(pattern: str) -> llguidance.LLMatcher:
    made = llguidance.LLMatcher(byte_tokenizer(), f"start: ONE\nONE: {pattern}")
    assert not made.is_error(), made.get_error()
    return made


def fits(pattern: llguidance.LLMatcher, text: str) -> bool:
    pattern.reset()
    return pattern.try_consume_tokens(list(text.encode())) == len(text.encode()) and pattern.is_accepting()


# ---- numbers ----

EXTREME = [0, 0.0, -0.0, 1, -5, 5e-324, 2.2250738585072014e-308, 9.999999999999999e22, 0.0001, 1e-05, 123456.789, 1e16, 10**299, 10**300 - 1,
           1.7976931348623155e308, 1.7976931348623157e308, -1.7976931348623157e308]


@pytest.mark.parametrize("value", EXTREME)
def test_every_number_that_a_call_can_hold_is_written_so(value):
    assert fits(matcher(numbers(None, None)), repr(value))
    assert fits(matcher(whole_numbers(None, None)), repr(value)) is isinstance(value, int)


@pytest.mark.parametrize("text", ["1e999", "1.7976931348623158e+308", "1.8e+308", "01", "1.", ".5", "--1", "1e5", "9" * 301, "inf", "nan", "-", "0x1", "1_0"])
def test_what_python_would_read_otherwise_or_not_at_all_is_no_number(text):
    assert not fits(matcher(numbers(None, None)), text)
    assert not fits(matcher(numbers(Decimal(1), None)), text) and not fits(matcher(whole_numbers(Decimal(1), None)), text)


def draw(rng: random.Random) -> float:
    return rng.choice([0.0, -0.0, float(rng.randint(-1000, 1000)), rng.uniform(-10, 10), round(rng.uniform(-100, 100), rng.randint(0, 4)),
                       rng.choice([-1, 1]) * 10 ** rng.uniform(-320, 308)])


def test_floats_between_bounds_and_no_others():
    rng, seen = random.Random(0), {True: 0, False: 0}
    for _ in range(120):
        first, second = sorted([draw(rng), draw(rng)])
        low, high = rng.choice([None, first, first, first]), rng.choice([None, second, second, second])
        pattern = matcher(numbers(*(None if one is None else Decimal(repr(one)) for one in (low, high))))
        tried = [draw(rng) for _ in range(20)] + [int(draw(rng) % 1000) for _ in range(5)]
        for edge in (first, second):
            tried += [edge, math.nextafter(edge, math.inf), math.nextafter(edge, -math.inf), edge * (1 + 1e-9), edge * (1 - 1e-9), edge / 2]
        for value in tried:
            if not math.isinf(value):
                inside = (low is None or value >= low) and (high is None or value <= high)
                assert fits(pattern, repr(value)) is inside, (low, high, value)
                seen[inside] += 1
    assert min(seen.values()) > 1000


def test_whole_numbers_between_bounds_and_no_others():
    rng = random.Random(0)
    for _ in range(120):
        low, high = sorted(rng.randint(-size, size) for size in rng.choice([(20, 20), (10**6, 50), (10**18, 10**18)]))
        pattern = matcher(whole_numbers(Decimal(low), Decimal(high)))
        for value in [low, high, low - 1, low + 1, high - 1, high + 1, 0, 1, -1, 9, 10, 99, 100, -10, (low + high) // 2, rng.randint(-(10**6), 10**6)]:
            assert fits(pattern, str(value)) is (low <= value <= high), (low, high, value)
    assert whole_numbers(Decimal(3), Decimal(2)) is None and numbers(Decimal("0.2"), Decimal("0.1")) is None


# ---- strings ----

TEXTS = ["", "red cat", "it's", '"', "it's \"so\"", "a\\d", "\\", "\x00\n\r\t\x7f\x85\xa0", "猫\u3000", "e\u0301", "ﬁ", "😀", "\U0010ffff", "\ufeff", "\u2028", "{'a': 1}", "<nexa_0>"]


@pytest.mark.parametrize("value", TEXTS)
def test_every_string_is_written_so_and_its_length_counts_characters(value):
    assert fits(matcher(strings()), text_literal(value))
    assert fits(matcher(strings(len(value), len(value))), text_literal(value))
    assert not fits(matcher(strings(len(value) + 1)), text_literal(value))
    assert not value or not fits(matcher(strings(0, len(value) - 1)), text_literal(value))


@pytest.mark.parametrize("text", ["'", "'a", "a'", "'a''b'", "'\\ud800'", "'\\U0000dfff'", "'\\U00110000'", "'\\N{DIGIT ONE}'", "'\n'", "'\x00'", "'\\'", '"a\'', "b'a'", "'a' 'b'"])
def test_what_is_no_string_or_half_a_character_is_refused(text):
    assert not fits(matcher(strings()), text)


@pytest.mark.parametrize(("pattern", "good", "bad"), [
    (r"^\d{4}-\d\d$", ["2026-11"], ["2026-1", "x2026-11", "2026-112"]),
    (r"\d", ["a1b", "1"], ["", "ab"]),
    (r"^a", ["a", "abc"], ["ba"]),
    (r"z$", ["z", "abz"], ["za"]),
    (r"^(red|blue)$", ["red", "blue"], ["reds", "redblue"]),
    (r"red|blue", ["a red b", "blue"], ["green"]),
    (r"^[^/|$^]+/x$", ["a/x"], ["a|/x", "/x"]),
    (r"^cost\$$", ["cost$"], ["cost", "cost\\"]),
    (r"^a\$", ["a$", "a$b"], ["a", "ba$"]),
    (r"^it's$", ["it's"], ["its"]),
    (r"^[猫犬]+$", ["猫犬"], ["猫a"]),
    (r"^[a&b~-]--&&$", ["&--&&", "---&&"], ["c--&&", "a--&"]),
    (r"^[\[\-&]$", ["[", "-", "&"], ["x"]),
])
def test_patterns_mean_what_they_mean_to_the_parser(pattern, good, bad):
    lexeme = matcher(strings(patterns=(plain_pattern(pattern),)))
    for value in good + bad:
        assert fits(lexeme, text_literal(value)) is (value in good)
        assert not fits(lexeme, text_literal(value)) or re.search(pattern, value)
    assert all(re.search(pattern, value) for value in good)


@pytest.mark.parametrize("pattern", ["^a|b$", "a$b", "(?=a)b", r"(a)\1", r"\bword\b", "(^a|b)", "^a?+$", "^a*+$", "^(?:ab){1,2}+$", "^[a-z&&b]$", "^[+--]$", "^[!~~b]$", "^[a[b]$", "^a\nb$", "^[a\n]$"])
def test_patterns_that_the_grammar_cannot_say_are_known(pattern):
    assert plain_pattern(pattern) is None


@pytest.mark.parametrize("pattern", [r"^\w+$", r"^[\w-]+$", r"^\d+$", r"^[^\d]$", r"^\W$", r"^[^\W\d]$", r"^\D$", r"^\s$", r"^\S$", r"^[\s\S]$"])
def test_shorthands_have_the_characters_of_the_parser(pattern):
    lexeme = matcher(strings(patterns=(plain_pattern(pattern),)))
    texts = ["José", "猫", "प्रिया", "ทั้ง", "Noe\u0308l", "Ⓐ", "²", "\U0001ccf0", "٣", "7", "\u200d", "\u00a0", "\u2028", "\ud7ff", "\ue000", "_", "-", "\U0010ffff"]
    assert [text for text in texts if fits(lexeme, f"'{text}'")] == [text for text in texts if re.search(pattern, text)]


def test_several_patterns_hold_together_with_a_length():
    lexeme = matcher(strings(2, 3, (plain_pattern("^a"), plain_pattern("z$"))))
    assert [text for text in ("az", "abz", "abcz", "a", "bz", json.dumps("z")) if fits(lexeme, text_literal(text))] == ["az", "abz"]


def test_no_string_is_known_to_be_none():
    assert strings(3, 2) is None and strings(3, None, (plain_pattern("^[ab]$"),)) is None
    assert strings(patterns=(plain_pattern(r"^\\$"),)) is None  # a backslash would have to be escaped
    assert strings(3, None, (plain_pattern("^(a|bcd)$"),)) and strings(patterns=(plain_pattern("^it's$"),))
