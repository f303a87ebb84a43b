"""Another sample rate for speech that comes in pieces. Knows nothing of chunks, words or streams."""

from __future__ import annotations

import numpy as np

from cf_agents.errors import AudioError


class PieceResampler:
    """Resamples one segment piece by piece, by soxr at its HQ quality; joined, the pieces are the whole resampled at once."""

    def __init__(self, rate_in: int, rate_out: int) -> None:
        """Raises `AudioError` for a rate that is not positive."""
        if rate_in <= 0 or rate_out <= 0:
            raise AudioError(f"Cannot resample from {rate_in} to {rate_out} Hz; give positive rates.")
        import soxr

        self._soxr = soxr.ResampleStream(rate_in, rate_out, 1, dtype="int16", quality="HQ")

    def feed(self, pcm: bytes, last: bool) -> bytes:
        """s16le in, s16le out. Holds back a few milliseconds until more comes or `last`."""
        made = self._soxr.resample_chunk(np.frombuffer(pcm, "<i2").astype(np.int16), last)
        return made.astype("<i2").tobytes()
