"""When an utterance has said its text and does not stop: the decoder now and then misses the end, and goes on with parts of the
text, or in silence, for its whole budget.

    places   ... o f f i v e . . e . | t h e h o u r ...          back in the text: cut here
    places   ... o f f i v e . . . . . . . . . . . . . . . |      it lingers: cut here

Judged from where in the text each token is spoken; where the decoder does not tell, an utterance is over that is silent for
`HUSH_S`. Pure functions; places and texts in characters of the spoken form.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from cf_agents.alignment import median_of_three

NEAR = 3.0
"""The text is spoken when tokens stay this close to the end of its last letter, `STAY` of them."""
STAY = 3
LEAST = 0.5
"""Tokens that a character takes at least; the fastest voices take 0.8. What comes to the end sooner only looks there."""
LAST = 1.5
"""At the last letter: this close to its end."""
LINGER = 18
"""Tokens from there on: 0.42 s is the longest that speech was seen to take, and 0.3 s of silence."""
BACK = 8.0
"""Tokens this far from the end, `STAY` of them after the text was spoken, say it again."""
STALL = 32
"""Before the text is spoken: so many tokens, 1.3 s, that on the whole are no further in it than as many before them."""
HUSH_S = 1.5
"""An utterance of which nobody knows where in its text it is, and that is silent for so long after sound, is over."""


def text_end(text: str) -> int:
    """Where the last letter or digit of a text ends; 0 where there is none."""
    return max((n + 1 for n, character in enumerate(text) if character.isalnum()), default=0)


def worth_hearing(places: Sequence[float], end: int) -> int | None:
    """How many tokens of an utterance are worth hearing, from where its tokens so far are in a text that ends at `end`.

    None: it may go on. The last token is not judged, and one token on its own decides nothing.
    """
    path = median_of_three(places)[:-1]
    spoken = _spoken(path, end)
    if spoken is None:
        return len(path) if _stalls(path) else None
    away = [place < end - BACK for place in path]
    back = next((n for n in range(spoken, len(path) - STAY + 1) if all(away[n : n + STAY])), None)
    last = next((n for n in range(spoken, len(path)) if path[n] >= end - LAST), spoken + STAY)
    cuts = [cut for cut in (back, last + LINGER) if cut is not None and cut <= len(path)]
    return min(cuts, default=None)


def _spoken(path: Sequence[float], end: int) -> int | None:
    """The token at which the text is all but spoken."""
    first = int(LEAST * end)
    near = [place >= end - NEAR for place in path]
    return next((n for n in range(first, len(path) - STAY + 1) if all(near[n : n + STAY])), None)


def _stalls(path: Sequence[float]) -> bool:
    late, before = path[-STALL:], path[-2 * STALL : -STALL]
    return len(before) == STALL and median(late) < median(before) + 1.0
