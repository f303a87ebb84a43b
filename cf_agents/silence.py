"""Silence at the end of what is known of an utterance is held back until sound follows it; at its end most of it is dropped.

    made     [ sound | .3 s | more silence ]  [ silence | sound ]   ...   [ sound | .3 s | more silence, the end ]
    given    [ sound | .3 s ]  [ more silence | silence | sound ]   ...   [ sound | .3 s ]

Sound is never late for it, pauses stay as long as they are, and an utterance that goes on in silence shows as one whose
`silent_s` grows. Knows nothing of tokens or texts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KEPT_S = 0.3
"""Of the silence behind the last sound: what a listener is given."""
FLOOR = 0.004
"""Root mean square below which a frame is silent, -48 dB of full scale."""
FRAME_S = 0.02


class SilenceGate:
    """One utterance's PCM, float32, on its way out."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._held = np.zeros(0, np.float32)
        self._silent = 0
        """Samples since the last sound, or the beginning."""
        self._sounded = False

    @property
    def silent_s(self) -> float:
        """Seconds of silence behind the last sound; 0 before the first one."""
        return self._silent / self._rate if self._sounded else 0.0

    @property
    def held(self) -> int:
        """Samples that are held back."""
        return len(self._held)

    def feed(self, pcm: NDArray[np.float32], last: bool) -> NDArray[np.float32]:
        """The next samples [T] in; those that may be heard by now out. With `last` nothing follows, and no more is held."""
        sound = sound_end(pcm, round(FRAME_S * self._rate))
        self._sounded = self._sounded or sound > 0
        self._silent = len(pcm) - sound + (0 if sound else self._silent)
        known = np.concatenate([self._held, pcm])
        kept = round(KEPT_S * self._rate)
        given = len(known) - max(0, min(self._silent - kept, len(known)))
        self._held = known[:0] if last else known[given:]
        return known[:given]


def sound_end(pcm: NDArray[np.float32], frame: int) -> int:
    """Where the last frame of `frame` samples that is not silent ends; 0 where all are. The last one may be shorter."""
    if not len(pcm):
        return 0
    starts = np.arange(0, len(pcm), frame)
    power = np.add.reduceat(np.square(pcm, dtype=np.float64), starts) / np.diff(starts, append=len(pcm))
    # A sample that is not finite is for whoever checks the sound to tell.
    (loud,) = np.nonzero(~(power < FLOOR**2))
    return min(int(starts[loud[-1]]) + frame, len(pcm)) if len(loud) else 0
