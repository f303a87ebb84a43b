"""Folding of characters: any Unicode text to the few characters the readers of this package know.

White space becomes a space or a line break, quotes and dashes become their ASCII form, Latin letters lose their accents
(the released model's vocabulary is English), emoji and invisible characters vanish, HTML entities become what they stand
for. Every folded character remembers where it came from. Knows nothing of words or numbers.
"""

from __future__ import annotations

import functools
import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_ODD_ASCII = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SILENT_KINDS = ("Cc", "Cf", "Cs", "Co", "Cn", "So", "Sk", "Me")
_KEPT = frozenset("°£€¥₹¢²³×÷±≈≠≤≥→½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞§√∞µ·—")
_FOLDS = {
    **dict.fromkeys("‘’‚‛′ʼ＇´", "'"),
    **dict.fromkeys("“”„‟″«»", '"'),
    **dict.fromkeys("‐‑‒–−", "-"),
    **dict.fromkeys("―⸺⸻", "—"),
    **dict.fromkeys("•‣◦▪●·∙", "•"),
    **dict.fromkeys("\n\r\v\f\x85\u2028\u2029", "\n"),
    "…": "...", "µ": "µ", "μ": "µ", "º": "°", "˚": "°", "⁄": "/", "∕": "/", "≅": "≈", "≃": "≈", "⇒": "→", "⟶": "→",
    "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th",
    "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ß": "ss", "ẞ": "SS", "ı": "i", "ﬁ": "fi", "ﬂ": "fl", "。": ". ", "、": ", ",
    "℃": "°C", "℉": "°F", "™": "", "®": "", "©": "", "№": "No. ",
}  # fmt: skip


@dataclass(frozen=True)
class Folded:
    """Folded text and, per character of it, the index in the source it came from (None: the same index)."""

    text: str
    origin: Sequence[int] | None

    def source(self, index: int) -> int:
        """Where in the source the folded character at `index` begins."""
        return index if self.origin is None else self.origin[index]


def fold(text: str) -> Folded:
    """Fold `text`; never raises, whatever the characters, and takes time in proportion to its length."""
    if text.isascii() and "&" not in text and not _ODD_ASCII.search(text):
        return Folded(text, None)
    parts: list[str] = []
    origin: list[int] = []
    at = 0
    while at < len(text):
        entity = _ENTITY.match(text, at) if text[at] == "&" else None
        if entity:
            standing_for = html.unescape(entity.group())
            new = "".join(map(_fold_character, standing_for)) if standing_for != entity.group() else entity.group()
            size = entity.end() - at
        else:
            new, size = _fold_character(text[at]), 1
        parts.append(new)
        origin += [at] * len(new)
        at += size
    origin.append(len(text))
    return Folded("".join(parts), origin)


@functools.lru_cache(maxsize=8192)
def _fold_character(character: str) -> str:
    if character in _FOLDS:
        return _FOLDS[character]
    if character in _KEPT or " " <= character <= "~" or character == "\t":
        return character
    if character.isspace():
        return " "
    kind = unicodedata.category(character)
    if kind in _SILENT_KINDS or "\u0300" <= character <= "\u036f" or "\ufe00" <= character <= "\ufe0f":
        return ""
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    plain = unicodedata.normalize("NFKD", character)
    if plain[0] in _FOLDS and len(plain) == 1:
        return _FOLDS[plain]
    latin = "".join(one for one in plain if not "\u0300" <= one <= "\u036f")
    return latin if latin.isascii() else unicodedata.normalize("NFKC", character)
