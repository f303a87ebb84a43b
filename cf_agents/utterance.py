"""One segment being spoken, and the speech it belongs to: what the scheduler keeps of them.

Both are owned by the scheduler and touched by its thread alone. Knows nothing of threads, event loops or text rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cf_agents.config import DecodeParams
from cf_agents.decoded import Decoded
from cf_agents.engines.base import Prefix
from cf_agents.links.base import Event
from cf_agents.playback import Playback
from cf_agents.text_ids import TextIds

if TYPE_CHECKING:
    from cf_agents.voice import Voice


class OpenDecoding(Protocol):
    """What the scheduler reads of a decoding."""

    @property
    def finished(self) -> bool:
        """The last block is done; a finished decoding is closed, not stepped."""
        ...


D = TypeVar("D", bound=OpenDecoding)
V = TypeVar("V")
S = TypeVar("S")


class SpeechDecoder(Protocol[D]):
    """The part of `decode.Decoder` that scheduling needs."""

    def open(self, prefix: Prefix, params: DecodeParams, seed: int) -> D:
        """Attend to a prefix. Raises `EngineFull` or `TextError`."""
        ...

    def step(self, decodings: Sequence[D]) -> list[Decoded | None]:
        """One denoising step of each; the block it finished, or None."""
        ...

    def close(self, decoding: D) -> None:
        """Free its rows. Closing twice is fine."""
        ...


class SpeechVocoder(Protocol[V, S]):
    """The part of `vocoder.Vocoder` that scheduling needs."""

    def prepare(self, voice: Voice) -> V:
        """The voice on the device."""
        ...

    def open(self, voice: V, seed: int) -> S:
        """The state of one utterance."""
        ...

    def step(self, states: Sequence[S], tokens: Sequence[Sequence[int]], last: Sequence[bool]) -> Sequence[NDArray[np.float32]]:
        """PCM of each; `last` flushes what is held back."""
        ...


class Status(Enum):
    """Where an utterance is in its life."""

    WAITING = auto()
    SPEAKING = auto()
    DONE = auto()
    DROPPED = auto()
    """Cancelled, or its speech failed."""


@dataclass(eq=False)
class Utterance(Generic[D, S]):
    """One segment: text ids, decoder rows, vocoder state and the block under way."""

    speech: Speech[D, S]
    index: int
    text: TextIds
    params: DecodeParams
    seed: int
    submitted_s: float
    status: Status = Status.WAITING
    decoding: D | None = None
    state: S | None = None
    block_began_s: float | None = None
    """None between blocks."""
    block_steps: int = 0
    block: Decoded = field(default_factory=lambda: Decoded([]))
    """The one that was decoded last."""
    ended: bool = False
    """That block is the last one."""


@dataclass(eq=False)
class Speech(Generic[D, S]):
    """What one stream says: its utterances in order, one at a time, and how far its listener is."""

    voice: Voice
    lead_s: float
    deliver: Callable[[Event], None]
    playback: Playback = field(default_factory=Playback)
    waiting: deque[Utterance[D, S]] = field(default_factory=deque)
    current: Utterance[D, S] | None = None
    over: bool = False
    """Failed or closed: takes no more utterances and delivers no more audio."""
    closed: bool = False

    def due_at(self, now: float) -> float:
        """The time from which this speech may be worked on: when it is no more than `lead_s` ahead of its listener."""
        return now + max(0.0, self.playback.lead_s(now) - self.lead_s)

    def deadline(self) -> float:
        """The time at which the next waiting utterance is missed: when playback runs dry, or its text came."""
        submitted = self.waiting[0].submitted_s
        dry = self.playback.dry_at()
        return submitted if dry is None else max(dry, submitted)
