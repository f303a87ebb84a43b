"""One segment being spoken, and the speech it belongs to: what the scheduler keeps of them.

Both are owned by the scheduler and touched by its thread alone, but for an utterance's `state`, which is its voicer's, and
what a speech tells its listener, which has a lock. Knows nothing of event loops or text rules.
"""

from __future__ import annotations

import math
import threading
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
from cf_agents.errors import CfAgentsError
from cf_agents.links.base import Audio, Closed, Event, Failed
from cf_agents.playback import Playback
from cf_agents.runaway import text_end, worth_hearing
from cf_agents.silence import SilenceGate
from cf_agents.text_ids import TextIds

if TYPE_CHECKING:
    from cf_agents.voice import Voice


MOST_VOICING = 2
"""Blocks of a speech that are decoded and not voiced yet: one in the vocoder and one behind it."""


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

    def open(self, prefix: Prefix, params: DecodeParams, seed: int, words: Sequence[tuple[int, int]]) -> D:
        """Attend to a prefix. words: [start, end) of each among its text ids. Raises `EngineFull` or `TextError`."""
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

    def begin(
        self, states: Sequence[S], tokens: Sequence[Sequence[int]], last: Sequence[bool]
    ) -> Sequence[tuple[NDArray[np.float32], bool]]:
        """As `step`, but of a long piece its beginning only, and then True: its `rest` is taken before all else."""
        ...

    def rest(self, states: Sequence[S]) -> Sequence[NDArray[np.float32]]:
        """PCM that `begin` has left."""
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
    refused: bool = False
    """It could not be opened ahead of its time."""
    spoken_at: list[float] = field(default_factory=list)
    """The character of the text that each of its tokens speaks, where the decoder tells."""
    gate: SilenceGate | None = None
    """What its audio goes through; the voicer's."""

    def worth_hearing(self, block: Decoded) -> tuple[Decoded, bool]:
        """What is worth hearing of its next block, and whether nothing behind that is: see `runaway`."""
        if block.places is None:
            return block, False
        before = len(self.spoken_at)
        self.spoken_at += self.text.characters(block.places)
        kept = worth_hearing(self.spoken_at, text_end(self.text.text))
        if kept is None:
            return block, False
        count = max(0, kept - before)
        return Decoded(block.tokens[:count], block.places[:count]), True


@dataclass(eq=False)
class Speech(Generic[D, S]):
    """What one stream says: its utterances in order, and how far its listener is."""

    voice: Voice
    lead_s: float
    deliver: Callable[[Event], None]
    playback: Playback = field(default_factory=Playback)
    waiting: deque[Utterance[D, S]] = field(default_factory=deque)
    opened: deque[Utterance[D, S]] = field(default_factory=deque)
    """Those that have rows: the one that is decoded, and the next, which is prepared only."""
    voicing: int = 0
    """Blocks that were decoded and have not reached the listener."""
    coming_s: float = 0.0
    """Audio that was decoded and has not reached the listener: of those blocks, and what the vocoder holds back."""
    parted: bool = False
    """The beginning of its first block was delivered, and the rest is being made."""
    over: bool = False
    """Failed, cancelled or closed: takes no more utterances and delivers no more audio."""
    closed: bool = False
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def say(self, audio: Audio) -> None:
        """Deliver, unless it is over. Any thread."""
        with self._telling:
            if not self.over:
                self.deliver(audio)

    def fail(self, error: CfAgentsError) -> bool:
        """Deliver the error and be over. False if it was over before. Any thread."""
        with self._telling:
            if self.over:
                return False
            self.over = True
            self.deliver(Failed(error))
            return True

    def close(self) -> None:
        """Deliver `Closed`, the first time; nothing comes after it. Any thread."""
        with self._telling:
            self.over = True
            if not self.closed:
                self.closed = True
                self.deliver(Closed())

    @property
    def begun(self) -> bool:
        """Something of it was heard, or will be soon."""
        return self.voicing > 0 or self.playback.made_s > 0.0

    @property
    def awaited(self) -> bool:
        """Its first block is being made."""
        return self.voicing > 0 and (self.parted or not self.playback.made_s)

    def due_at(self, now: float) -> float:
        """The time from which this speech may be worked on: when it is no more than `lead_s` ahead of its listener.

        Infinite while it waits for the voicer: for its first block, so that nothing of it keeps the machine from that, and
        when blocks pile up there.
        """
        if self.voicing >= MOST_VOICING or self.awaited:
            return math.inf
        return now + max(0.0, self.playback.lead_s(now) + self.coming_s - self.lead_s)

    def deadline(self, submitted_s: float) -> float:
        """When its next block is missed: when playback of what was decoded runs dry, or the text came, if that was later."""
        dry = self.playback.dry_at()
        return submitted_s if dry is None else max(dry + self.coming_s, submitted_s)
