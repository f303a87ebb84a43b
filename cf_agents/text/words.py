"""Readings of what begins with a letter: titles, abbreviations, initials, initialisms, codes, Roman numerals."""

from __future__ import annotations

import re

from cf_agents.text import numbers
from cf_agents.text.lexicon import (
    ABBREVIATIONS,
    ACRONYMS,
    BEFORE_ROMAN,
    CONSONANT_WORDS,
    CURRENCY_CODES,
    DOTTED,
    INITIALISMS,
    MONTH_ABBREVIATIONS,
    REGNAL_NAMES,
    SLASHED,
    SURE_ABBREVIATIONS,
    SURE_TITLES,
    TITLES,
    UNSURE_INITIALISMS,
    UNSURE_NAMES,
    WEEKDAY_ABBREVIATIONS,
    word_set,
)
from cf_agents.text.money import money_after_code
from cf_agents.text.reading import AFTER_NUMBER, Reading, closing_period, is_capitalised, next_word
from cf_agents.text.sentences import SENTENCE_STARTERS, period_after

_WORD = re.compile(r"[^\W\d_]++(?:'[^\W\d_]++)*+")
_CODE = re.compile(r"[A-Za-z0-9]++")
_RUN = re.compile(r"[A-Za-z]+|\d+")
_INITIALS = re.compile(r"(?:[A-Za-z]\.){1,12}[A-Za-z](?![A-Za-z0-9'])\.?|(?:[A-Za-z]\.){2,12}")
_DOCTORATE = re.compile(r"[Pp]h\.?D\b(\.?)")
_SLASHED = re.compile(r"(?:w/o|w/|b/c|n/a)(?![A-Za-z])", re.IGNORECASE)
_NUMBER_SIGN = re.compile(r"Nos?\.?\s?(?=\d)|no\.\s?(?=\d)")
_HALF_DAY = re.compile(r"[AaPp](\.?)[Mm](?![A-Za-z0-9])\.?")
_DATE_NEXT = re.compile(r"\.|\s\d|,\s(?:[A-Z][a-z]{2}|\d)|-[A-Z][a-z]{2}")
_CODE_BEFORE_SIGN = frozenset({"US", "A", "C", "CA", "AU", "NZ", "HK", "S", "R"})
_NAMED_BY_LETTER = word_set("plan vitamin option section grade type class group team part appendix hepatitis exhibit")
_HALF_DAYS = frozenset({"a.m.", "p.m."})
_ROADS = {"st": "street", "dr": "drive"}
_VOWELS = frozenset("AEIOUY")

NOT_PLAIN = SURE_TITLES | SURE_ABBREVIATIONS | {"am", "pm", "ai"}
"""Words in small letters that are not always spoken as written when no sign follows; `read_word` need not see the others."""


def read_word(text: str, at: int, previous: str) -> Reading:
    """Read the word at `at`, which begins with a letter; `previous` is the word before it in the same sentence."""
    end = _WORD.match(text, at).end()  # type: ignore[union-attr]
    word = text[at:end]
    follows = text[end : end + 1]
    if follows.isdecimal() and word.isascii() and "'" not in word:
        return _read_code(text, at)
    if follows == "." and (reading := _read_dotted(text, at, end, word, previous)):
        return reading
    if follows == "/" and (found := _SLASHED.match(text, at)):
        return [(found.end(), SLASHED[found.group().lower()])]
    if follows == "$" and word in _CODE_BEFORE_SIGN:
        return [(end, "")]
    if word in CURRENCY_CODES and (reading := money_after_code(text, end, word)):
        return reading
    if word == "No" and (found := _NUMBER_SIGN.match(text, at)):
        return [(found.end(), "number ")]
    if word.lower() in ("am", "pm") and previous == AFTER_NUMBER:
        return [(end, word.upper())]
    return [(end, _plain_word(text, end, word, previous))]


def _read_code(text: str, at: int) -> Reading:
    found = _CODE.match(text, at)
    assert found
    runs = _RUN.findall(found.group())
    if len(runs) == 2 and runs[0] in ("v", "V"):
        return [(at + 1, "version "), *_dotted_tail(text, at + 1, found.end())]
    spoken = [_speak_digits(run) if run.isdecimal() else _speak_letters(run) for run in runs]
    return [(found.end(), " ".join(spoken))]


def _dotted_tail(text: str, at: int, end: int) -> Reading:
    # "v2.0.1" goes on past the code: each part of a version number is read by itself.
    found = re.compile(r"\d{1,6}(?:\.\d{1,6}){0,6}(?![\d])").match(text, at)
    if not found or found.end() < end:
        return [(end, numbers.integer(text[at:end]) if text[at:end].isdecimal() else text[at:end])]
    return [(found.end(), " point ".join(map(numbers.integer, found.group().split("."))))]


def _speak_digits(digits: str) -> str:
    return numbers.integer(digits) if len(digits) < 3 else numbers.spell_digits(digits)


def _speak_letters(letters: str) -> str:
    if letters.isupper() and (len(letters) < 4 or not _VOWELS.intersection(letters)):
        return spell_letters(letters)
    return letters


