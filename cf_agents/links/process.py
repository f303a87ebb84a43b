"""A link to a scheduler in a child process, so that neither has to share an interpreter with the other.

    agent's event loop --- frames on a socket ---> worker (see `worker`): scheduler, torch
            ^                                        |
            +------- keeper's thread <---------------+

The keeper starts the worker, reads what it sends, and starts another when it dies. It has to be one thread that lives as long
as the link: Linux kills a child that asked to die with its parent when the *thread* that started it ends. Knows nothing of
models.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread

from cf_agents.errors import BackendUnavailable, Busy, CfAgentsError, StreamClosed, SynthesisFailed, WorkerDied
from cf_agents.links.base import Closed, Event, Failed, Segment, Session
from cf_agents.links.channel import Channel
from cf_agents.links.places import Place, Places
from cf_agents.links.thread import Post, loop_post
from cf_agents.links.wire import (
    WIRE_VERSION,
    Close,
    Forget,
    Happened,
    Hello,
    Know,
    Load,
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
"""Voices that the worker holds on to, those used last."""
STABLE_S = 30.0
"""A worker that lived so long died of something new: its successor is started at once."""
BACKOFF_S = (0.5, 30.0)
"""Between deaths that follow each other: from so many seconds, doubled each time, to so many."""
TELLING_S = 0.02
"""For its exit code, before its streams are told that it is dead."""
GRACE_S = 5.0
"""For a worker to end by itself; the step under way is among what it waits for."""

# The worker finds the package where this process found it, and nothing in the current folder instead.
_START = "import sys; sys.path[:] = sys.argv.pop().split('\\n'); from cf_agents.links.worker import main; main()"


@dataclass(eq=False)
class _Worker:
    """One child process, from before it is started to after its end, and what is open in it."""

    channel: Channel
    far: socket.socket
    """The child's end; here until the child has it."""
    voices: OrderedDict[str, None] = field(default_factory=OrderedDict)
    sessions: dict[int, _ProcessSession] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    ready_s: float | None = None
    error: CfAgentsError | None = None
    """What it said last, if it could not load."""

    @classmethod
    def prepare(cls, load: Load) -> _Worker:
        near, far = socket.socketpair()
        worker = cls(Channel(near), far)
        worker.channel.send(Hello())
        worker.channel.send(load)
        return worker


