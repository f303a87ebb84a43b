"""A link to a scheduler in this process, and the only file where threads meet the event loop.

Knows asyncio and trio just as far as handing a call from a thread to the loop goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic

import anyio
import anyio.to_thread

from cf_agents.errors import CfAgentsError, StreamClosed
from cf_agents.links.base import Closed, Event, Failed, Segment, Session
from cf_agents.links.seats import Seat, Seats
from cf_agents.scheduler import Scheduler
from cf_agents.text_ids import TextIds
from cf_agents.utterance import D, S, Speech, Utterance, V

if TYPE_CHECKING:
    from cf_agents.voice import Voice

logger = logging.getLogger(__name__)

Post = Callable[[Callable[[], None]], object]


class ThreadLink(Generic[D, V, S]):
    """Sessions of a scheduler whose thread runs in this process. The link owns the scheduler and closes it.

    tokenise: text in spoken form to what the decoder takes; raises `TextError` for what the model cannot take.
    max_streams: sessions that may be open at once.
    """

    def __init__(
        self, scheduler: Scheduler[D, V, S], tokenise: Callable[[str], TextIds], sample_rate: int, max_streams: int
    ) -> None:
        self.sample_rate = sample_rate
        self.max_streams = max_streams
        self._seats = Seats(max_streams, sample_rate)
        self._scheduler = scheduler
        self._tokenise = tokenise
        scheduler.start()

    def open(self, voice: Voice, lead_s: float, receive: Callable[[Event], None]) -> Session:
        """See `Link.open`. Called on the event loop."""
        return self.open_from(loop_post(), voice, lead_s, receive)

    def open_from(self, post: Post, voice: Voice, lead_s: float, receive: Callable[[Event], None]) -> Session:
        """`open` for whoever is on no event loop: `post` carries each call of `receive`, from the scheduler's thread."""

        seat = self._seats.take()

        def deliver(event: Event) -> None:
            seat.heed(event)
            try:
                post(lambda: receive(event))
            except RuntimeError:
                # The loop ended without closing its streams; nobody is left to hear of it.
                logger.debug("An event was dropped: its event loop is gone.")
                self._abandon(opened)

        try:
            speech = self._scheduler.open(voice, lead_s, deliver)
        except StreamClosed:
            seat.leave()
            raise
        # The speech has `deliver`: the way back is weak, so that a voice is let go of as soon as its last speech is over.
        opened = weakref.ref(speech)
        return _ThreadSession(self._scheduler, speech, seat, self._tokenise, post, receive)

    async def aclose(self) -> None:
        """See `Link.aclose`. Waits for the step under way, in a worker thread; a cancelled caller waits for it too."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """`aclose` for a thread without an event loop: blocks until the scheduler's thread has ended."""
        self._scheduler.close()

    def _abandon(self, opened: weakref.ref[Speech[D, S]]) -> None:
        speech = opened()
        if speech is not None:
            with contextlib.suppress(StreamClosed):
                self._scheduler.cancel(speech)


class _ThreadSession(Generic[D, V, S]):
    def __init__(
        self,
        scheduler: Scheduler[D, V, S],
        speech: Speech[D, S],
        seat: Seat,
        tokenise: Callable[[str], TextIds],
        post: Post,
        receive: Callable[[Event], None],
    ) -> None:
        self._scheduler = scheduler
        self._speech = speech
        self._seat = seat
        self._tokenise = tokenise
        self._post = post
        self._receive = receive

    def submit(self, segment: Segment) -> None:
        now = time.monotonic()
        self._seat.expect(segment.text, now)
        try:
            text = self._tokenise(segment.text)
            self._scheduler.submit(Utterance(self._speech, segment.index, text, segment.params, segment.seed, now))
        except CfAgentsError as error:
            # Through the loop, not at once: `submit` promises that nothing comes back while it runs.
            failed = Failed(error)
            self._post(lambda: self._receive(failed))

    def report_position(self, seconds: float) -> None:
        with contextlib.suppress(StreamClosed):
            self._scheduler.report_position(self._speech, seconds)

    def close(self) -> None:
        try:
            self._scheduler.cancel(self._speech)
        except StreamClosed:
            self._post(lambda: self._receive(Closed()))
        # Not before: whoever takes the seat finds its rows free.
        self._seat.leave()


def loop_post() -> Post:
    """A function that runs a call soon on the event loop this was called from, asyncio's or trio's, from any thread.

    It raises `RuntimeError` once that loop is gone. Raises `RuntimeError` outside an event loop.
    """
    if "trio" in sys.modules:
        import trio

        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            pass
        else:
            return trio.lowlevel.current_trio_token().run_sync_soon
    return asyncio.get_running_loop().call_soon_threadsafe
