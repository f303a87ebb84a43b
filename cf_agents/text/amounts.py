"""The pattern of a plain number, and what every reader of amounts says of it. Knows nothing of what is counted."""

from __future__ import annotations

import re

from cf_agents.text import numbers
from cf_agents.text.lexicon import ATTACHED_ONLY, CURRENCIES, UNITS

INT = r"(?:\d{1,3}(?:,\d{3}){1,8}(?![\d])|\d{1,18}(?!\d))"
NUMBER = rf"(?P<whole>{INT})(?:\.(?P<part>\d{{1,200}})(?!\d))?"
"""Named groups `whole`, with its separators, and `part`, the digits after the point."""
CURRENCY_SIGN = "[" + "".join(CURRENCIES) + "]"
UNIT = "|".join(re.escape(unit) for unit in sorted(UNITS, key=len, reverse=True))
_SURE_UNIT = "|".join(re.escape(unit) for unit in UNITS if unit not in ATTACHED_ONLY and len(unit) > 1)
UNIT_NEXT = re.compile(
    rf"\s?(?:%|(?:{_SURE_UNIT}|dollars|cents|euros|pounds|people|percent|miles|meters|times|words|units|points|votes)\b)"
)


def number_words(found: re.Match[str]) -> str:
    """Words of a match of `NUMBER`."""
    return numbers.decimal(bare_digits(found["whole"]), found["part"] or "")


def number_end(found: re.Match[str]) -> int:
    """Where the number of a match of `NUMBER` ends."""
    return found.end("part") if found["part"] else found.end("whole")


def bare_digits(digits: str) -> str:
    """Digits without separators."""
    return digits.replace(",", "")
