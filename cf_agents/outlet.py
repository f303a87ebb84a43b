"""The end of the line: a link's PCM in the rate and encoding that the listener asked for. Knows nothing of text or words."""

from __future__ import annotations

from cf_agents.encoding import SAMPLE_BYTES, Encoding, check_encoding, decode, decode_s16, encode, encode_s16
from cf_agents.errors import ConfigError
from cf_agents.resampler import RATES, StreamResampler


class Outlet:
    """Turns one stream's s16le at the model's rate into its bytes, without a seam between segments."""

    def __init__(self, rate_in: int, sample_rate: int | None, encoding: Encoding) -> None:
        """sample_rate: Hz; None keeps `rate_in`. Raises `ConfigError` for a rate or an encoding that cannot be made."""
        low, high = RATES
        if sample_rate is not None and (not isinstance(sample_rate, int) or not low <= sample_rate <= high):
            raise ConfigError(f"sample_rate is {sample_rate!r}; give whole Hz from {low} to {high}, or None for the model's.")
        self.encoding: Encoding = check_encoding(encoding)
        self.rate_in = rate_in
        self.sample_rate = rate_in if sample_rate is None else sample_rate
        self.fed_s = 0.0
        """Seconds of sound that have come in."""
        self._resampler = None if self.sample_rate == rate_in else StreamResampler(rate_in, self.sample_rate)

    @property
    def latency_s(self) -> float:
        """Seconds of sound that are held back inside a segment: none at the model's own rate."""
        return 0.0 if self._resampler is None else self._resampler.latency_s

    def feed(self, pcm: bytes, last: bool) -> bytes:
        """s16le in; with `last`, the end of a segment, nothing is held back."""
        self.fed_s += len(pcm) / (SAMPLE_BYTES["s16le"] * self.rate_in)
        if self._resampler is not None:
            return encode(self._resampler.feed(decode(pcm, "s16le"), last), self.encoding)
        return pcm if self.encoding == "s16le" else encode_s16(decode_s16(pcm, "s16le"), self.encoding)

    def silence(self, seconds: float) -> bytes:
        """What to feed for silence."""
        return bytes(SAMPLE_BYTES["s16le"] * round(seconds * self.rate_in))

    def seconds(self, sound: bytes) -> float:
        """How long bytes of this outlet sound."""
        return len(sound) / (SAMPLE_BYTES[self.encoding] * self.sample_rate)
