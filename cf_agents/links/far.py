"""A link to a scheduler in another process: what is open in it, and what becomes of that when the process dies.

    agent's event loop --- frames on a socket ---> the process that speaks (see `host`)
            ^                                        |
            +------- keeper's thread <---------------+

The keeper finds or starts the other process, reads what it sends, and turns to the next one when it dies. How that is done is
a `Far`'s business: `process` starts a child, `attached` goes through a socket path. Knows nothing of models.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import logging
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread

from cf_agents.errors import BackendUnavailable, Busy, CfAgentsError, StreamClosed, SynthesisFailed, WorkerDied
from cf_agents.links.base import Closed, Event, Failed, Segment, Session
from cf_agents.links.channel import Channel
from cf_agents.links.seats import Seat, Seats
from cf_agents.links.thread import Post, loop_post
from cf_agents.links.wire import (
    WIRE_VERSION,
    Close,
    Forget,
    Happened,
    Hello,
    Know,
    LoadFailed,
    Message,
    Open,
    Position,
    Progress,
    Ready,
    Submit,
    WireError,
)

if TYPE_CHECKING:
    from cf_agents.voice import Voice

logger = logging.getLogger(__name__)

KEPT_VOICES = 64
"""Voices that the other process holds on to for this one, those used last."""
STABLE_S = 30.0
"""A process that lived so long died of something new: its successor is wanted at once."""
BACKOFF_S = (0.5, 30.0)
"""Between deaths that follow each other: from so many seconds, doubled each time, to so many."""
TELLING_S = 0.02
"""For the cause of a death, before those who wait are told of it."""
GRACE_S = 5.0
"""For the other process to let go by itself; the step under way is among what it waits for."""


class Far(Protocol):
    """One life of the process that speaks, as seen from the keeper's thread; `abandon` and `kill` come from others."""

    def reach(self, tell: Callable[[str], None], closed: threading.Event) -> socket.socket | None:
        """A socket to it, however long that takes; None when `closed` was set meanwhile. Raises `CfAgentsError`, `OSError`."""
        ...

    def stranger(self) -> CfAgentsError:
        """What to raise when it speaks another version of the wire."""
        ...

    def abandon(self) -> None:
        """The link is closed, and it was never ready: it need not become so."""
        ...

    def kill(self) -> None:
        """The link is closed, and it does not let go by itself."""
        ...

    def cause(self, patience_s: float) -> str:
        """How it ended, in words that follow "the process that speaks"; waits so long to learn it."""
        ...

    def bury(self, patience_s: float) -> None:
        """Leave nothing of it that was this process's own."""
        ...


@dataclass(eq=False)
class _Line:
    """The connection to one far side, from before there is one to after its end, and what is open over it."""

    far: Far
    channel: Channel = field(default_factory=Channel)
    voices: OrderedDict[str, None] = field(default_factory=OrderedDict)
    sessions: dict[int, _FarSession] = field(default_factory=dict)
    greeted: bool = False
    ready_s: float | None = None
    error: CfAgentsError | None = None
    """What it said last, if it could not load, or why it is of no use."""

    def __post_init__(self) -> None:
        self.channel.send(Hello())


