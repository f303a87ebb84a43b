"""What a cut would click without: the audio behind the playback position, faded out. Knows nothing of clocks or sessions."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from cf_agents.audio import AudioChunk
from cf_agents.encoding import encode

BEHIND_S = 1.0
"""Audio this far behind the position is kept: a caller may tell a later position that lies further back."""


def fade_out(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples [T] under the falling half of a raised cosine, 1 before the first and 0 at the last."""
    at = np.arange(1, len(samples) + 1, dtype=np.float32) / max(len(samples), 1)
    return samples * (0.5 + 0.5 * np.cos(np.pi * at)).astype(np.float32)


class Tail:
    """The audio that was taken and not played yet, as long as a fade of `fade_s` is wanted; with 0 nothing is kept.

    What is kept is as long as the listener's lead and `BEHIND_S` more.
    """

    def __init__(self, fade_s: float) -> None:
        self._fade_s = fade_s
        self._kept: deque[AudioChunk] = deque()

    def add(self, chunk: AudioChunk, position_s: float) -> None:
        """`chunk` was taken; the listener is at `position_s`."""
        if self._fade_s > 0.0:
            self._kept.append(chunk)
            while self._kept[0].start_s + self._kept[0].duration_s < position_s - BEHIND_S:
                self._kept.popleft()

    def cut(self, position_s: float) -> bytes:
        """The audio from `position_s` on, `fade_s` of it or what there is, faded to nothing, in the stream's encoding.

        Empty where nothing follows. The rest is forgotten.
        """
        pieces: list[NDArray[np.float32]] = []
        encoding = self._kept[-1].encoding if self._kept else "s16le"
        for chunk in self._kept:
            begin = max(0, round((position_s - chunk.start_s) * chunk.sample_rate))
            wanted = round(self._fade_s * chunk.sample_rate) - sum(map(len, pieces))
            pieces.append(chunk.floats[begin : begin + wanted])
        self._kept.clear()
        return encode(fade_out(np.concatenate(pieces)), encoding) if pieces else b""
