"""Readings of dates, clock times and years."""

from __future__ import annotations

import re

from cf_agents.text import numbers
from cf_agents.text.amounts import UNIT_NEXT
from cf_agents.text.lexicon import BEFORE_YEAR, MONTH_ABBREVIATIONS, MONTHS, WEEKDAY_ABBREVIATIONS, WEEKDAYS, word_set
from cf_agents.text.reading import AFTER_DAY, Reading, next_word

_HALF_DAY = r"\s?[AaPp]\.?[Mm](?![A-Za-z])"
_BEFORE_DATE = word_set("on by before until since due date dated from after") | frozenset([*WEEKDAYS, *WEEKDAY_ABBREVIATIONS])
_ISO_DATE = re.compile(r"(\d{4})([-/])(\d{1,2})\2(\d{1,2})(?![\d-])(T(?=\d{2}:))?")
_NUMERIC_DATE = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4}|\d{2})(?![\d./-]\d|\d)")
_SHORT_DATE = re.compile(r"(\d{1,2})/(\d{1,2})(?![\d/])")
_CLOCK = re.compile(rf"(\d{{1,2}}):(\d{{2}})(?::(\d{{2}}))?(?![\d:])(?P<half>{_HALF_DAY})?")
_DOTTED_CLOCK = re.compile(rf"(\d{{1,2}})\.(\d{{2}})(?={_HALF_DAY})")
_DAY_OF = re.compile(rf"(\d{{1,2}})(?= (?:of )?(?P<month>{'|'.join([*MONTHS, *MONTH_ABBREVIATIONS])})\b)", re.IGNORECASE)
_ERA = re.compile(r"\s(?:BCE?|CE|AD)\b|\)")


def read_date(text: str, at: int, previous: str) -> Reading | None:
    """Read a date in digits: year first, month first, or with points day first; "3/4" only after a word like "on"."""
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


def read_time(text: str, at: int, previous: str) -> Reading | None:
    """Read a time of day: "3:30", "15:00", or "3.30" before "pm"."""
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


def read_day_of_month(text: str, at: int, previous: str) -> Reading | None:
    """Read a day before its month: "5 January"."""
    found = _DAY_OF.match(text, at)
    if not found or not 1 <= int(found[1]) <= 31 or found["month"][0].islower():
        return None
    of = "" if text.startswith(" of", found.end()) else " of"
    article = "" if previous.lower() == "the" else "the "
    return [(found.end(), article + numbers.ordinal(int(found[1])) + of)]


def is_month(word: str) -> bool:
    """Whether `word` names a month as a date would: in full or short, with a capital."""
    return word[:1].isupper() and (word.lower() in MONTHS or word.lower() in MONTH_ABBREVIATIONS)


def is_year(digits: str) -> bool:
    """Whether four digits can name a year."""
    return len(digits) == 4 and digits.isdigit() and 1000 <= int(digits) < 2100


def year_expected(text: str, at: int, end: int, previous: str) -> bool:
    """Whether what stands around the four digits at `at` to `end` makes a year of them."""
    if _ERA.match(text, end) and (text[end] != ")" or text[at - 1 : at] == "("):
        return True
    if previous == AFTER_DAY or is_month(previous):
        return True
    if previous.lower() not in BEFORE_YEAR or UNIT_NEXT.match(text, end):
        return False
    return previous.lower() != "of" or not next_word(text, end)[:1].islower()
