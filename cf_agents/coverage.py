"""Which words of its text an utterance's tokens have left out.

    places   ... f i v e e | a b b o u t ...     of "five am about": no token is on "am"

A decoder that fills a block in parallel now and then jumps over a short word, or is silent on it, and where its tokens are in
the text tells so before anybody hears it. Pure Python; places and words in text ids, id n reaches from n - 0.5 to n + 0.5.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

BEHIND = 3
"""Tokens of whose places the median tells how far an utterance is: one on its own may look anywhere."""
FEWEST = 2
"""Tokens that a word of more than one id takes at least. As espeak-ng speaks one word in 680 has fewer, and none of 102,379
has none (`benchmarks/left_out.py`, the pocket voice's shard 13 of texts)."""
PAUSE = 4
"""Equal tokens in a row, .16 s, are no speech, wherever they look."""


class Gaps(NamedTuple):
    """What the words passed are short of."""

    words: int
    """Words that no token is on."""
    tokens: int
    """Tokens that they, and words all but left out, lack."""


NO_GAPS = Gaps(0, 0)


class Coverage:
    """How far an utterance is in its words, and on which of them its tokens were."""

    def __init__(self, words: Sequence[tuple[int, int]]) -> None:
        """words: [start, end) of each among the text ids, in order."""
        self._words = tuple(words)
        self._passed = 0
        """Words that are judged."""
        self._tokens: list[int] = []
        self._places: list[float] = []

    def gaps(self, tokens: Sequence[int], places: Sequence[float], *, ended: bool) -> Gaps:
        """What would be missing if these were the next tokens, at these places.

        ended: nothing comes behind them, so that every word left is passed.
        """
        places = [*self._places, *places]
        passed = self._words[self._passed : self._until(places, ended)]
        spoken = [place for place, speaks in zip(places, _speaks([*self._tokens, *tokens]), strict=True) if speaks]
        spent = [sum(start - 0.5 <= place < end - 0.5 for place in spoken) for start, end in passed]
        lacking = (max(0, min(FEWEST, end - start) - each) for (start, end), each in zip(passed, spent, strict=True))
        return Gaps(spent.count(0), sum(lacking))

    def keep(self, tokens: Sequence[int], places: Sequence[float]) -> None:
        """These are the next tokens, at these places."""
        self._tokens += tokens
        self._places += places
        self._passed = self._until(self._places, ended=False)

    def _until(self, places: Sequence[float], ended: bool) -> int:
        if ended or not places:
            return len(self._words) if ended else self._passed
        reached = median(places[-BEHIND:])
        behind = (n for n, (_, end) in enumerate(self._words) if n >= self._passed and end + 0.5 > reached)
        return next(behind, len(self._words))


def _speaks(tokens: Sequence[int]) -> list[bool]:
    """Which tokens are not of a pause."""
    runs = (len(list(run)) for _, run in itertools.groupby(tokens))
    return [length < PAUSE for length in runs for _ in range(length)]
