"""Readings of what begins with a digit, a sign of currency or a plus: amounts, dates, times, phone numbers, units.

Every rule is one anchored pattern whose repetitions are bounded or possessive, so that a rule costs a constant amount of
work per place it is tried at, whatever the text. The order of `_RULES` is the order in which they are tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from cf_agents.text import numbers
from cf_agents.text.lexicon import (
    ATTACHED_ONLY,
    BEFORE_YEAR,
    CURRENCIES,
    CURRENCY_CODES,
    MAGNITUDE_WORDS,
    MAGNITUDES,
    MONTH_ABBREVIATIONS,
    MONTHS,
    STATES,
    UNITS,
    VULGAR_FRACTIONS,
    WEEKDAY_ABBREVIATIONS,
    WEEKDAYS,
    word_set,
)
from cf_agents.text.reading import AFTER_DAY, Reading, next_word

_INT = r"(?:\d{1,3}(?:,\d{3}){1,8}(?![\d])|\d{1,18}(?!\d))"
_NUMBER = rf"(?P<whole>{_INT})(?:\.(?P<part>\d{{1,200}})(?!\d))?"
_SECOND = rf"(?P<whole2>{_INT})(?:\.(?P<part2>\d{{1,200}})(?!\d))?"
_SIGN = "[" + "".join(CURRENCIES) + "]"
_MAGNITUDE = rf"(?:(?P<letter>bn|mn|tn|[kKmMbBT])(?![A-Za-z0-9])|(?P<gap>[ -]?)(?P<word>{'|'.join(MAGNITUDE_WORDS)})\b)"
_UNIT = "|".join(re.escape(unit) for unit in sorted(UNITS, key=len, reverse=True))
_CODE = "|".join(CURRENCY_CODES)
_HALF_DAY = r"\s?[AaPp]\.?[Mm](?![A-Za-z])"
_BEFORE_DATE = word_set("on by before until since due date dated from after") | frozenset([*WEEKDAYS, *WEEKDAY_ABBREVIATIONS])
_IDIOMS = {"24/7": "twenty four seven", "9/11": "nine eleven", "911": "nine one one", "50/50": "fifty fifty"}
_AGES = word_set("the their his her my your our in mid early late")

_ISO_DATE = re.compile(r"(\d{4})([-/])(\d{1,2})\2(\d{1,2})(?![\d-])(T(?=\d{2}:))?")
_NUMERIC_DATE = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4}|\d{2})(?![\d./-]\d|\d)")
_SHORT_DATE = re.compile(r"(\d{1,2})/(\d{1,2})(?![\d/])")
_CLOCK = re.compile(rf"(\d{{1,2}}):(\d{{2}})(?::(\d{{2}}))?(?![\d:])(?P<half>{_HALF_DAY})?")
_DOTTED_CLOCK = re.compile(rf"(\d{{1,2}})\.(\d{{2}})(?={_HALF_DAY})")
_PHONE = re.compile(
    r"(?:\+?\d{1,3}[ .-]?)?(?:\(\d{3}\)[ -]?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\d-])"
    r"|\d{3}-\d{4}(?![\d-])"
    r"|\+\d{1,3}(?:[ .-]?\(?\d{1,5}+\)?){1,5}+(?!\d)"
    r"|0\d{2,4} \d{3,4} \d{3,4}(?!\d)"
    r"|\d{3}-\d{2}-\d{4}(?![\d-])"
    r"|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}(?!\d)"
)
_MONEY = re.compile(rf"(?P<sign>{_SIGN})\s?{_NUMBER}{_MAGNITUDE}?")
_MONEY_RANGE = re.compile(rf"(?P<sign>{_SIGN})(?P<whole>{_INT})\s?-\s?(?={_SIGN}?{_INT})(?P<second>{_SIGN}?)(?!\d{1, 18}\.\d)")
_MONEY_AFTER = re.compile(rf"{_NUMBER}{_MAGNITUDE}?(?P<space>\s?)(?P<sign>[€£¥₹$](?![\d.])|(?:{_CODE})\b)")
_AFTER_CODE = re.compile(rf"\s?{_NUMBER}{_MAGNITUDE}?")
_PERCENT = re.compile(rf"{_NUMBER}\s?%")
_MEASURE = re.compile(rf"{_NUMBER}(?P<space>[ -]?)(?P<unit>{_UNIT})(?![A-Za-z0-9²³'])(?P<dot>\.(?=\s[a-z0-9]))?")
_FEET_INCHES = re.compile(r"(\d{1,2})'(\d{1,2})(?!\d)(?:\"|'')?")
_ORDINAL = re.compile(r"(\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:st|nd|rd|th|ST|ND|RD|TH)\b")
_DECADE = re.compile(r"([1-9]\d{2}0|[1-9]0)'?s\b")
_FRACTION = re.compile(r"(?:(\d{1,6})([ -]))?(\d{1,4})/(\d{1,4})(?![\d/])")
_VULGAR = re.compile(rf"(?:(\d{{1,6}})[ -]?)?([{''.join(VULGAR_FRACTIONS)}])")
_SIZE = re.compile(rf"{_NUMBER}(?P<space>\s?)[x×]\s?(?=\d)")
_RATIO = re.compile(r"(\d{1,6}):(?=\d)")
_DOTTED = re.compile(r"\d{1,5}(?:\.\d{1,5}){2,7}(?!\.?\d)")
_POWER = re.compile(rf"{_NUMBER}(?:(?P<times>[eE])|\^)(?P<minus>-)?\+?(?P<power>\d{{1,3}})(?![\dA-Za-z])")
_SCALED = re.compile(rf"{_NUMBER}(?P<letter>bn|mn|tn|[kKMBT])(?![A-Za-z0-9])")
_RANGE = re.compile(rf"{_NUMBER}\s?-\s?(?={_SIGN}?\d)(?P<next>\d{{0,6}})")
_DIFFERENCE = re.compile(r"[\d,.]{1,24}\s?=")
_DAY_OF = re.compile(rf"(\d{{1,2}})(?= (?:of )?(?P<month>{'|'.join([*MONTHS, *MONTH_ABBREVIATIONS])})\b)", re.IGNORECASE)
_PLAIN = re.compile(_NUMBER)
_POINT = re.compile(r"\.(\d{1,200})(?!\d)")
_ERA = re.compile(r"\s(?:BCE?|CE|AD)\b|\)")
_SURE_UNIT = "|".join(re.escape(unit) for unit in UNITS if unit not in ATTACHED_ONLY and len(unit) > 1)
_UNIT_NEXT = re.compile(
    rf"\s?(?:%|(?:{_SURE_UNIT}|dollars|cents|euros|pounds|people|percent|miles|meters|times|words|units|points|votes)\b)"
)
_GOES_ON = re.compile(r"\w|[/,.:-]\d|%")
_DIGITS = re.compile(r"\d+")


def read_quantity(text: str, at: int, previous: str) -> Reading | None:
    """Read the quantity at `at`, whose previous word is `previous`; None when none begins there."""
    for rule in _RULES:
        reading = rule(text, at, previous)
        if reading:
            return reading
    return None


def _idiom(text: str, at: int, previous: str) -> Reading | None:
    for written, spoken in _IDIOMS.items():
        if text.startswith(written, at) and not _GOES_ON.match(text, at + len(written)):
            return [(at + len(written), spoken)]
    return None


def _date(text: str, at: int, previous: str) -> Reading | None:
    if found := _ISO_DATE.match(text, at):
        year, month, day = int(found[1]), int(found[3]), int(found[4])
        time_follows = " at" if found[5] else ""
        return [(found.end(), _date_words(year, month, day) + time_follows)] if _is_date(year, month, day) else None
    if found := _NUMERIC_DATE.match(text, at):
        month, day, year = int(found[1]), int(found[3]), int(found[4])
        if found[2] == "." or month > 12:
            month, day = day, month
        if year < 100:
            year += 1900 if year > 50 else 2000
        return [(found.end(), _date_words(year, month, day))] if _is_date(year, month, day) else None
    if previous.lower() in _BEFORE_DATE and (found := _SHORT_DATE.match(text, at)):
        month, day = int(found[1]), int(found[2])
        if _is_date(2000, month, day):
            return [(found.end(), f"{MONTHS[month - 1]} {numbers.ordinal(day)}")]
    return None


def _is_date(year: int, month: int, day: int) -> bool:
    return 1000 <= year < 3000 and 1 <= month <= 12 and 1 <= day <= 31


def _date_words(year: int, month: int, day: int) -> str:
    return f"{MONTHS[month - 1]} {numbers.ordinal(day)}, {numbers.year(year)}"


def _time(text: str, at: int, previous: str) -> Reading | None:
    found = _CLOCK.match(text, at) or _DOTTED_CLOCK.match(text, at)
    if not found:
        return None
    hour, minute = int(found[1]), int(found[2])
    if hour > 24 or minute > 59:
        return None
    is_clock = found.re is _CLOCK
    words = [numbers.cardinal(hour)]
    if minute:
        words += ["oh", numbers.cardinal(minute)] if minute < 10 else [numbers.cardinal(minute)]
    elif hour == 0 and not (is_clock and found[3]):
        words = ["midnight"]
    elif hour > 12 and not (is_clock and found["half"]):
        words += ["hundred"]
    if is_clock and found[3] and int(found[3]):
        words += ["and", numbers.cardinal(int(found[3])), "seconds" if int(found[3]) > 1 else "second"]
    end = found.start("half") if is_clock and found["half"] else found.end()
    return [(end, " ".join(words))]


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


def _money(text: str, at: int, previous: str) -> Reading | None:
    if text[at] in CURRENCIES:
        if (found := _MONEY_RANGE.match(text, at)) and found["second"] in ("", found["sign"]):
            second = _PLAIN.match(text, found.end())
            rest = _MONEY.match(found["sign"] + text[found.end() : found.end() + 60]) if second else None
            if rest:
                first_words = numbers.integer(_bare(found["whole"]))
                scaled = _money_words(rest, CURRENCIES[found["sign"]], found.end() - 1)
                return [(found.end(), first_words + " to "), *scaled]
        found = _MONEY.match(text, at)
        return _money_words(found, CURRENCIES[found["sign"]]) if found else None
    found = _MONEY_AFTER.match(text, at)
    if not found:
        return None
    names = CURRENCY_CODES.get(found["sign"]) or CURRENCIES[found["sign"]]
    words = " ".join(spoken.strip() for _, spoken in _money_words(found, names))
    return [(found.end(), words)]


def money_after_code(text: str, at: int, code: str) -> Reading | None:
    """Read "USD 20", where the code ends at `at`."""
    found = _AFTER_CODE.match(text, at)
    if not found:
        return None
    words = " ".join(spoken.strip() for _, spoken in _money_words(found, CURRENCY_CODES[code]))
    return [(found.end(), words)]


def _money_words(found: re.Match[str], names: tuple[str, str, str, str], offset: int = 0) -> Reading:
    one, many, cent, cents = names
    whole, part = _bare(found["whole"]), found["part"] or ""
    amount_end = offset + (found.end("part") if part else found.end("whole"))
    if found["letter"]:
        return [(offset + found.end("letter"), f"{numbers.decimal(whole, part)} {MAGNITUDES[found['letter']]} {many}")]
    if found["word"]:
        return [(amount_end, numbers.decimal(whole, part)), (offset + found.end("word"), f" {found['word']} {many}")]
    if len(part) > 2:
        return [(amount_end, f"{numbers.decimal(whole, part)} {many}")]
    small = int(part.ljust(2, "0")) if part else 0
    if len(whole) < 18 and int(whole) == 0 and small:
        return [(amount_end, f"{numbers.cardinal(small)} {cent if small == 1 else cents}")]
    words = f"{numbers.integer(whole)} {one if whole == '1' else many}"
    if small and many.endswith("dollars"):
        words += f", {numbers.cardinal(small)} {cent if small == 1 else cents}"
    elif small:
        words += f" {numbers.cardinal(small)}"
    return [(amount_end, words)]


def _percent(text: str, at: int, previous: str) -> Reading | None:
    found = _PERCENT.match(text, at)
    return [(_number_end(found), _number_words(found)), (found.end(), " percent")] if found else None


def _measure(text: str, at: int, previous: str) -> Reading | None:
    found = _MEASURE.match(text, at)
    if not found or (found["unit"] in ATTACHED_ONLY and found["space"]):
        return None
    if found["unit"] == "s" and previous.lower() in _AGES and found["whole"].endswith("0"):
        return None
    one, many = UNITS[found["unit"]]
    alone = (found["whole"] == "1" and not found["part"]) or found["space"] == "-"
    return [(_number_end(found), _number_words(found)), (found.end(), " " + (one if alone else many))]


def _feet_inches(text: str, at: int, previous: str) -> Reading | None:
    found = _FEET_INCHES.match(text, at)
    return [(found.end(), f"{numbers.integer(found[1])} foot {numbers.integer(found[2])}")] if found else None


def _ordinal(text: str, at: int, previous: str) -> Reading | None:
    found = _ORDINAL.match(text, at)
    return [(found.end(), numbers.ordinal(int(_bare(found[1]))))] if found else None


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
        return None
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
    return [(_number_end(found), _number_words(found)), (found.end(), " by ")] if found else None


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
    return [(found.end(), f"{_number_words(found)}{base} to the power of {sign}{numbers.integer(found['power'])}")]


def _scaled(text: str, at: int, previous: str) -> Reading | None:
    found = _SCALED.match(text, at)
    if not found:
        return None
    whole = _bare(found["whole"])
    short = found["letter"] == "K" and not found["part"] and len(whole) < 3 and int(whole) <= 10
    return [(found.end(), f"{_number_words(found)} {'k' if short else MAGNITUDES[found['letter']]}")]


def _range(text: str, at: int, previous: str) -> Reading | None:
    found = _RANGE.match(text, at)
    if not found:
        return None
    whole, last = found["whole"], found["next"]
    if _is_year(whole) and not found["part"]:
        after = text[found.end() : found.end() + 2]
        if _is_year(last):
            return [(found.end(), f"{numbers.year(int(whole))} to {numbers.year(int(last))}")]
        if len(last) == 2 and int(last) > int(whole[2:]) and not after[:1].isalnum():
            return [(found.end(), f"{numbers.year(int(whole))} to {numbers.integer(last)}")]
    word = "minus" if _DIFFERENCE.match(text, found.start("next")) else "to"
    return [(found.start("next"), f"{_number_words(found)} {word} ")]


def _day_of_month(text: str, at: int, previous: str) -> Reading | None:
    found = _DAY_OF.match(text, at)
    if not found or not 1 <= int(found[1]) <= 31 or found["month"][0].islower():
        return None
    of = "" if text.startswith(" of", found.end()) else " of"
    article = "" if previous.lower() == "the" else "the "
    return [(found.end(), article + numbers.ordinal(int(found[1])) + of)]


def _plain(text: str, at: int, previous: str) -> Reading | None:
    if found := _POINT.match(text, at):
        return [(found.end(), numbers.decimal("", found[1]))]
    found = _PLAIN.match(text, at)
    if not found:
        digits = _DIGITS.match(text, at)
        return [(digits.end(), numbers.digit_groups(digits.group()))] if digits else None
    whole = found["whole"]
    if found["part"] or not whole.isdigit():
        return [(found.end(), _number_words(found))]
    if is_month(previous) and len(whole) <= 2 and 1 <= int(whole) <= 31 and not _UNIT_NEXT.match(text, found.end()):
        return [(found.end(), numbers.ordinal(int(whole)))]
    if _is_year(whole) and _year_expected(text, at, found.end(), previous):
        return [(found.end(), numbers.year(int(whole)))]
    if len(whole) == 5 and previous in STATES:
        return [(found.end(), numbers.spell_digits(whole))]
    if len(whole) > 5 and not whole.endswith("000") and not _UNIT_NEXT.match(text, found.end()):
        return [(found.end(), numbers.digit_groups(whole))]
    return [(found.end(), numbers.integer(whole))]


def is_month(word: str) -> bool:
    """Whether `word` names a month as a date would: in full or short, with a capital."""
    return word[:1].isupper() and (word.lower() in MONTHS or word.lower() in MONTH_ABBREVIATIONS)


def _is_year(digits: str) -> bool:
    return len(digits) == 4 and digits.isdigit() and 1000 <= int(digits) < 2100


def _year_expected(text: str, at: int, end: int, previous: str) -> bool:
    if _ERA.match(text, end) and (text[end] != ")" or text[at - 1 : at] == "("):
        return True
    if previous == AFTER_DAY or is_month(previous):
        return True
    if previous.lower() not in BEFORE_YEAR or _UNIT_NEXT.match(text, end):
        return False
    return previous.lower() != "of" or not next_word(text, end)[:1].islower()


def _number_words(found: re.Match[str]) -> str:
    return numbers.decimal(_bare(found["whole"]), found["part"] or "")


def _number_end(found: re.Match[str]) -> int:
    return found.end("part") if found["part"] else found.end("whole")


def _bare(digits: str) -> str:
    return digits.replace(",", "")


_RULES: tuple[Callable[[str, int, str], Reading | None], ...] = (
    _idiom, _date, _time, _phone, _money, _percent, _measure, _feet_inches, _ordinal, _decade, _fraction, _size,
    _dotted, _ratio, _power, _scaled, _range, _day_of_month, _plain,
)  # fmt: skip
