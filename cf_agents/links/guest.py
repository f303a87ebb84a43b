"""One client of a process that speaks: what it asks for, what it has open, and how much of either it may have.

    the thread of `serve`   reads the channel: opens, submits, closes
    scheduler's thread      makes audio and sends it; never waits for a reader

Knows nothing of event loops.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from dataclasses import dataclass

from cf_agents.errors import Busy, CfAgentsError, StreamClosed, SynthesisFailed, TextError, VoiceError
from cf_agents.links.base import Audio, Closed, Event, Failed, Segment, Session
from cf_agents.links.channel import Channel
from cf_agents.links.shelf import Shelf
from cf_agents.links.thread import ThreadLink
from cf_agents.links.wire import Close, Forget, Happened, Know, Message, Open, Position, Submit, WireError
from cf_agents.voice import Voice

MOST_SESSIONS = 512
MOST_SEGMENTS = 64
"""Of a session, that wait. A `Stream` has four under way."""
MOST_CHARACTERS = 100_000
"""Of a segment. No model takes as many."""
MOST_VOICE_BYTES = 512 * 2**20
MESSAGES_PER_S = 5000.0
"""A client that sends more for long is read more slowly, so that it does not take the interpreter from the scheduler."""
MESSAGES_AT_ONCE = 5000.0
GRACE_S = 5.0
"""For rows to be freed when the client has gone; the step under way is waited for."""


@dataclass(eq=False)
class _Speech:
    """A session of this client. `session` is there while it is open: not longer, for it leads back here."""

    session: Session | None = None
    submitted: int = 0
    spoken: int = 0
    """Segments, counted by the scheduler's thread."""
    failed: bool = False


class Guest:
    """The sessions of one channel, on a thread link. Ends when the channel does, and then leaves nothing."""

    def __init__(self, channel: Channel, link: ThreadLink, shelf: Shelf) -> None:
        self._channel = channel
        self._link = link
        self._shelf = shelf
        self._voices: dict[str, tuple[Voice, int]] = {}
        self._speeches: dict[int, _Speech] = {}
        self._unclosed = 0
        self._changed = threading.Condition()
        self._pace = _Pace(MESSAGES_PER_S, MESSAGES_AT_ONCE)

    def serve(self) -> None:
        """Carry out what comes, until nothing more does; then end every session and wait until its rows are free.

        Raises `WireError` for what makes no sense, and `StreamClosed` when the scheduler has stopped.
        """
        try:
            while (message := self._channel.receive()) is not None:
                self._pace.wait()
                self._take(message)
        finally:
            for number, speech in self._speeches.items():
                # Where it is this side that ends, the client is there to hear of it.
                self._fail(number, speech, StreamClosed("The TTS behind this stream was closed while it spoke."))
            with self._changed:
                self._changed.wait_for(lambda: not self._unclosed, GRACE_S)

    def _take(self, message: Message) -> None:
        match message:
            case Know(digest, data):
                self._know(digest, data)
            case Forget(digest) if digest in self._voices:
                del self._voices[digest]
            case Open(number, digest, lead_s) if number not in self._speeches and digest in self._voices and lead_s > 0.0:
                self._open(number, self._voices[digest][0], lead_s)
            case Submit(number, segment):
                self._submit(number, segment)
            case Position(number, seconds) if math.isfinite(seconds):
                if (session := self._session(number)) is not None:
                    session.report_position(seconds)
            case Close(number):
                if (session := self._session(number)) is not None:
                    session.close()
                self._speeches.pop(number, None)
            case _:
                raise WireError(f"a {type(message).__name__} that makes no sense")

    def _session(self, number: int) -> Session | None:
        speech = self._speeches.get(number)
        return None if speech is None else speech.session

    def _know(self, digest: str, data: bytes) -> None:
        if sum(size for _, size in self._voices.values()) + len(data) > MOST_VOICE_BYTES:
            raise WireError(f"more than {MOST_VOICE_BYTES} bytes of voices")
        if hashlib.sha256(data).hexdigest() != digest:
            raise WireError("a voice that is not what its name says")
        try:
            self._voices[digest] = self._shelf.take(data), len(data)
        except VoiceError as error:
            raise WireError(f"no voice: {error}") from error

    def _open(self, number: int, voice: Voice, lead_s: float) -> None:
        speech = _Speech()

        def deliver(event: Event) -> None:
            match event:
                case Audio():
                    speech.spoken += event.last
                    if not speech.failed and not self._channel.send(Happened(number, event), number):
                        slow = SynthesisFailed("The reader of this stream stood still while audio piled up; it was stopped.")
                        self._fail(number, speech, slow)
                case Failed() if not speech.failed:
                    speech.failed = True
                    self._channel.send(Happened(number, event))
                case Closed():
                    speech.session = None
                    self._channel.send(Happened(number, event))
                    with self._changed:
                        self._unclosed -= 1
                        self._changed.notify_all()

        with self._changed:
            self._unclosed += 1
        try:
            if len(self._speeches) == MOST_SESSIONS:
                raise Busy(f"This process has {MOST_SESSIONS} streams open; close one, or come back later.", 1.0)
            speech.session = self._link.open_from(lambda call: call(), voice, lead_s, deliver)
        except CfAgentsError as error:
            deliver(Failed(error))
            deliver(Closed())
            if isinstance(error, StreamClosed):
                raise
        else:
            self._speeches[number] = speech

    def _submit(self, number: int, segment: Segment) -> None:
        speech, session = self._speeches.get(number), self._session(number)
        if speech is None or session is None:
            return
        speech.submitted += 1
        if speech.submitted - speech.spoken > MOST_SEGMENTS:
            self._fail(number, speech, SynthesisFailed(f"More than {MOST_SEGMENTS} segments of this stream wait to be spoken."))
        elif len(segment.text) > MOST_CHARACTERS:
            self._fail(number, speech, TextError(f"A segment has {len(segment.text)} characters; split the text."))
        else:
            session.submit(segment)

    def _fail(self, number: int, speech: _Speech, error: CfAgentsError) -> None:
        if not speech.failed:
            speech.failed = True
            self._channel.send(Happened(number, Failed(error)))
        if (session := speech.session) is not None:
            session.close()


class _Pace:
    """Lets `at_once` through at once, and `per_s` for long."""

    def __init__(self, per_s: float, at_once: float) -> None:
        self._per_s = per_s
        self._at_once = self._room = at_once
        self._then = time.monotonic()

    def wait(self) -> None:
        now = time.monotonic()
        self._room = min(self._at_once, self._room + (now - self._then) * self._per_s) - 1.0
        self._then = now
        if self._room < 0.0:
            time.sleep(-self._room / self._per_s)
