"""The speech of one audio context: core streams one after another, and where the listener is in them.

    write --> Stream (of the settings at that time) --> chunks --> async for
                     another one when the settings change

Knows nothing of frames, pipelines or models.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from cf_agents import AudioChunk, Busy, CfAgentsError, Stream, StreamClosed
from cf_agents.playback import Playback

PATIENCE_S = 5.0
"""A full house ends a reply only when it stays full for so long."""
LOOK_S = 0.5
"""After so long at most it is looked at again."""


@dataclass(eq=False)
class _Part:
    """What is said with the settings of one time. Its text is kept: a house may turn out to be full once it was given it."""

    open: Callable[[], Stream]
    text: str = ""
    ended: bool = False
    stream: Stream | None = None
    """None until there is room."""


class Turn:
    """Written to and cancelled by the service, iterated by one task, which closes it. Times in seconds.

    choose: what opens a core stream with the settings of the moment it is called in.
    """

    def __init__(self, context_id: str, choose: Callable[[], Callable[[], Stream]], interruptible: bool = True) -> None:
        self.context_id = context_id
        self.interruptible = interruptible
        self.text = ""
        """All that was written, for the usage metric."""
        self.made_s = 0.0
        self.spoken = False
        """All chunks have been iterated, or nothing more comes of it."""
        self.cancelled = False
        self.ended = asyncio.Event()
        """No more text comes."""
        self._choose = choose
        self._parts: deque[_Part] = deque()
        """Those that are not spoken yet."""
        self._opened: list[Stream] = []
        self._changed = asyncio.Event()
        self._busy: Busy | None = None
        """There was no room for the first part that has no stream."""
        self._patience_s = PATIENCE_S
        self._error: CfAgentsError | None = None
        self._playback: Playback | None = None
        self._stream_at_s = 0.0
        """Where the audio of the stream that is read began."""
        self._zero_s = 0.0
        """Where the audio begins that `begin` speaks of."""
        self._late_s = 0.0

    def write(self, text: str) -> None:
        """Say this next. Never blocks and never raises: what goes wrong is raised from the iteration."""
        if self.ended.is_set() or self._error is not None:
            return
        self.text += text
        if not self._parts or self._parts[-1].ended:
            self._parts.append(_Part(self._choose()))
            self._changed.set()
        part = self._parts[-1]
        part.text += text
        if part.stream is None:
            self._open_parts()
        else:
            # A stream that has failed takes no text; who iterates it hears why.
            with contextlib.suppress(StreamClosed):
                part.stream.write(text)

    def renew(self) -> None:
        """Say what was written as it was meant; what comes now goes to a new stream, whose audio follows."""
        if self._parts:
            self._end(self._parts[-1])

    def end(self) -> None:
        """No more text comes: the iteration ends after the last chunk. Ending twice is fine."""
        self.renew()
        self.ended.set()
        self._changed.set()

    def cancel(self) -> None:
        """Stop: nothing is given after this, and the decoder's rows are freed. Cancelling twice is fine."""
        self.cancelled = True
        for stream in self._opened:
            stream.cancel_nowait()
        self._parts.clear()
        self.ended.set()
        self._changed.set()

    async def aclose(self) -> None:
        """Cancel, and wait until the far side holds nothing of it any more."""
        self.cancel()
        self.spoken = True
        for stream in self._opened:
            await stream.aclose()

    async def __aiter__(self) -> AsyncIterator[AudioChunk]:
        """The chunks, in order. Raises what ended it, typed. Nothing follows `cancel`."""
        while not self.cancelled:
            if self._error is not None and not (self._parts and self._parts[0].stream):
                raise self._error
            if self._parts and (stream := self._parts[0].stream):
                try:
                    async for chunk in stream:
                        yield chunk
                except Busy as busy:
                    # Nothing of it was heard, or it would have had room. Those behind it wait for it.
                    self._busy = busy
                    self._parts[0].stream = None
                except CfAgentsError as error:
                    self._error = error
                    raise
                else:
                    self._stream_at_s = self.made_s
                    if self._parts:
                        self._parts.popleft()
            elif self._busy is not None:
                await self._wait_for_room(self._busy)
            elif self.ended.is_set():
                break
            else:
                self._changed.clear()
                await self._changed.wait()
        self.spoken = True

    async def _wait_for_room(self, busy: Busy) -> None:
        if self._patience_s <= 0.0:
            self._error = busy
            raise busy
        wait_s = min(busy.retry_after_s, LOOK_S, self._patience_s)
        self._patience_s -= wait_s
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), wait_s)
        self._busy = None
        self._open_parts()

    def _open_parts(self) -> None:
        """Give every part a stream, in order: the last must not take the room that the first one waits for."""
        for part in self._parts:
            if self._busy is not None or self._error is not None:
                return
            if part.stream is None:
                self._open(part)

    def _open(self, part: _Part) -> None:
        try:
            part.stream = part.open()
        except Busy as busy:
            self._busy = busy
        except CfAgentsError as error:
            self._error = error
        else:
            self._opened.append(part.stream)
            part.stream.write(part.text)
            if part.ended:
                part.stream.end()
        self._changed.set()

    def _end(self, part: _Part) -> None:
        part.ended = True
        if part.stream is not None:
            with contextlib.suppress(StreamClosed):
                part.stream.end()

    # Where the listener is.

    def begin(self, at_s: float) -> None:
        """The listener begins to hear at `at_s`, a time of the pipeline's clock, what has not been played to it."""
        self._playback = Playback()
        self._playback.add(self.made_s - self._zero_s, at_s)
        if self._parts and (stream := self._parts[0].stream):
            stream.report_position(self._zero_s - self._stream_at_s)

    def take(self, chunk: AudioChunk, now_s: float) -> list[tuple[str, float]]:
        """Count a chunk as on its way to the listener; its words, each with the seconds from `begin` to when it is heard.

        A listener who has run dry hears the rest so much later.
        """
        if self._playback is not None:
            dry_at_s = self._playback.dry_at()
            if dry_at_s is not None and dry_at_s < now_s:
                self._late_s += now_s - dry_at_s
            self._playback.add(chunk.duration_s, now_s)
        shift_s = self.made_s - chunk.start_s - self._zero_s + self._late_s
        self.made_s += chunk.duration_s
        return [(word.text.strip(), word.start_s + shift_s) for word in chunk.words]

    def dry_at_s(self) -> float:
        """When the listener has heard all that was taken, by the pipeline's clock; 0 before `begin`."""
        return (self._playback.dry_at() or 0.0) if self._playback is not None else 0.0

    def pause(self) -> None:
        """Pipecat closed the context while text was still to come; what comes begins anew."""
        self._playback = None
        self._zero_s, self._late_s = self.made_s, 0.0