def spell_letters(letters: str) -> str:
    """Letters one by one, small, as the model met them in training: "a i"."""
    return " ".join(letters.lower())


def _read_dotted(text: str, at: int, end: int, word: str, previous: str) -> Reading | None:
    lower = word.lower()
    if found := _DOCTORATE.match(text, at):
        return [(found.end(), "p h d" + (closing_period(text, found.end()) if found[1] else ""))]
    if len(word) == 1:
        return _read_initials(text, at, end, word, previous)
    if lower in ("no", "nos") and (found := _NUMBER_SIGN.match(text, at)):
        return [(found.end(), "number ")]
    after = end + 1
    if text[after : after + 1].isalnum():
        return None
    spoken = _title(text, after, word, previous)
    if spoken is None:
        spoken = MONTH_ABBREVIATIONS.get(lower) or WEEKDAY_ABBREVIATIONS.get(lower) if word[0].isupper() else None
        if lower in UNSURE_NAMES and spoken and not text[after : after + 1].isspace():
            spoken = None
    if spoken is None:
        spoken = ABBREVIATIONS.get(lower)
    if spoken is None:
        return None
    is_title = lower in TITLES and spoken == TITLES[lower]
    if is_title:
        return [(after, spoken)]
    if period_after(word) == "inside" and lower not in TITLES:
        return [(after, spoken + ("" if next_word(text, after) else "."))]
    return [(after, spoken + closing_period(text, after))]


def _title(text: str, after: int, word: str, previous: str) -> str | None:
    lower = word.lower()
    if lower not in TITLES or (word[0].islower() and lower not in SURE_TITLES):
        return None
    following = next_word(text, after)
    before_name = following[:1].isupper() and following.strip(".,!?'") not in SENTENCE_STARTERS
    if lower in _ROADS and not before_name and (is_capitalised(previous) or previous == AFTER_NUMBER):
        return _ROADS[lower]
    return TITLES[lower]


def _read_initials(text: str, at: int, end: int, word: str, previous: str) -> Reading | None:
    if previous == AFTER_NUMBER and (found := _HALF_DAY.match(text, at)):
        period = closing_period(text, found.end()) if found.group().endswith(".") else ""
        return [(found.end(), word.upper() + "M" + period)]
    if found := _INITIALS.match(text, at):
        letters = found.group()
        is_last = letters.endswith(".") and not next_word(text, found.end())
        period = "." if is_last or (letters.lower() in _HALF_DAYS and closing_period(text, found.end())) else ""
        spoken = DOTTED.get(letters.rstrip(".").lower()) or spell_letters(letters.replace(".", ""))
        return [(found.end(), spoken + period)]
    before_name = text[end + 1 : end + 2] == " " and next_word(text, end + 1)[:1].isupper()
    if word.isupper() and word != "I" and before_name and previous.lower() not in _NAMED_BY_LETTER:
        return [(end + 1, word)]
    return None


def _plain_word(text: str, end: int, word: str, previous: str) -> str:
    lower = word.lower()
    if lower in SURE_TITLES and (word[0].isupper() or lower != "prof") and not (word.isupper() and len(word) > 3):
        return TITLES[lower]
    if lower in SURE_ABBREVIATIONS:
        return ABBREVIATIONS[lower]
    if is_capitalised(word):
        name = MONTH_ABBREVIATIONS.get(lower) or WEEKDAY_ABBREVIATIONS.get(lower)
        if name and (lower not in UNSURE_NAMES or _DATE_NEXT.match(text, end)):
            return name
    if word == "ai":
        return spell_letters(word)
    if len(word) == 1 and word in "IVX" and (spoken := _single_roman(word, previous)):
        return spoken
    stem, mark, tail = word.partition("'")
    if stem.isupper() and len(stem) > 1 and stem.isascii():
        return _capitals(text, end, stem, previous) + mark + tail.lower()
    if word[-1] == "s" and word[:-1] in INITIALISMS:
        return spell_letters(word[:-1]) + "'s"
    return word


def _capitals(text: str, end: int, word: str, previous: str) -> str:
    if value := numbers.roman(word) if len(word) < 8 else 0:
        if previous.lower() in BEFORE_ROMAN:
            return numbers.cardinal(value)
        if previous.lower() in REGNAL_NAMES and is_capitalised(previous):
            return "the " + numbers.ordinal(value)
    if word in ACRONYMS:
        return ACRONYMS[word]
    shouted = previous.isupper() and len(previous) > 1 and previous not in INITIALISMS
    if word in INITIALISMS or (word in UNSURE_INITIALISMS and not shouted):
        return spell_letters(word)
    if len(word) < 6 and word not in CONSONANT_WORDS and not _VOWELS.intersection(word):
        return spell_letters(word)
    return word


def _single_roman(letter: str, previous: str) -> str | None:
    if previous.lower() in BEFORE_ROMAN and previous[:1].isupper():
        return numbers.cardinal(numbers.roman(letter))
    if letter != "I" and previous.lower() in REGNAL_NAMES and is_capitalised(previous):
        return "the " + numbers.ordinal(numbers.roman(letter))
    return None
