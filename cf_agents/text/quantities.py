"""Readings of what begins with a digit, a sign of currency or a plus: amounts, dates, times, phone numbers, units.

Every rule is one anchored pattern whose repetitions are bounded or possessive, so that a rule costs a constant amount of
work per place it is tried at, whatever the text. The order of `_RULES` is the order in which they are tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from cf_agents.text import numbers
from cf_agents.text.amounts import CURRENCY_SIGN, NUMBER, UNIT, UNIT_NEXT, bare_digits, number_end, number_words
from cf_agents.text.dates import is_month, is_year, read_date, read_day_of_month, read_time, year_expected
from cf_agents.text.lexicon import ATTACHED_ONLY, MAGNITUDES, STATES, UNITS, VULGAR_FRACTIONS, word_set
from cf_agents.text.money import read_money
from cf_agents.text.reading import Reading

_IDIOMS = {
    "24/7": "twenty four seven",
    "9/11": "nine eleven",
    "911": "nine one one",
    "50/50": "fifty fifty",
    "24/7/365": "twenty four seven three sixty five",
}
_AGES = word_set("the their his her my your our in mid early late")

_PHONE = re.compile(
    r"(?:\+?\d{1,3}[ .-]?)?(?:\(\d{3}\)[ -]?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\d-])"
    r"|\d{3}-\d{4}(?![\d-])"
    r"|\+\d{1,3}(?:[ .-]?\(?\d{1,5}+\)?){1,5}+(?!\d)"
    r"|0\d{2,4} \d{3,4} \d{3,4}(?!\d)"
    r"|\d{3}-\d{2}-\d{4}(?![\d-])"
    r"|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}(?!\d)"
)
_PERCENT = re.compile(rf"{NUMBER}\s?%")
_MEASURE = re.compile(rf"{NUMBER}(?P<space>[ -]?)(?P<unit>{UNIT})(?![A-Za-z0-9²³'])(?P<dot>\.(?=\s[a-z0-9]))?")
_FEET_INCHES = re.compile(r"(\d{1,2})'(\d{1,2})(?!\d)(?:\"|'')?")
_ORDINAL = re.compile(r"(\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:st|nd|rd|th|ST|ND|RD|TH)\b")
_DECADE = re.compile(r"([1-9]\d{2}0|[1-9]00|[1-9]0)'?s\b")
_FRACTION = re.compile(r"(?:(\d{1,6})([ -]))?(\d{1,4})/(\d{1,4})(?![\d/])")
_RATING = re.compile(rf"{NUMBER}/(\d{{1,4}})(?![\d/])")
_VULGAR = re.compile(rf"(?:(\d{{1,6}})[ -]?)?([{''.join(VULGAR_FRACTIONS)}])")
_SIZE = re.compile(rf"{NUMBER}(?P<space>\s?)[x×]\s?(?=\d)")
_RATIO = re.compile(r"(\d{1,6}):(?=\d)")
_DOTTED = re.compile(r"\d{1,5}(?:\.\d{1,5}){2,7}(?!\.?\d)")
_POWER = re.compile(rf"{NUMBER}(?:(?P<times>[eE])|\^)(?P<minus>-)?\+?(?P<power>\d{{1,3}})(?![\dA-Za-z])")
_SCALED = re.compile(rf"{NUMBER}(?P<letter>bn|mn|tn|[kKMBT])(?![A-Za-z0-9])")
_RANGE = re.compile(rf"{NUMBER}\s?-\s?(?={CURRENCY_SIGN}?\d)(?P<next>\d{{0,6}})")
_DIFFERENCE = re.compile(r"[\d,.]{1,24}\s?=")
_PLAIN = re.compile(NUMBER)
_POINT = re.compile(r"\.(\d{1,200})(?!\d)")
_GOES_ON = re.compile(r"\w|[/,.:-]\d|%")
_DIGITS = re.compile(r"\d+")
_STANDS_ALONE = re.compile(r"\d{1,18}(?=[;!?)\"\n]|[.,](?!\d)|\Z)")


def read_quantity(text: str, at: int, previous: str) -> Reading | None:
    """Read the quantity at `at`, whose previous word is `previous`; None when none begins there."""
    for rule in _SHORT_RULES if _STANDS_ALONE.match(text, at) else _RULES:
        reading = rule(text, at, previous)
        if reading:
            return reading
    return None


def _idiom(text: str, at: int, previous: str) -> Reading | None:
    for written, spoken in _IDIOMS.items():
        if text.startswith(written, at) and not _GOES_ON.match(text, at + len(written)):
            return [(at + len(written), spoken)]
    return None


def _phone(text: str, at: int, previous: str) -> Reading | None:
    found = _PHONE.match(text, at)
    if not found or len(_DIGITS.findall(found.group())) < 2 or sum(map(str.isdecimal, found.group())) < 7:
        return None
    return _spelled_groups(text, at, found.end())


def _spelled_groups(text: str, at: int, end: int) -> Reading:
    reading: Reading = []
    for part in re.finditer(r"\S+\s*", text[at:end]):
        groups = _DIGITS.findall(part.group())
        comma = "," if at + part.end() < end and groups else ""
        reading.append((at + part.end(), numbers.join_groups(groups) + comma + (" " if comma else "")))
    return reading


def _percent(text: str, at: int, previous: str) -> Reading | None:
    found = _PERCENT.match(text, at)
    return [(number_end(found), number_words(found)), (found.end(), " percent")] if found else None


def _measure(text: str, at: int, previous: str) -> Reading | None:
    found = _MEASURE.match(text, at)
    if not found:
        return None
    inches = found["unit"] == "in" and text[max(at - 5, 0) : at].endswith(("ft ", "ft. ", "feet ", "foot "))
    if found["unit"] in ATTACHED_ONLY and found["space"] and not inches:
        return None
    if found["unit"] == "s" and previous.lower() in _AGES and found["whole"].endswith("0"):
        return None
    one, many = UNITS[found["unit"]]
    alone = (found["whole"] == "1" and not found["part"]) or found["space"] == "-"
    return [(number_end(found), number_words(found)), (found.end(), " " + (one if alone else many))]


def _feet_inches(text: str, at: int, previous: str) -> Reading | None:
    found = _FEET_INCHES.match(text, at)
    return [(found.end(), f"{numbers.integer(found[1])} foot {numbers.integer(found[2])}")] if found else None


def _ordinal(text: str, at: int, previous: str) -> Reading | None:
    found = _ORDINAL.match(text, at)
    return [(found.end(), numbers.ordinal(int(bare_digits(found[1]))))] if found else None


def _decade(text: str, at: int, previous: str) -> Reading | None:
    found = _DECADE.match(text, at)
    return [(found.end(), numbers.decade(int(found[1])))] if found else None


def _fraction(text: str, at: int, previous: str) -> Reading | None:
    if found := _VULGAR.match(text, at):
        numerator, denominator = VULGAR_FRACTIONS[found[2]]
        if not found[1]:
            return [(found.end(), numbers.fraction(numerator, denominator))]
        return [(found.end(1), numbers.integer(found[1])), (found.end(), " " + numbers.and_fraction(numerator, denominator))]
    found = _FRACTION.match(text, at)
    if not found:
        rating = _RATING.match(text, at)
        return (
            [(rating.end(), f"{number_words(rating)} out of {numbers.integer(rating[3])}")]
            if rating and rating["part"]
            else None
        )
    numerator, denominator = int(found[3]), int(found[4])
    if found[1]:
        if numerator >= denominator:
            return None
        return [(found.end(1), numbers.integer(found[1])), (found.end(), " " + numbers.and_fraction(numerator, denominator))]
    if denominator in (10, 100) and 1 < numerator <= denominator:
        return [(found.end(), f"{numbers.cardinal(numerator)} out of {numbers.cardinal(denominator)}")]
    return [(found.end(), numbers.fraction(numerator, denominator))]


def _size(text: str, at: int, previous: str) -> Reading | None:
    found = _SIZE.match(text, at)
    return [(number_end(found), number_words(found)), (found.end(), " by ")] if found else None


def _ratio(text: str, at: int, previous: str) -> Reading | None:
    found = _RATIO.match(text, at)
    return [(found.end(), numbers.integer(found[1]) + " to ")] if found else None


def _dotted(text: str, at: int, previous: str) -> Reading | None:
    found = _DOTTED.match(text, at)
    if not found:
        return None
    parts = found.group().split(".")
    is_address = len(parts) == 4 and all(int(part) < 256 for part in parts)
    return [(found.end(), (" dot " if is_address else " point ").join(map(numbers.integer, parts)))]


def _power(text: str, at: int, previous: str) -> Reading | None:
    found = _POWER.match(text, at)
    if not found:
        return None
    sign = "minus " if found["minus"] else ""
    base = " times ten" if found["times"] else ""
    return [(found.end(), f"{number_words(found)}{base} to the power of {sign}{numbers.integer(found['power'])}")]


def _scaled(text: str, at: int, previous: str) -> Reading | None:
    found = _SCALED.match(text, at)
    if not found:
        return None
    whole = bare_digits(found["whole"])
    short = found["letter"] == "K" and not found["part"] and len(whole) < 3 and int(whole) <= 10
    return [(found.end(), f"{number_words(found)} {'k' if short else MAGNITUDES[found['letter']]}")]


def _range(text: str, at: int, previous: str) -> Reading | None:
    found = _RANGE.match(text, at)
    if not found:
        return None
    whole, last = found["whole"], found["next"]
    if is_year(whole) and not found["part"]:
        after = text[found.end() : found.end() + 2]
        if is_year(last):
            return [(found.end(), f"{numbers.year(int(whole))} to {numbers.year(int(last))}")]
        if len(last) == 2 and int(last) > int(whole[2:]) and not after[:1].isalnum():
            return [(found.end(), f"{numbers.year(int(whole))} to {numbers.integer(last)}")]
    word = "minus" if _DIFFERENCE.match(text, found.start("next")) else "to"
    return [(found.start("next"), f"{number_words(found)} {word} ")]


def _plain(text: str, at: int, previous: str) -> Reading | None:
    if found := _POINT.match(text, at):
        return [(found.end(), numbers.decimal("", found[1]))]
    found = _PLAIN.match(text, at)
    if not found:
        digits = _DIGITS.match(text, at)
        return [(digits.end(), numbers.digit_groups(digits.group()))] if digits else None
    whole = found["whole"]
    if found["part"] or not whole.isdigit():
        return [(found.end(), number_words(found))]
    if is_month(previous) and len(whole) <= 2 and 1 <= int(whole) <= 31 and not UNIT_NEXT.match(text, found.end()):
        return [(found.end(), numbers.ordinal(int(whole)))]
    if is_year(whole) and year_expected(text, at, found.end(), previous):
        return [(found.end(), numbers.year(int(whole)))]
    if len(whole) == 5 and (previous in STATES or previous.lower() in ("zip", "zipcode")):
        return [(found.end(), numbers.spell_digits(whole))]
    if len(whole) > 5 and not whole.endswith("000") and not UNIT_NEXT.match(text, found.end()):
        return [(found.end(), numbers.digit_groups(whole))]
    return [(found.end(), numbers.integer(whole))]


_RULES: tuple[Callable[[str, int, str], Reading | None], ...] = (
    _idiom, read_date, read_time, _phone, read_money, _percent, _measure, _feet_inches, _ordinal, _decade, _fraction, _size,
    _dotted, _ratio, _power, _scaled, _range, read_day_of_month, _plain,
)  # fmt: skip
_SHORT_RULES = (_idiom, _plain)
"""Those that can read an integer with nothing after it."""
