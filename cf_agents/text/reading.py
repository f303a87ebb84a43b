"""What a reader returns, and the small questions that several readers ask of the text around them."""

from __future__ import annotations

import re

from cf_agents.text.sentences import starts_sentence

Reading = list[tuple[int, str]]
"""Consecutive pieces: where each ends in the folded text and what is spoken for it (nothing for dropped markup)."""

AFTER_NUMBER = "#"
"""Stands as the previous word after a number."""
AFTER_DAY = "#day"
"""Stands as the previous word after a day of a month or a quarter, where a year may follow."""

_NEXT_WORD = re.compile(r"\s{0,8}+(\S{0,40})")


def next_word(text: str, at: int) -> str:
    """The word after the white space at `at`, cut at 40 characters; empty at the end."""
    found = _NEXT_WORD.match(text, at)
    return found.group(1) if found else ""


def closing_period(text: str, after: int) -> str:
    """ "." when the period of an abbreviation, which ends at `after`, also ends the sentence; else nothing."""
    following = next_word(text, after)
    if not following.strip("\"')]*_"):
        return "."
    return "." if text[after].isspace() and starts_sentence(following) else ""


def is_capitalised(word: str) -> bool:
    """Whether `word` is written as a name is: a capital, then a small letter."""
    return len(word) > 1 and word[0].isupper() and word[1].islower()