class FarLink:
    """Sessions of a scheduler in another process. See `Link`.

    far: makes one for each life of the other process. progress: told in words what it does, from the link's thread, the first
    time only. check: given what is said of what speaks there, raises `CfAgentsError` when that is not what was asked for.

    Use `wait` before anything else. When the other process dies, its sessions fail with `WorkerDied`, and the next one is
    turned to. Sessions may be opened meanwhile: they begin when it is ready. After deaths in a row there is a pause, in which
    `open` raises `Busy`.

    Raises `BackendUnavailable` on a system without Unix sockets.
    """

    def __init__(self, far: Callable[[], Far], progress: Callable[[str], None], check: Callable[[object], None]) -> None:
        check_sockets()
        self._make_far = far
        self._progress = progress
        self._check = check
        self._ready: Ready | None = None
        self._seats: Seats
        """For the sessions of this link, whatever process they are in; known with the first `Ready`."""
        self._settled = threading.Event()
        """The first one is ready, or there will be none."""
        self._numbers = itertools.count()
        self._digests: WeakKeyDictionary[Voice, str] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._line = _Line(far())
        self._retry_at = 0.0
        """When the next one is turned to, while there is none."""
        self._keeper = threading.Thread(target=self._keep, name="cf-agents-far-link", daemon=True)
        self._keeper.start()

    def wait(self, abandoned: threading.Event | None = None) -> None:
        """Block until the other process can speak. Raises what it could not load for, typed, and then the link is closed.

        Raises `StreamClosed` when the link is closed, or `abandoned` is set, before that.
        """
        while not self._settled.wait(0.05):
            if abandoned is not None and abandoned.is_set():
                self.close()
        if self._ready is None:
            self.close()
            raise self._line.error or StreamClosed("Loading was given up.")

    @property
    def sample_rate(self) -> int:
        """See `Link.sample_rate`."""
        return self._first.sample_rate

    @property
    def max_streams(self) -> int:
        """See `Link.max_streams`."""
        return self._first.max_streams

    @property
    def about(self) -> object:
        """What was first said of what speaks there."""
        return self._first.about

    @property
    def _first(self) -> Ready:
        assert self._ready is not None, "wait() comes first"
        return self._ready

    def open(self, voice: Voice, lead_s: float, receive: Callable[[Event], None]) -> Session:
        """See `Link.open`. Raises `Busy` in the pause after deaths in a row, too."""
        digest = self._digests.get(voice)
        data = b"" if digest is not None else voice.to_bytes()
        if digest is None:
            digest = self._digests[voice] = hashlib.sha256(data).hexdigest()
        post, number = loop_post(), next(self._numbers)
        with self._lock:
            if self._closed.is_set():
                raise StreamClosed("The TTS behind this stream is closed: open a new one with TTS.load.")
            pause_s = self._retry_at - time.monotonic()
            if pause_s > 0.0:
                raise Busy(f"The process that speaks died again; another is started in {pause_s:.1f} s.", pause_s)
            seat = self._seats.take()
            line = self._line
            if digest not in line.voices:
                line.channel.send(Know(digest, data or voice.to_bytes()))
                line.voices[digest] = None
            line.voices.move_to_end(digest)
            if len(line.voices) > KEPT_VOICES:
                line.channel.send(Forget(line.voices.popitem(last=False)[0]))
            session = line.sessions[number] = _FarSession(line, number, seat, post, receive)
            line.channel.send(Open(number, digest, lead_s))
        return session

    async def aclose(self) -> None:
        """See `Link.aclose`. Waits for the other side to let go, in a worker thread; a cancelled caller waits for it too."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """`aclose` for a thread without an event loop: blocks until the other side holds nothing of this one."""
        with self._lock:
            self._closed.set()
            line = self._line
        line.channel.end_sending()
        if line.ready_s is None:
            line.far.abandon()
            line.channel.end_receiving()
        self._keeper.join(GRACE_S)
        if self._keeper.is_alive():
            logger.warning("The process that speaks does not let go by itself.")
            line.far.kill()
            line.channel.end_receiving()
        self._keeper.join()

    # The keeper's thread.

    def _keep(self) -> None:
        deaths = 0
        while True:
            line = self._line
            self._run(line)
            if line.ready_s is not None and time.monotonic() - line.ready_s > STABLE_S:
                deaths = 0
            first_s, most_s = BACKOFF_S
            pause_s = min(most_s, first_s * 2 ** min(deaths - 1, 10)) if deaths else 0.0
            deaths += 1
            with self._lock:
                closing = self._closed.is_set()
                if closing or self._ready is None:
                    self._closed.set()
                    break
                self._line = _Line(self._make_far())
                self._retry_at = time.monotonic() + pause_s
            self._bury(line, closing)
            self._closed.wait(pause_s)
        self._bury(line, closing)
        self._settled.set()

    def _run(self, line: _Line) -> None:
        """Reach the other process, and read it to its end."""
        try:
            end = line.far.reach(self._tell, self._closed)
            if end is None:
                return
            line.channel.connect(end)
            if self._closed.is_set():
                line.far.abandon()
            while (message := line.channel.receive()) is not None:
                self._take(line, message)
        except CfAgentsError as error:
            line.error = error
        except WireError as error:
            # Another version's hello may be written in another way.
            unusable = BackendUnavailable(f"The process that speaks could not be understood: {error}.")
            line.error = unusable if line.greeted else line.far.stranger()
            logger.error("The process that speaks could not be understood.", exc_info=True)
        except OSError as error:
            line.error = BackendUnavailable(f"The process that speaks could not be used: {error}.")
            logger.error("The process that speaks could not be used.", exc_info=True)

    def _take(self, line: _Line, message: Message) -> None:
        match message:
            case Happened(number, event):
                session = line.sessions.get(number)
                if session is not None:
                    session.deliver(event)
            case Hello(version):
                if version != WIRE_VERSION:
                    raise line.far.stranger()
                line.greeted = True
            case Progress(text):
                self._tell(text)
            case Ready():
                self._check(message.about)
                line.ready_s = time.monotonic()
                if self._ready is None:
                    self._seats = Seats(message.max_streams, message.sample_rate)
                    self._ready = message
                self._settled.set()
            case LoadFailed(error):
                line.error = error

    def _tell(self, text: str) -> None:
        if self._ready is None:
            self._progress(text)

    def _bury(self, line: _Line, closing: bool) -> None:
        """Tell its sessions, and leave nothing of it. No session is opened over it any more."""
        if not closing:
            cause = (
                line.far.cause(TELLING_S if line.sessions else GRACE_S)
                if line.error is None
                else f"is of no use ({line.error})"
            )
            logger.warning("The process that speaks %s.", cause)
            line.error = line.error or WorkerDied(
                f"The process that speaks {cause}. Another one is started: open a new stream to go on."
            )
        reason = line.error or StreamClosed("The TTS behind this stream was closed while it spoke.")
        for session in list(line.sessions.values()):
            session.deliver(Failed(copy.copy(reason)))
            session.deliver(Closed())
        line.channel.close()
        line.far.bury(GRACE_S if closing else 0.0)


def check_sockets() -> None:
    """Raise `BackendUnavailable` where there are no Unix sockets."""
    if sys.platform == "win32":
        raise BackendUnavailable("Another process is reached over Unix sockets, which Windows lacks; use link='thread' here.")


class _FarSession:
    def __init__(self, line: _Line, number: int, seat: Seat, post: Post, receive: Callable[[Event], None]) -> None:
        self._line = line
        self._number = number
        self._seat = seat
        self._post = post
        self._receive = receive

    def submit(self, segment: Segment) -> None:
        self._seat.expect(segment.text, time.monotonic())
        if not self._line.channel.send(Submit(self._number, segment), self._number):
            failed = Failed(SynthesisFailed("The process that speaks stands still, and text piled up; open a new stream."))
            self._post(lambda: self._receive(failed))

    def report_position(self, seconds: float) -> None:
        self._line.channel.send(Position(self._number, seconds), self._number)

    def close(self) -> None:
        self._line.channel.send(Close(self._number))
        # Not before: whoever takes the seat is to find it free at the other end.
        self._seat.leave()

    def deliver(self, event: Event) -> None:
        """From the keeper's thread."""
        self._seat.heed(event)
        if isinstance(event, Closed):
            del self._line.sessions[self._number]
        try:
            self._post(lambda: self._receive(event))
        except RuntimeError:
            logger.debug("An event was dropped: its event loop is gone.")
            self.close()
