"""Readings of what is neither a letter nor a digit: signs, dashes, brackets, punctuation."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from cf_agents.text.lexicon import (
    CURRENCIES,
    MONTH_ABBREVIATIONS,
    MONTHS,
    SOUND_TAGS,
    SYMBOLS,
    UNITS,
    WEEKDAY_ABBREVIATIONS,
    WEEKDAYS,
)
from cf_agents.text.reading import AFTER_NUMBER, next_word

PAUSE: Literal[","] = ","
"""What a dash or a table border is spoken as: a comma, left out where punctuation stands already."""

_FILES = (
    "pdf|txt|py|js|ts|json|csv|html|md|docx|xlsx|pptx|png|jpg|jpeg|svg|gif|exe|zip|sh|yaml|toml|yml|mp3|mp4|wav|cpp|css|net"
)
_FILE_END = re.compile(rf"\.(?=(?:{_FILES})\b(?!\())")
_DASHES = re.compile(r"-{2,}+>?|—+")
_DOTS = re.compile(r"\.{2,}+")
_ARROW = re.compile(r"(?:->|=>)")
_COMPARISON = re.compile(r"(?P<sign>>=|<=|!=|==|>|<)(?=\s?[\d.$£€¥-])")
_EMOTICON = re.compile(r"[:;=8][-'^]?[)(DPpO/\\|\]\[](?![A-Za-z0-9/])|<3(?!\d)")
_SHORTCODE = re.compile(r":[a-z0-9_+-]{2,30}:(?![A-Za-z0-9])")
_NUMBERED = re.compile(r"#(?=[A-Za-z-]{0,12}\d)")
_SOUND = re.compile(rf"\[(?:{'|'.join(sorted(SOUND_TAGS))})\]")
_PER = re.compile(r"/([A-Za-zµ]{1,7})(?![A-Za-z])")
_TIMES = re.compile(r"\*(?=\s?\d)")
_LINE_END = re.compile(r"[ \t]{0,40}(?:\n|\Z)")
_DIVIDED = re.compile(r"/\s\d")
_RUN = re.compile(r"(.)\1*+", re.DOTALL)
_COMPARED = {
    ">=": "at least", "<=": "at most", ">": "greater than", "<": "less than", "!=": "not equal to", "==": "equal to",
}  # fmt: skip
_SPANS = frozenset([*MONTHS, *MONTH_ABBREVIATIONS, *WEEKDAYS, *WEEKDAY_ABBREVIATIONS, "am", "pm"])
_BEFORE_MINUS = frozenset("([=,:/*^×÷<>~\"'|")
_SILENT = frozenset("*_`^~\\|{}[]<>#$")
_SPOKEN_AS_WRITTEN = frozenset(",.!?;:'\"()")


def read_symbol(text: str, at: int, previous: str) -> tuple[int, str]:
    """Read the sign at `at`: where it ends and what is spoken; a comma alone (`PAUSE`) is a pause."""
    sign, before, after = text[at], text[at - 1 : at], text[at + 1 : at + 2]
    if sign in ":;=8<" and not before.isalnum() and (found := _EMOTICON.match(text, at) or _SHORTCODE.match(text, at)):
        return found.end(), ""
    if sign in "-—":
        return _dash(text, at, previous, before, after)
    if sign == ".":
        return _period(text, at, before, after)
    if sign in "!?":
        return _run_end(text, at), sign
    if sign in _SPOKEN_AS_WRITTEN:
        return at + 1 if sign != "," else _run_end(text, at), sign
    if sign in "<>=!" and (found := _ARROW.match(text, at) or _COMPARISON.match(text, at)):
        return found.end(), _comparison(found, previous)
    if sign == "*" and previous == AFTER_NUMBER and (found := _TIMES.match(text, at)):
        return found.end(), " times "
    if sign == "[" and (found := _SOUND.match(text, at)):
        return found.end(), found.group()
    if sign == "/":
        return _slash(text, at, previous, before, after)
    if sign == "#":
        return _hash(at, text, before, after)
    if sign == "~" and after.isdecimal():
        return at + 1, "about "
    if sign == "_" and before.isalnum() and after.isalnum():
        return at + 1, " "
    if sign == "|":
        return at + 1, "" if _LINE_END.match(text, at + 1) else PAUSE
    if sign in _SILENT:
        return _run_end(text, at), ""
    end = at + 1 if sign == "+" else _run_end(text, at)
    if sign in SYMBOLS:
        return (end, "") if end - at > 2 else (end, f" {SYMBOLS[sign]} ")
    return end, "" if unicodedata.category(sign)[0] == "S" else text[at:end]


def _run_end(text: str, at: int) -> int:
    found = _RUN.match(text, at)
    assert found
    return found.end()


def _dash(text: str, at: int, previous: str, before: str, after: str) -> tuple[int, str]:
    if found := _DASHES.match(text, at):
        is_option = len(found.group()) == 2 and after == "-" and not before.isalnum() and text[at + 2 : at + 3].isalpha()
        return found.end(), "dash dash " if is_option else " to " if found.group().endswith(">") else PAUSE
    if after == ">":
        return at + 2, " to "
    amount_follows = after.isdecimal() or after in CURRENCIES or (after == "." and text[at + 2 : at + 3].isdecimal())
    if amount_follows and after and (not before or before.isspace() or before in _BEFORE_MINUS):
        return at + 1, "minus "
    if before and not before.isspace() and amount_follows and previous == AFTER_NUMBER:
        return at + 1, " to "
    if before.isalnum() and after.isalnum():
        following = re.split(r"[^A-Za-z]", next_word(text, at + 1), maxsplit=1)[0].lower()
        spans = previous.lower() in _SPANS and (following in _SPANS or after.isdecimal())
        return at + 1, " to " if spans else " "
    if before.isspace() or not before:
        return at + 1, PAUSE
    return at + 1, "" if before.isalnum() else PAUSE


def _period(text: str, at: int, before: str, after: str) -> tuple[int, str]:
    if found := _DOTS.match(text, at):
        return found.end(), "..."
    if before.isdecimal() and after.isdecimal():
        return at + 1, " point "
    if before.isalnum() and _FILE_END.match(text, at):
        return at + 1, " dot "
    if not before.strip() and text[at + 1 : at + 3].isupper():
        return at + 1, "dot "
    return at + 1, "."


def _comparison(found: re.Match[str], previous: str) -> str:
    if found.re is _ARROW:
        return " to "
    verb = "is " if previous else ""
    return f" {verb}{_COMPARED[found['sign']]} "


def _slash(text: str, at: int, previous: str, before: str, after: str) -> tuple[int, str]:
    if previous == AFTER_NUMBER and (found := _PER.match(text, at)):
        unit = found[1]
        return found.end(), f" per {UNITS[unit][0] if unit in UNITS else unit}"
    if before.isalnum() and after.isalnum():
        return at + 1, " "
    if previous == AFTER_NUMBER and _DIVIDED.match(text, at):
        return at + 1, " divided by "
    return _run_end(text, at), " slash " if after.isalpha() else " "


def _hash(at: int, text: str, before: str, after: str) -> tuple[int, str]:
    if _NUMBERED.match(text, at):
        return at + 1, " number "
    if before.isalpha() and not text[at - 2 : at - 1].isalnum():
        return at + 1, " sharp"
    if before.isalnum() or not after.isalpha():
        return _run_end(text, at), ""
    return at + 1, "hashtag "
