"""Readings of amounts of money: "$5.20", "$1.5 million", "20 USD", "$5-10"."""

from __future__ import annotations

import re

from cf_agents.text import numbers
from cf_agents.text.amounts import CURRENCY_SIGN, INT, NUMBER, bare_digits
from cf_agents.text.lexicon import CURRENCIES, CURRENCY_CODES, MAGNITUDE_WORDS, MAGNITUDES
from cf_agents.text.reading import Reading

_MAGNITUDE = rf"(?:(?P<letter>bn|mn|tn|[kKmMbBT])(?![A-Za-z0-9])|(?P<gap>[ -]?)(?P<word>{'|'.join(MAGNITUDE_WORDS)})\b)"
_CODE = "|".join(CURRENCY_CODES)
_MONEY = re.compile(rf"(?P<sign>{CURRENCY_SIGN})\s?{NUMBER}{_MAGNITUDE}?")
_MONEY_RANGE = re.compile(
    rf"(?P<sign>{CURRENCY_SIGN})(?P<whole>{INT})\s?-\s?(?={CURRENCY_SIGN}?{INT})(?P<second>{CURRENCY_SIGN}?)(?!\d{{1,18}}\.\d)"
)
_MONEY_AFTER = re.compile(rf"{NUMBER}{_MAGNITUDE}?(?P<space>\s?)(?P<sign>[€£¥₹$](?![\d.])|(?:{_CODE})\b)")
_CENTS = re.compile(rf"{CURRENCY_SIGN}\.(\d{{2}})(?!\d)")
_AFTER_CODE = re.compile(rf"\s?{NUMBER}{_MAGNITUDE}?")
_NUMBER_ONLY = re.compile(NUMBER)


def read_money(text: str, at: int, previous: str) -> Reading | None:
    """Read the amount of money at `at`, with its sign before or after it."""
    if text[at] in CURRENCIES:
        if (found := _MONEY_RANGE.match(text, at)) and found["second"] in ("", found["sign"]):
            second = _NUMBER_ONLY.match(text, found.end())
            rest = _MONEY.match(found["sign"] + text[found.end() : found.end() + 60]) if second else None
            if rest:
                first_words = numbers.integer(bare_digits(found["whole"]))
                scaled = _money_words(rest, CURRENCIES[found["sign"]], found.end() - 1)
                return [(found.end(), first_words + " to "), *scaled]
        if cents := _CENTS.match(text, at):
            return [(cents.end(), f"{numbers.integer(str(int(cents[1])))} {CURRENCIES[text[at]][3]}")]
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
    whole, part = bare_digits(found["whole"]), found["part"] or ""
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
