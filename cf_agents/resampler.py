"""Another sample rate for speech that comes in pieces. Knows nothing of encodings, chunks or words."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

RATES = (8_000, 48_000)
"""The lowest and the highest rate that is made, in Hz."""
REACH_SAMPLES = 96
"""How far soxr's HQ filter looks to either side, in samples of the lower of both rates: taps beyond are below -120 dB."""


class StreamResampler:
    """Resamples a stream piece by piece, by soxr at its HQ quality.

    Its latency is constant: `REACH_SAMPLES` of the lower rate are held back. soxr's own streaming holds back 10 to 73 ms at
    8 kHz, as its blocks fall. So each piece is resampled whole, with as much sound around it as its edges need, from a place
    where samples of both rates coincide.

        [..sound of before..|..........piece..........|..held back..]
                            made                      until more comes, or the segment ends

    Every sample comes out once: ceil(fed * rate_out / rate_in) by the end of a segment. Segments lie on one time scale: where
    one ends, silence stands for what is not there yet, and the next one begins in the sound before it. Joined they are the
    stream resampled at once, but for what the first samples after an end would ring back over the last ones before it.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        import soxr

        self._resample = soxr.resample
        self.rate_in, self.rate_out = rate_in, rate_out
        self._reach = math.ceil(REACH_SAMPLES * rate_in / min(rate_in, rate_out))
        self._period = rate_in // math.gcd(rate_in, rate_out)
        self._kept = np.zeros(0, np.float32)
        self._kept_from = 0
        self._fed = 0
        self._made = 0

    @property
    def latency_s(self) -> float:
        """How much sound is held back inside a segment, in seconds."""
        return self._reach / self.rate_in

    def feed(self, samples: NDArray[np.float32], last: bool) -> NDArray[np.float32]:
        """Samples [T] in; out come those that nothing that follows can change, and with `last` all of them."""
        self._kept = np.concatenate([self._kept, samples])
        self._fed += len(samples)
        until = max(self._made, self._scaled(self._fed if last else self._fed - self._reach))
        if until == self._made:
            return np.zeros(0, np.float32)
        # The silence also makes up for a last sample that soxr would round away.
        whole = self._resample(np.pad(self._kept, (0, self._reach)), self.rate_in, self.rate_out, quality="HQ")
        begin = self._scaled(self._kept_from)
        made, self._made = whole[self._made - begin : until - begin], until
        self._forget()
        return made

    def _scaled(self, samples_in: int) -> int:
        return -(-samples_in * self.rate_out // self.rate_in)

    def _forget(self) -> None:
        needed = self._made * self.rate_in // self.rate_out - self._reach
        begin = max(self._kept_from, needed // self._period * self._period)
        self._kept, self._kept_from = self._kept[begin - self._kept_from :], begin
