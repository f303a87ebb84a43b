"""Number words in the form the model was trained on: no "and", no commas, no hyphens.

"1234" is "one thousand two hundred thirty four" and "1500" is "fifteen hundred", as the training-time text cleaner of
Chatterbox-Flash wrote them. Knows nothing of text around a number: what a number means is decided in `quantities.py`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from num2words import num2words

MAX_CARDINAL_DIGITS = 18
"""Longer digit strings are read digit by digit: no listener follows a quintillion."""

_DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_ROMAN = re.compile(r"M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


@functools.lru_cache(maxsize=4096)
def cardinal(value: int) -> str:
    """Words of an integer of at most `MAX_CARDINAL_DIGITS` digits; "minus" before a negative one."""
    if value < 0:
        return "minus " + cardinal(-value)
    if _counts_in_hundreds(value):
        return f"{cardinal(value // 100)} hundred"
    return _plain(num2words(value))


@functools.lru_cache(maxsize=1024)
def ordinal(value: int) -> str:
    """Words of a rank: 21 is "twenty first"."""
    if _counts_in_hundreds(value):
        return f"{cardinal(value // 100)} hundredth"
    return _plain(num2words(value, to="ordinal"))


def integer(digits: str) -> str:
    """Words of a string of digits: a cardinal, or digit by digit past `MAX_CARDINAL_DIGITS` or after a leading zero."""
    if len(digits) > MAX_CARDINAL_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        return spell_digits(digits)
    return cardinal(int(digits))


def decimal(whole: str, fraction: str) -> str:
    """Words of `whole.fraction`; without a fraction those of the integer, without a whole part "point five"."""
    words = [integer(whole)] if whole else []
    if fraction:
        words += ["point", spell_digits(fraction)]
    return " ".join(words)


def spell_digits(digits: str) -> str:
    """Every digit by its name."""
    return " ".join([_DIGIT_WORDS[int(digit)] for digit in digits])


def digit_groups(digits: str) -> str:
    """A long string of digits as it is dictated: groups of at most four, a comma between them.

    The last four digits are one group (of five or eight digits the last three); the rest is cut into threes from its end.
    """
    tail_size = 3 if len(digits) in (5, 8) else 4
    head, tail = digits[:-tail_size], digits[-tail_size:]
    lead = len(head) % 3
    groups = ([head[:lead]] if lead else []) + [head[at : at + 3] for at in range(lead, len(head), 3)]
    return ", ".join(spell_digits(group) for group in [*groups, tail])


def join_groups(groups: Sequence[str]) -> str:
    """Groups of digits as their writer grouped them; a group longer than four is cut as `digit_groups` does."""
    return ", ".join(spell_digits(group) if len(group) <= 4 else digit_groups(group) for group in groups)


@functools.lru_cache(maxsize=512)
def year(value: int) -> str:
    """Words of a year from 1000 to 2999: "nineteen oh five", "two thousand five", "twenty twenty four"."""
    century, rest = divmod(value, 100)
    if value % 1000 < 10:
        return cardinal(value)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    if rest < 10:
        return f"{cardinal(century)} oh {cardinal(rest)}"
    return f"{cardinal(century)} {cardinal(rest)}"


def decade(value: int) -> str:
    """Words of a decade or century named by its first year: 1990 is "nineteen nineties", 90 is "nineties"."""
    words = year(value) if value >= 1000 else cardinal(value)
    return words[:-1] + "ies" if words.endswith("y") else words + ("es" if words.endswith("x") else "s")


def fraction(numerator: int, denominator: int) -> str:
    """Words of a fraction: "one half", "three quarters", "five eighths"; over a hundred "one over two hundred"."""
    if denominator in (0, 1) or denominator > 100:
        return f"{cardinal(numerator)} over {cardinal(denominator)}"
    one, many = {2: ("half", "halves"), 4: ("quarter", "quarters")}.get(
        denominator, (ordinal(denominator), ordinal(denominator) + "s")
    )
    return f"{cardinal(numerator)} {one if numerator == 1 else many}"


def and_fraction(numerator: int, denominator: int) -> str:
    """Words of a fraction after a whole number: "and a half", "and two thirds"."""
    words = fraction(numerator, denominator)
    return "and " + ("a " + words.removeprefix("one ") if numerator == 1 else words)


def roman(numeral: str) -> int:
    """Value of a well-formed upper-case Roman numeral up to MMMCMXCIX; 0 when it is none."""
    if not numeral or len(numeral) > 15 or not _ROMAN.fullmatch(numeral):
        return 0
    values = [_ROMAN_VALUES[letter] for letter in numeral]
    return sum(-one if one < after else one for one, after in zip(values, [*values[1:], 0], strict=True))


def _counts_in_hundreds(value: int) -> bool:
    return 1000 < value < 3000 and value % 100 == 0 and value % 1000 != 0


def _plain(words: str) -> str:
    return words.replace(" and ", " ").replace(",", "").replace("-", " ")
