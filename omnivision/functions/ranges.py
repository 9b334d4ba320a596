"""Patterns of the numbers between two bounds, as Python writes them: 0, -12, 0.05, 1e-07, 1.5e+16.

Every function returns the pattern of one lexeme in the grammar's language (Lark with regular
expressions in slashes, & for both).
"""

from __future__ import annotations

from decimal import Decimal

from omnivision.functions.literals import MAX_DIGITS

LARGEST = Decimal("1.7976931348623157e+308")  # of a Python float; a longer text would be infinite
_MOST = Decimal(10**MAX_DIGITS - 1)
_EXPONENTS = (*range(-324, -4), *range(16, 309))  # where Python writes a float with one


def whole_numbers(low: Decimal | None, high: Decimal | None) -> str | None:
    """Whole numbers from low to high, both included; None is no bound. None where there are none."""
    return _signed(_MOST.copy_negate() if low is None else low, _MOST if high is None else high, False)


def numbers(low: Decimal | None, high: Decimal | None) -> str | None:
    """Whole numbers and floats from low to high, both included; None is no bound. None where there are none.

    A text between the bounds is read as a float between them: reading rounds in order.
    """
    return _signed(-LARGEST if low is None else low, LARGEST if high is None else high, True)


def _signed(low: Decimal, high: Decimal, fraction: bool) -> str | None:
    options = []
    if max(low, 0) <= high:
        options.append(_unsigned(max(low, Decimal(0)), high, fraction))
    if low <= min(high, 0):
        least, most = high.copy_negate(), low.copy_negate()  # a plain minus rounds to 28 digits
        options.append(f'"-" ({_unsigned(max(least, Decimal(0)), most, fraction)})')
    return " | ".join(options) or None


def _unsigned(low: Decimal, high: Decimal, fraction: bool) -> str:
    limits = [f"/{_at_least(min(low, _MOST), fraction)}/"] * bool(low) + [f"/{_at_most(high, fraction)}/"] * (high < _MOST)
    plain = " & ".join(limits) or rf"/(?:0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}}){_more(fraction)}/"
    return " | ".join([plain, *_with_exponents(low, high)]) if fraction else plain


def _with_exponents(low: Decimal, high: Decimal) -> list[str]:
    """Options for numbers so small or large that Python writes 1.5e-07: the decades at the bounds, and all between."""
    lowest, highest = (value.adjusted() if value else -400 for value in (low, high))
    between = "|".join(f"{one:+03d}" for one in _EXPONENTS if lowest < one < highest).replace("+", r"\+")
    options = [rf"/[1-9](?:\.[0-9]+)?e(?:{between})/"] if between else []
    for edge in {lowest, highest} & set(_EXPONENTS):
        least = low.scaleb(-edge) if edge == lowest else Decimal(1)
        most = high.scaleb(-edge) if edge == highest else Decimal(10)
        power = f"{edge:+03d}".replace("+", r"\+")
        options.append(rf"(/[1-9](?:\.[0-9]+)?/ & /{_at_least(least, True)}/ & /{_at_most(most, True)}/) /e{power}/")
    return options


def _at_least(low: Decimal, fraction: bool) -> str:
    """Decimals without a sign, from low up: more digits, or a larger digit at some place, or the same digits."""
    whole, part = _digits(low)
    more = _more(fraction)
    options = [rf"[1-9][0-9]{{{len(whole)},{MAX_DIGITS - 1}}}{more}"] if len(whole) < MAX_DIGITS else []
    options += [f"{whole[:at]}[{int(digit) + 1}-9]{_any(len(whole) - at - 1)}{more}" for at, digit in enumerate(whole) if digit != "9"]
    larger = [rf"{part[:at]}[{int(digit) + 1}-9][0-9]*" for at, digit in enumerate(part) if digit != "9"]
    options.append(whole + (rf"\.(?:{'|'.join([*larger, part + '[0-9]*'])})" if part else more))
    return f"(?:{'|'.join(options)})"


def _at_most(high: Decimal, fraction: bool) -> str:
    """Decimals without a sign, up to high: fewer digits, or a smaller digit at some place, or the same digits."""
    whole, part = _digits(high)
    more = _more(fraction)
    options = [rf"(?:0|[1-9][0-9]{{0,{len(whole) - 2}}}){more}"] if len(whole) > 1 else []
    for at, digit in enumerate(whole):
        first = 1 if at == 0 and len(whole) > 1 else 0
        if int(digit) > first:
            options.append(f"{whole[:at]}[{first}-{int(digit) - 1}]{_any(len(whole) - at - 1)}{more}")
    smaller = [f"{part[:at]}[0-{int(digit) - 1}][0-9]*" for at, digit in enumerate(part) if digit != "0"]
    smaller += [part[:at] for at in range(1, len(part))] + [f"{part}0*" if part else "0+"]
    options.append(whole + (rf"(?:\.(?:{'|'.join(smaller)}))?" if fraction else ""))
    return f"(?:{'|'.join(options)})"


def _any(digits: int) -> str:
    return f"[0-9]{{{digits}}}" if digits else ""


def _more(fraction: bool) -> str:
    return r"(?:\.[0-9]+)?" if fraction else ""


def _digits(value: Decimal) -> tuple[str, str]:
    """The digits before and after the point."""
    whole, _, part = f"{value.copy_abs():f}".partition(".")  # -0 has a sign too
    return whole, part.rstrip("0")
