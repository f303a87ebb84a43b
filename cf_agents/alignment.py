"""When each character of a text is spoken, from where the decoder looked in it at each token.

    places      3 4 4 9 5 6 6 8 7 8 ...     as the attention tells them: they waver, and now and then one is far off
    path        3 4 4 5 6 6 6 7.5 7.5 8     the nearest that never goes back, after a median over three

Knows nothing of words, audio or models.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from cf_agents.config import TOKEN_RATE


class Alignment:
    """The path of one segment, which grows with its tokens. What comes later may still move its last stretch."""

    def __init__(self) -> None:
        self._places: list[float] = []
        self._path: list[float] = []

    def hear(self, places: Sequence[float]) -> None:
        """The characters that the next tokens speak."""
        self._places += places
        self._path = rising(median_of_three(self._places))

    @property
    def until_s(self) -> float:
        """Seconds of speech that are known; 0 while nothing is."""
        return len(self._places) / TOKEN_RATE

    @property
    def place(self) -> float:
        """The character that the last known token speaks; 0 while none is."""
        return self._path[-1] if self._path else 0.0

    def when(self, character: float) -> float | None:
        """Seconds from the segment's begin at which speech comes to a place in the text; None where it has not come so far."""
        path = self._path
        at = bisect.bisect_left(path, character)
        if at == len(path):
            return None
        if at == 0:
            return 0.0
        before, after = path[at - 1], path[at]
        # A token's place is that of its middle.
        return (at - 0.5 + (character - before) / (after - before)) / TOKEN_RATE


def median_of_three(values: Sequence[float]) -> list[float]:
    """Each value's median with its neighbours; the ends as they are."""
    inner = [sorted(three)[1] for three in zip(values, values[1:], values[2:], strict=False)]
    return [*values[:1], *inner, *values[1:][-1:]]


def rising(values: Sequence[float]) -> list[float]:
    """The nearest sequence that never falls, by least squares: neighbours that fall are pooled (Ayer et al. 1955)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, count = value, 1
        while pools and pools[-1][0] >= mean:
            before, many = pools.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        pools.append((mean, count))
    return [mean for mean, count in pools for _ in range(count)]
