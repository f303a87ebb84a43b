"""A speaking session on the event loop: text is written as it comes, audio is iterated, and it ends the moment it is cancelled.

    write ----> Inlet ----> normalise --> Session.submit ...scheduler... _receive --> chunks --> async for
                 ^          (spoken form)                                   | (words are timed here)
                 +---------- how far audio is ahead of the listener <-------+

Runs on asyncio and trio. Knows nothing of tensors, and reaches whatever speaks through a `Link` only.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import anyio
import anyio.lowlevel

from cf_agents.audio import AudioChunk, Word, first_audible
from cf_agents.config import TOKEN_RATE, DecodeParams
from cf_agents.encoding import Encoding
from cf_agents.errors import Busy, CfAgentsError, StreamClosed
from cf_agents.fade import Tail
from cf_agents.inlet import Inlet
from cf_agents.links.base import Audio, Closed, Event, Failed, Link, Segment
from cf_agents.observer import Over, StreamObserver, tell_opened
from cf_agents.outlet import Outlet
from cf_agents.playback import Playback
from cf_agents.stats import Delivered, Outcome, StreamStats, Written
from cf_agents.text.normalise import normalise
from cf_agents.text.segment import SegmentPolicy
from cf_agents.timing import SpeakingRate, WordClock, WrittenWord, written_words
from cf_agents.voice import Voice

SILENCE_S = 0.1
"""What is heard of text with nothing to say, such as a lone emoji."""
MOST_PIECES = 4
"""Segments under way at once. More text waits as it was written: it is cut when the lead is known, and a write stays short."""
RUNAWAY = (1.6, 1.0)
"""A segment may take this many times its expected length, in a voice that is slow as long as that voice is, and so many seconds
more. The model now and then misses the end of a text, and what ends it then (see `runaway`) may miss it too."""


@dataclass(frozen=True)
class Heard:
    """What the listener got: the written text up to the last word that had begun, those words, and seconds of audio.

    tail: the audio that follows, faded to nothing, where the stream was opened with `fade_s`: played in place of what was cut
    off, it ends without a click. `seconds` does not count it. Empty where nothing was left to play.
    """

    text: str
    words: tuple[Word, ...]
    seconds: float
    tail: bytes = b""


@dataclass(eq=False)
class _Piece:
    """A segment whose audio is still to come."""

    index: int
    offset: int
    words: list[WrittenWord]
    expected_s: float
    spoken: bool
    asked_s: float
    clock: WordClock | None = None
    seconds: float = 0.0


class Stream:
    """Text in, audio out, in order. Made by `TTS.stream`, on the event loop it is used from.

    Write and iterate from one task or from different ones of the same loop. Speech begins when there is enough text to say in
    one breath; only `flush` and `end` force what is pending into speech, however long the writer pauses. `policy` says how long
    such a breath is.

    Each chunk carries the words that begin in it, with their times (see `timing`). Joined they spell what was written, but
    for white space that comes on its own after the last word. Text with nothing to say, such as an emoji, is a short silence.
    Where the knobs have no `max_tokens`, `RUNAWAY` bounds a segment.

    Leaving the `async with` block cancels. A stream that has said all it was to say needs no closing; any other that is dropped
    unclosed warns (`ResourceWarning`).
    """

    def __init__(
        self,
        link: Link,
        voice: Voice,
        *,
        params: DecodeParams,
        seed: int,
        lead_s: float,
        sample_rate: int | None = None,
        encoding: Encoding = "s16le",
        fade_s: float = 0.0,
        policy: SegmentPolicy | None = None,
        model: str = "",
        observers: Sequence[StreamObserver] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._released = True
        self._tell_over: Over | None = None
        self._outlet = Outlet(link.sample_rate, sample_rate, encoding)
        self.sample_rate = self._outlet.sample_rate
        self.encoding: Encoding = encoding
        self.seed = seed
        self.stats = StreamStats(model, voice.name, self.sample_rate, encoding, clock())
        self._params = params
        self._clock = clock
        self._inlet = Inlet(policy)
        self._ended = False
        self._pieces: deque[_Piece] = deque()
        self._ready: deque[AudioChunk] = deque()
        self._rate = SpeakingRate()
        self._made_s = 0.0
        self._playback = Playback()
        self._tail = Tail(fade_s)
        self._taken: list[Word] = []
        self._error: CfAgentsError | None = None
        self._heard: Heard | None = None
        self._closed = False
        self._gone = False
        self._changed: anyio.Event | None = None
        # The link must not keep a forgotten stream alive.
        receive = weakref.WeakMethod(self._receive)

        def forward(event: Event) -> None:
            method = receive()
            if method is not None:
                method(event)

        self._tell_over = tell_opened(observers, self.stats)
        try:
            self._session = link.open(voice, lead_s, forward)
        except CfAgentsError as error:
            self._fail(error)
            raise
        self._released = False

    def __del__(self) -> None:
        if not self._released:
            warnings.warn(
                "A Stream was never closed: use `async with`, or call aclose().", ResourceWarning, stacklevel=2, source=self
            )
            self._session.close()
        if self._tell_over is not None:
            self._finish("ended" if self._all_taken else "cancelled")

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def write(self, text: str) -> None:
        """Say this next. Never blocks; pieces may be of any size, as a language model makes them.

        Raises `StreamClosed` after `end`, after `cancel` or `aclose`, and when the stream has failed.
        """
        self._check_writable()
        if text:
            self._inlet.write(text)
            self.stats.written.append(Written(self._clock(), len(text)))
            self._pump()

    def flush(self) -> None:
        """Force what is pending into speech. Raises as `write` does."""
        self._check_writable()
        self._inlet.flush()
        self._pump()

    def end(self) -> None:
        """No more text comes: the iteration ends after its last chunk. Ending twice is fine; raises as `write` does else."""
        if not self._ended:
            self.flush()
            self._ended = True
            self._pump()

    def __aiter__(self) -> Stream:
        if self._closed:
            raise StreamClosed("This stream is closed: open another one with TTS.stream.")
        return self

    async def __anext__(self) -> AudioChunk:
        """The next chunk. Ends after `end` when all has been said, and at once after `cancel`.

        Raises what ended the stream, typed: see `errors`.
        """
        await anyio.lowlevel.checkpoint()
        while not self._ready:
            if self._heard is not None:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            if self._released:
                raise StopAsyncIteration
            await self._next_change_or_need()
        chunk = self._ready.popleft()
        now = self._clock()
        self._playback.add(chunk.duration_s, now)
        self._tail.add(chunk, self._playback.position_s(now))
        self._taken += chunk.words
        return chunk

    def report_position(self, seconds: float) -> None:
        """Say how far playback is in this stream's audio. Untold, it begins with the first chunk and keeps real time."""
        self._playback.report(seconds, self._clock())
        self._session.report_position(seconds)

    def cancel_nowait(self, at_s: float | None = None) -> Heard:
        """Stop: nothing is delivered after this, and the decoder's rows are freed before the next denoising step.

        at_s: seconds of this stream's audio that were played, where the caller knows; else the position reported, or the wall
        clock since the first chunk was taken. Never more than the chunks that were taken. Cancelling twice gives the same
        answer.
        """
        if self._heard is None:
            position_s = self._playback.position_s(self._clock()) if at_s is None else at_s
            seconds = min(max(position_s, 0.0), self._playback.made_s)
            all_heard = self._all_taken and seconds >= self._playback.made_s
            words = tuple(word for word in self._taken if word.start_s < seconds)
            text = self._inlet.written[: words[-1].end] if words else ""
            self._heard = Heard(text, words, seconds, self._tail.cut(seconds))
            self._ready.clear()
            self._pieces.clear()
            self._inlet.clear()
            self._release()
            self._finish("ended" if all_heard else "cancelled", heard_s=seconds)
        return self._heard

    async def cancel(self, at_s: float | None = None) -> Heard:
        """`cancel_nowait`, and a chance for other tasks to run."""
        heard = self.cancel_nowait(at_s)
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return heard

    async def aclose(self) -> None:
        """Cancel, and wait until the far side holds nothing of this stream any more. Closing twice is fine."""
        self._closed = True
        if self._all_taken:
            self._finish("ended")
        self.cancel_nowait()
        while not self._gone:
            await self._next_change()

    @property
    def _all_taken(self) -> bool:
        return (self._ended or self._inlet.untouched) and not (self._inlet.waiting or self._pieces or self._ready)

    def _fail(self, error: CfAgentsError) -> None:
        self._error = error
        self._finish("busy" if isinstance(error, Busy) else "failed", error=error)

    def _finish(self, outcome: Outcome, *, error: CfAgentsError | None = None, heard_s: float | None = None) -> None:
        """The first outcome stays."""
        if self._tell_over is not None:
            self.stats.outcome, self.stats.error, self.stats.heard_s = outcome, error, heard_s
            self.stats.closed_s = self._clock()
            tell_over, self._tell_over = self._tell_over, None
            tell_over()

    def _check_writable(self) -> None:
        if self._heard is not None:
            raise StreamClosed("This stream was cancelled or closed: open another one with TTS.stream.")
        if self._error is not None:
            raise StreamClosed(f"This stream failed ({self._error}): open another one with TTS.stream.") from self._error
        if self._ended:
            raise StreamClosed("Text came after end(): open another stream with TTS.stream, or call end() later.")

    def _pump(self) -> None:
        """Do all that can be done without waiting for an event."""
        while True:
            if self._pieces and not self._pieces[0].spoken:
                self._deliver(self._pieces[0], b"", last=True)
            elif self._inlet.waiting and len(self._pieces) < MOST_PIECES:
                at = self._inlet.cut
                for segment in self._inlet.next(self._lead_s()):
                    self._speak(segment, at)
                    at += len(segment)
            else:
                break
        if self._ended and not self._pieces:
            self._release()
        self._wake()

    def _lead_s(self) -> float:
        """Seconds of speech ahead of the listener: made and not heard, and on the way."""
        coming_s = sum(max(0.0, piece.expected_s * self._rate.factor - piece.seconds) for piece in self._pieces)
        return self._made_s - self._playback.position_s(self._clock()) + coming_s

    def _speak(self, text: str, at: int) -> None:
        """The segment that begins at character `at` of what was written."""
        spoken = normalise(text)
        words = written_words(spoken)
        says = any(character.isalnum() for character in spoken.text)
        expected_s = sum(word.length_s + word.pause_s for word in words)
        piece = _Piece(self.stats.segments, at, words, expected_s, says, self._clock())
        self.stats.segments += 1
        self._pieces.append(piece)
        if says:
            seed = _segment_seed(self.seed, piece.index)
            params = _bounded(self._params, expected_s * max(1.0, self._rate.factor))
            self._session.submit(Segment(piece.index, spoken.text, params, seed))

    def _release(self) -> None:
        if not self._released:
            self._released = True
            self._session.close()
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _next_change(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    async def _next_change_or_need(self) -> None:
        """Wait for an event, or until so little is ahead of the listener that text is wanted which was held for a better cut.

        A writer who pauses brings no event, and the end of a sentence must not wait for the next one.
        """
        with anyio.move_on_after(self._inlet.held_for_s(self._lead_s())) as waiting:
            await self._next_change()
        if waiting.cancelled_caught:
            self._inlet.judge_again()
            self._pump()

    def _receive(self, event: Event) -> None:
        match event:
            case Closed():
                self._gone = True
                self._wake()
            case Failed(error) if not self._released:
                self._fail(error)
                self._release()
            case Audio() if not self._released:
                assert event.segment == self._pieces[0].index
                if event.block is not None:
                    self.stats.blocks.append(event.block)
                self._deliver(self._pieces[0], event.pcm, event.last, event.places or ())
                self._inlet.judge_again()
                self._pump()

    def _deliver(self, piece: _Piece, pcm: bytes, last: bool, places: Sequence[float] = ()) -> None:
        if self.stats.audible_s is None and (at := first_audible(pcm)) is not None:
            self.stats.audible_s = self._outlet.fed_s + at / self._outlet.rate_in
        if piece.clock is None:
            piece.clock = WordClock(piece.words, piece.offset, self._made_s, self._rate)
        if places:
            piece.clock.hear(places)
        sound = self._outlet.feed(pcm, last)
        if last and not sound and not piece.seconds:
            sound = self._outlet.feed(self._outlet.silence(SILENCE_S), last)
        if sound or last:
            seconds = self._outlet.seconds(sound)
            words = piece.clock.advance(seconds, last)
            self._ready.append(AudioChunk(sound, self.sample_rate, piece.index, words, self._made_s, last, self.encoding))
            self.stats.delivered.append(Delivered(self._clock(), seconds, piece.asked_s))
            piece.seconds += seconds
            self._made_s += seconds
        if last:
            self._pieces.popleft()


def _bounded(params: DecodeParams, expected_s: float) -> DecodeParams:
    if params.max_tokens is not None:
        return params
    times, more_s = RUNAWAY
    return replace(params, max_tokens=math.ceil(TOKEN_RATE * (times * expected_s + more_s)))


def _segment_seed(seed: int, index: int) -> int:
    """Segments of a stream do not repeat each other's random numbers; 63 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:8], "little") >> 1
