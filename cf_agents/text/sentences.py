"""Whether a period ends a sentence: one judgement, shared by the normaliser and the segmenter."""

from __future__ import annotations

import re
from typing import Literal

from cf_agents.text.lexicon import (
    ABBREVIATIONS,
    MONTH_ABBREVIATIONS,
    MONTHS,
    TITLES,
    WEEKDAY_ABBREVIATIONS,
    WEEKDAYS,
    word_set,
)

Period = Literal["end", "inside", "ask"]
"""What the period after a word is: the end of a sentence, part of the word, or known only by the next word."""

_INITIALS = re.compile(r"[a-z](?:\.[a-z]{1,2}){0,12}|ph\.d")
_NEVER_LAST = frozenset({"vs", "approx", "cf", "ca", "fig", "vol", "viz", "incl", "excl", "esp", "ext", "nos"})
_SHORT_DATES = frozenset(MONTH_ABBREVIATIONS) | frozenset(WEEKDAY_ABBREVIATIONS)
_DAY_OR_ZONE = frozenset([*MONTHS, *WEEKDAYS, *word_set("est pst cst mst edt pdt cdt mdt gmt utc cet bst et pt ct")])
SENTENCE_STARTERS = word_set(
    "The A An It He She We They I You This That These Those There Then But And So If When What How Why Who Where Please "
    "In On At My Your Our His Her Their Its As For Just Let Do Is Are Can Could Would Will Yes No Thanks Now"
)
"""Words that with a capital begin a sentence rather than a name."""
_AROUND_WORD = "\"'()[]*_`.,;:!?"


def period_after(word: str) -> Period:
    """Judge the period after `word`, which comes with its inner periods and without that last one."""
    lower = word.lower()
    if lower in ("a.m", "p.m"):
        return "ask"
    if _INITIALS.fullmatch(lower):
        return "inside"
    if lower in TITLES:
        return "inside" if word[0].isupper() else "ask"
    if lower in _NEVER_LAST:
        return "inside"
    if lower in ABBREVIATIONS or lower == "no":
        return "ask"
    return "ask" if lower in _SHORT_DATES and word[0].isupper() else "end"


def starts_sentence(word: str) -> bool:
    """Whether `word`, which follows a period judged "ask", begins a new sentence: a capital, but not a day or a time zone."""
    bare = word.strip(_AROUND_WORD)
    return bare[:1].isupper() and bare.lower() not in _DAY_OR_ZONE
