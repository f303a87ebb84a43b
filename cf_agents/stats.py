"""What a stream took and gave, as numbers and as times for drawing. Knows nothing of how speech is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from cf_agents.links.base import Block


@dataclass(frozen=True)
class Written:
    """Text that came in: how many characters, and when."""

    at_s: float
    characters: int


@dataclass(frozen=True)
class Delivered:
    """A chunk that was ready for the listener: its length and when it came."""

    at_s: float
    seconds: float


@dataclass
class StreamStats:
    """Counts and times of one stream. Times are `time.monotonic()`; a list grows by one entry for each block or write."""

    segments: int = 0
    written: list[Written] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    delivered: list[Delivered] = field(default_factory=list)

    @property
    def ttfa_s(self) -> float | None:
        """Time to first audio: from the first written text to the first chunk. None before that."""
        if not self.written or not self.delivered:
            return None
        return self.delivered[0].at_s - self.written[0].at_s

    @property
    def audio_s(self) -> float:
        """Seconds of audio made."""
        return sum(chunk.seconds for chunk in self.delivered)

    @property
    def steps(self) -> int:
        """Denoising steps taken."""
        return sum(block.steps for block in self.blocks)

    @property
    def tokens(self) -> int:
        """Speech tokens made."""
        return sum(block.tokens for block in self.blocks)

    @property
    def rtf(self) -> float | None:
        """Real-time factor: time that its blocks were in work over the audio they gave; pauses at the lead limit do not count.

        Other streams in the same batches do count. None before there is audio.
        """
        busy_s = sum(block.sent_s - block.began_s for block in self.blocks)
        return busy_s / self.audio_s if self.audio_s > 0.0 else None
