"""What a stream took and gave, as numbers and as times for drawing. Knows nothing of how speech is made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cf_agents.encoding import Encoding
from cf_agents.errors import CfAgentsError
from cf_agents.links.base import Block

Outcome = Literal["open", "ended", "cancelled", "failed", "busy"]
"""How a stream went: all was said and taken; it was cancelled or left before that, or while the listener had not heard all; an
error ended it; there was no room for it."""


@dataclass(frozen=True)
class Written:
    """Text that came in: how many characters, and when."""

    at_s: float
    characters: int


@dataclass(frozen=True)
class Delivered:
    """A chunk that was ready for the listener: its length, when it came, and since when the text it speaks was to be spoken."""

    at_s: float
    seconds: float
    asked_s: float = 0.0


@dataclass
class StreamStats:
    """Counts and times of one stream. Times are `time.monotonic()`; a list grows by one entry for each block or write.

    Figures of the listener are those of one who plays each chunk at once, or after the one before.
    """

    model: str = ""
    voice: str = ""
    sample_rate: int = 0
    encoding: Encoding = "s16le"
    opened_s: float = 0.0
    closed_s: float | None = None
    """When the outcome was known."""
    outcome: Outcome = "open"
    error: CfAgentsError | None = None
    """What ended it, if it failed."""
    heard_s: float | None = None
    """Seconds of audio the listener got, where `cancel` or `aclose` told."""
    audible_s: float | None = None
    """Place in the audio of the first sample over -60 dBFS."""
    segments: int = 0
    written: list[Written] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    delivered: list[Delivered] = field(default_factory=list)

    @property
    def cancelled(self) -> bool:
        """Whether it was silenced before the listener had heard all."""
        return self.outcome == "cancelled"

    @property
    def ttfa_s(self) -> float | None:
        """Time to first audio: from the first written text to the first chunk. None before that."""
        if not self.written or not self.delivered:
            return None
        return self.delivered[0].at_s - self.written[0].at_s

    @property
    def audible_ttfa_s(self) -> float | None:
        """From the first written text to the first sample over -60 dBFS as it is heard. None before that."""
        if not self.written or self.audible_s is None:
            return None
        before_s = 0.0
        for start_s, end_s in playback_spans(self.delivered):
            if self.audible_s < before_s + end_s - start_s:
                return start_s + self.audible_s - before_s - self.written[0].at_s
            before_s += end_s - start_s
        return None

    @property
    def audio_s(self) -> float:
        """Seconds of audio made."""
        return sum(chunk.seconds for chunk in self.delivered)

    @property
    def steps(self) -> int:
        """Denoising steps taken."""
        return sum(block.steps for block in self.blocks)

    @property
    def steps_per_block(self) -> float | None:
        """Denoising steps that a block took in the mean. None before the first."""
        return self.steps / len(self.blocks) if self.blocks else None

    @property
    def tokens(self) -> int:
        """Speech tokens made."""
        return sum(block.tokens for block in self.blocks)

    @property
    def characters(self) -> int:
        """Characters written."""
        return sum(each.characters for each in self.written)

    @property
    def rtf(self) -> float | None:
        """Real-time factor: time that its blocks were in work over the audio they gave; pauses at the lead limit do not count.

        Other streams in the same batches do count; time in which one block is voiced and the next decoded counts once. None
        before there is audio.
        """
        busy_s, until_s = 0.0, -math.inf
        for block in self.blocks:
            busy_s += max(0.0, block.sent_s - max(block.began_s, until_s))
            until_s = max(until_s, block.sent_s)
        return busy_s / self.audio_s if self.audio_s > 0.0 else None

    @property
    def lead_s(self) -> float | None:
        """The least time by which a chunk came before the listener ran dry: how near it came to an underrun, and below 0, the
        longest. Where text came after the listener had run dry, speech began anew and this does not count. None before the
        second chunk.
        """
        return min(self._leads(), default=None)

    @property
    def underrun_s(self) -> float:
        """How long in all the listener had nothing to hear though there was text to be spoken when it ran dry."""
        return sum(-lead_s for lead_s in self._leads() if lead_s < 0.0)

    @property
    def underruns(self) -> int:
        """How many times that was so."""
        return sum(lead_s < 0.0 for lead_s in self._leads())

    def _leads(self) -> Iterator[float]:
        dry_at: float | None = None
        for chunk in self.delivered:
            if chunk.seconds > 0.0:
                if dry_at is not None and chunk.asked_s <= dry_at:
                    yield dry_at - chunk.at_s
                dry_at = chunk.seconds + (chunk.at_s if dry_at is None else max(dry_at, chunk.at_s))


def playback_spans(delivered: Sequence[Delivered]) -> list[tuple[float, float]]:
    """When a listener hears something who plays each chunk at once, or after the one before: start and end of each run."""
    runs: list[tuple[float, float]] = []
    for chunk in delivered:
        if runs and chunk.at_s <= runs[-1][1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + chunk.seconds)
        else:
            runs.append((chunk.at_s, chunk.at_s + chunk.seconds))
    return runs
