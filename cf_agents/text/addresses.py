"""Web and mail addresses: where they are in a text, and how they are spoken."""

from __future__ import annotations

import re

from cf_agents.text import numbers
from cf_agents.text.lexicon import TOP_LEVEL_DOMAINS

MAX_SPOKEN_CHARS = 80
"""A longer address is spoken as its host alone: nobody follows the rest by ear."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})"
_ADDRESS = re.compile(
    r"(?:https?|ftp)://[^\s<>\"'()\[\]{}|`*]++"
    r"|(?<![A-Za-z0-9.@_-])www\.[A-Za-z0-9-][^\s<>\"'()\[\]{}|`*]*+"
    rf"|(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{{0,63}}@{_LABEL}(?:\.{_LABEL}){{1,6}}"
    rf"|(?<![A-Za-z0-9.@_/-])(?:[A-Za-z0-9][A-Za-z0-9-]{{0,62}}\.){{1,6}}(?:{'|'.join(sorted(TOP_LEVEL_DOMAINS))})(?![A-Za-z0-9-]|\.[A-Za-z])"
    r"(?::\d{1,5})?(?:/[^\s<>\"'()\[\]{}|`*]*+)?"
)
_TOKEN = re.compile(r"[A-Za-z]+|\d+|.")
_MARKS = {
    ".": "dot", "/": "slash", "-": "dash", "_": "underscore", "@": "at", "+": "plus", ":": "colon", "~": "tilde",
    "%": "percent", "&": "and", "=": "equals", "#": "hash",
}  # fmt: skip
_SPELLED = frozenset({"io", "ai", "uk", "us", "tv", "eu", "de", "fr", "ca", "jp", "cn", "au", "nl", "ly", "gg", "xyz"})
_VOWELS = frozenset("aeiouyAEIOUY")


def find_addresses(text: str) -> list[tuple[int, int]]:
    """Start and end of every address in `text`, in order; punctuation that closes a sentence is left outside."""
    if "." not in text:
        return []
    spans: list[tuple[int, int]] = []
    for found in _ADDRESS.finditer(text):
        end = found.start() + len(found.group().rstrip(".,;:!?~&"))
        spans.append((found.start(), end))
    return spans


def speak_address(address: str) -> str:
    """Words of an address: "example dot com slash docs"; the scheme, "www." and a query are left out."""
    if "@" in address and "//" not in address:
        return _speak(address)
    bare = re.sub(r"^(?:[a-z]{3,5}://)?(?:www\.)?", "", address, flags=re.IGNORECASE)
    bare = re.split(r"[?#]", bare, maxsplit=1)[0].rstrip("/")
    return _speak(bare if len(bare) <= MAX_SPOKEN_CHARS else bare.split("/", 1)[0][: 4 * MAX_SPOKEN_CHARS])


def _speak(address: str) -> str:
    return " ".join(filter(None, map(_speak_token, _TOKEN.findall(address))))


def _speak_token(token: str) -> str:
    if token.isdecimal():
        return numbers.integer(token) if len(token) < 5 else numbers.spell_digits(token)
    if token.isalpha():
        unspeakable = len(token) < 6 and token != "www" and not _VOWELS.intersection(token)
        return " ".join(token.lower()) if token.lower() in _SPELLED or unspeakable else token
    return _MARKS.get(token, "")
