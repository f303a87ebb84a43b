"""`TextIds`: a text as the decoder takes it, and the way back. Knows nothing of tokenizers or tensors."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_SHORTEST = frozenset(("a", "i"))
"""Words so short that they may be said between two tokens."""


@dataclass(frozen=True)
class TextIds:
    """A text in spoken form, its ids with start and stop, and the character of the text at which each id begins.

    The start id begins, and ends, at 0; the stop id begins where the text ends.
    """

    text: str
    ids: tuple[int, ...]
    starts: tuple[int, ...]

    def characters(self, places: Iterable[float]) -> tuple[float, ...]:
        """Places among the ids, fractions between them allowed, as places in the text; to a hundredth of a character."""
        edges = (*self.starts, len(self.text))
        last = len(self.ids) - 1
        found: list[float] = []
        for place in places:
            at = min(max(int(place), 0), last)
            part = min(max(place - at, 0.0), 1.0)
            found.append(round(edges[at] + part * (edges[at + 1] - edges[at]), 2))
        return tuple(found)

    @property
    def words(self) -> tuple[tuple[int, int], ...]:
        """[start, end) among the ids of each word that is long enough for a token: all but "a" and "I"."""
        found: list[tuple[int, int]] = []
        for word in _WORD.finditer(self.text):
            start, end = (bisect.bisect_left(self.starts, at, lo=1) for at in word.span())
            if start < end and word[0].lower() not in _SHORTEST:
                found.append((start, end))
        return tuple(found)