class ProcessLink:
    """Sessions of a scheduler in a child process, which the link starts, keeps and ends. See `Link`.

    factory: "module:function", a `worker.Factory`, called in the child with `arguments` (plain data). progress: told in words
    what it does, from the link's thread, the first time only.

    Use `wait` before anything else. When the worker dies, its sessions fail with `WorkerDied`, and another is started. Sessions
    may be opened meanwhile: they begin when it is ready. After deaths in a row there is a pause, in which `open` raises `Busy`.
    """

    def __init__(self, factory: str, arguments: Mapping[str, object], progress: Callable[[str], None]) -> None:
        if sys.platform == "win32":
            raise BackendUnavailable("A process link needs a system with Unix sockets; use link='thread' here.")
        self._load = Load(factory, dict(arguments))
        self._progress = progress
        self._ready: Ready | None = None
        self._places: Places
        """Those of every worker together; known with the first `Ready`."""
        self._settled = threading.Event()
        """The first worker is ready, or there will be none."""
        self._numbers = itertools.count()
        self._digests: WeakKeyDictionary[Voice, str] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._worker = _Worker.prepare(self._load)
        self._retry_at = 0.0
        """When the next worker is started, while there is none."""
        self._keeper = threading.Thread(target=self._keep, name="cf-agents-process-link", daemon=True)
        self._keeper.start()

    def wait(self, abandoned: threading.Event | None = None) -> None:
        """Block until the worker can speak. Raises what it could not load for, typed, and then the link is closed.

        Raises `StreamClosed` when the link is closed, or `abandoned` is set, before that.
        """
        while not self._settled.wait(0.05):
            if abandoned is not None and abandoned.is_set():
                self.close()
        if self._ready is None:
            self.close()
            raise self._worker.error or StreamClosed("Loading was given up.")

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
        """What the factory says of what it built."""
        return self._first.about

    @property
    def _first(self) -> Ready:
        assert self._ready is not None, "wait() comes first"
        return self._ready

    @property
    def pid(self) -> int | None:
        """The worker's process, None while there is none."""
        process = self._worker.process
        return process.pid if process is not None and process.returncode is None else None

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
            place = self._places.take()
            worker = self._worker
            if digest not in worker.voices:
                worker.channel.send(Know(digest, data or voice.to_bytes()))
                worker.voices[digest] = None
            worker.voices.move_to_end(digest)
            if len(worker.voices) > KEPT_VOICES:
                worker.channel.send(Forget(worker.voices.popitem(last=False)[0]))
            session = worker.sessions[number] = _ProcessSession(worker, number, place, post, receive)
            worker.channel.send(Open(number, digest, lead_s))
        return session

    async def aclose(self) -> None:
        """See `Link.aclose`. Waits for the worker to end, in a worker thread; a cancelled caller waits for it too."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """`aclose` for a thread without an event loop: blocks until the child process has ended."""
        with self._lock:
            self._closed.set()
            worker = self._worker
        worker.channel.end_sending()
        if worker.ready_s is None and worker.process is not None:
            worker.process.terminate()
        self._keeper.join(GRACE_S)
        if self._keeper.is_alive() and worker.process is not None:
            logger.warning("The worker does not end by itself; it is killed.")
            worker.process.kill()
        self._keeper.join()

    # The keeper's thread.

    def _keep(self) -> None:
        deaths = 0
        while True:
            worker = self._worker
            self._run(worker)
            if worker.ready_s is not None and time.monotonic() - worker.ready_s > STABLE_S:
                deaths = 0
            first_s, most_s = BACKOFF_S
            pause_s = min(most_s, first_s * 2 ** (deaths - 1)) if deaths else 0.0
            deaths += 1
            with self._lock:
                closing = self._closed.is_set()
                if closing or self._ready is None:
                    self._closed.set()
                    break
                self._worker = _Worker.prepare(self._load)
                self._retry_at = time.monotonic() + pause_s
            self._bury(worker, closing)
            self._closed.wait(pause_s)
        self._bury(worker, closing)
        self._settled.set()

    def _run(self, worker: _Worker) -> None:
        """Start it and read it to its end."""
        try:
            if not self._closed.is_set():
                worker.process = _start(worker.far)
            worker.far.close()
            if self._closed.is_set() and worker.process is not None:
                worker.process.terminate()
            while (message := worker.channel.receive()) is not None:
                self._take(worker, message)
        except (OSError, WireError) as error:
            worker.error = BackendUnavailable(f"The process that speaks could not be used: {error}.")
            logger.error("The worker could not be used.", exc_info=True)
        finally:
            worker.far.close()

    def _take(self, worker: _Worker, message: Message) -> None:
        match message:
            case Happened(number, event):
                session = worker.sessions.get(number)
                if session is not None:
                    session.deliver(event)
            case Hello(version):
                if version != WIRE_VERSION:
                    raise WireError("cf_agents was changed on disk while this process ran; start it again")
            case Progress(text):
                if self._ready is None:
                    self._progress(text)
            case Ready():
                worker.ready_s = time.monotonic()
                if self._ready is None:
                    self._places = Places(message.max_streams, message.sample_rate)
                    self._ready = message
                self._settled.set()
            case LoadFailed(error):
                worker.error = error

    def _bury(self, worker: _Worker, closing: bool) -> None:
        """Tell its sessions, and leave nothing of it. No session is opened in it any more."""
        process = worker.process
        if not closing:
            cause = _cause(_exit_code(process, TELLING_S))
            logger.warning("The worker %s.", cause)
            worker.error = worker.error or WorkerDied(
                f"The process that speaks {cause}. Another one is started: open a new stream to go on."
            )
        reason = worker.error or StreamClosed("The TTS behind this stream was closed while it spoke.")
        for session in list(worker.sessions.values()):
            session.deliver(Failed(copy.copy(reason)))
            session.deliver(Closed())
        worker.channel.close()
        if process is not None and _exit_code(process, GRACE_S if closing else 0.0) is None:
            process.kill()
            process.wait()


class _ProcessSession:
    def __init__(self, worker: _Worker, number: int, place: Place, post: Post, receive: Callable[[Event], None]) -> None:
        self._worker = worker
        self._number = number
        self._place = place
        self._post = post
        self._receive = receive

    def submit(self, segment: Segment) -> None:
        self._place.expect(segment.text, time.monotonic())
        if not self._worker.channel.send(Submit(self._number, segment), self._number):
            failed = Failed(SynthesisFailed("The process that speaks stands still, and text piled up; open a new stream."))
            self._post(lambda: self._receive(failed))

    def report_position(self, seconds: float) -> None:
        self._worker.channel.send(Position(self._number, seconds), self._number)

    def close(self) -> None:
        self._worker.channel.send(Close(self._number))
        # Not before: whoever takes the place is to find it free at the other end.
        self._place.leave()

    def deliver(self, event: Event) -> None:
        """From the keeper's thread."""
        self._place.heed(event)
        if isinstance(event, Closed):
            del self._worker.sessions[self._number]
        try:
            self._post(lambda: self._receive(event))
        except RuntimeError:
            logger.debug("An event was dropped: its event loop is gone.")
            self.close()


def _start(end: socket.socket) -> subprocess.Popen[bytes]:
    places = "\n".join(str(place) for place in sys.path)
    command = [sys.executable, "-P", "-c", _START, str(end.fileno()), str(os.getpid()), places]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(end.fileno(),))


def _exit_code(process: subprocess.Popen[bytes] | None, patience_s: float) -> int | None:
    if process is None:
        return None
    try:
        return process.wait(patience_s)
    except subprocess.TimeoutExpired:
        return None


def _cause(code: int | None) -> str:
    if code is None:
        return "closed its connection"
    if code < 0:
        return f"was killed by signal {-code}"
    return f"ended with exit code {code}"
