"""How a `Stream` reaches a scheduler: the seam, and the messages that cross it.

Messages are plain data, so a link may carry them to another process: numbers, text, bytes, numpy arrays in a `Voice`, and the
errors of `errors.py`. Knows nothing of models, threads or event loops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cf_agents.config import DecodeParams
from cf_agents.errors import CfAgentsError

if TYPE_CHECKING:
    from cf_agents.voice import Voice


@dataclass(frozen=True)
class Segment:
    """A stretch of text to speak in one breath, in spoken form (see `text.normalise`)."""

    index: int
    """Counts from 0 in its session; audio comes back in this order."""
    text: str
    params: DecodeParams
    seed: int


@dataclass(frozen=True)
class Block:
    """How one diffusion block was made. Times are `time.monotonic()` of the machine that made it."""

    tokens: int
    """Speech tokens of the block, 40 ms each; 0 for an end of speech on its own."""
    steps: int
    """Denoising steps it took."""
    began_s: float
    decoded_s: float
    sent_s: float


@dataclass(frozen=True)
class Audio:
    """The next piece of a segment."""

    segment: int
    pcm: bytes
    """Signed 16-bit little-endian, mono. May be empty."""
    last: bool
    """Nothing of this segment follows."""
    block: Block | None
    """What it is of; None where it goes on with the block of the audio before it."""
    places: tuple[float, ...] | None = None
    """The character of the segment's text that each of the block's tokens speaks, as the decoder attends to it: often between
    two, and not always rising. Token i of a segment is heard from 0.04 i seconds of its audio, which comes later than the
    token. None where the model cannot tell."""


@dataclass(frozen=True)
class Failed:
    """The session is over: nothing of it follows but `Closed`."""

    error: CfAgentsError


@dataclass(frozen=True)
class Closed:
    """The far side holds nothing of this session any more: its decoder rows are free."""


Event = Audio | Failed | Closed


class Session(Protocol):
    """One stream's line to a scheduler. No method waits, and none raises for what happens on the far side."""

    def submit(self, segment: Segment) -> None:
        """Queue a segment. Its audio follows that of the segments before it."""
        ...

    def report_position(self, seconds: float) -> None:
        """Say how far the listener is in the session's audio, for the lead limit."""
        ...

    def close(self) -> None:
        """Stop at once: rows are freed before the next denoising step, `Closed` is the last event. Closing twice is fine."""
        ...


class Link(Protocol):
    """A way to a scheduler, shared by every stream."""

    @property
    def sample_rate(self) -> int:
        """Hz of the PCM that comes back."""
        ...

    @property
    def max_streams(self) -> int:
        """Sessions that may be open at once."""
        ...

    def open(self, voice: Voice, lead_s: float, receive: Callable[[Event], None]) -> Session:
        """Start a session. `receive` is called in order, on the event loop this was called from.

        `voice` must not change afterwards. A session has a seat from here to its `close`, whether it has something to say or
        not. Raises `Busy` at once when all seats are taken, and `StreamClosed` when the link is closed. Where the far side is
        shared with other processes, it may be the one that finds itself full: `Busy` is then the first event, as `Failed`.
        """
        ...

    async def aclose(self) -> None:
        """End every session and let go of the scheduler. Closing twice is fine."""
        ...
