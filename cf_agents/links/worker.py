"""What runs in the child process of a process link: a thread link, at the far end of a socket.

    main thread        reads the socket: opens, submits, closes
    scheduler thread   makes audio and sends it; never waits for a reader

It goes when its socket ends, at SIGTERM, and with its parent. Started by `process.ProcessLink`; knows nothing of event loops.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import signal
import socket
import sys
import typing
from collections.abc import Callable, Mapping
from typing import TypeAlias

from cf_agents.errors import BackendUnavailable, CfAgentsError, StreamClosed, SynthesisFailed
from cf_agents.links.base import Audio, Closed, Event, Failed, Session
from cf_agents.links.channel import Channel
from cf_agents.links.thread import ThreadLink
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
)
from cf_agents.voice import Voice

logger = logging.getLogger(__name__)

Factory: TypeAlias = Callable[[Mapping[str, object], Callable[[str], None]], tuple[ThreadLink, object]]
"""Builds what speaks, from the arguments of `Load`, and says about it what `Ready` should carry. Tells its progress."""

MODEL_FACTORY = "cf_agents.links.worker:load_model"

_FLUSH_S = 1.0
_PR_SET_PDEATHSIG = 1


def load_model(arguments: Mapping[str, object], progress: Callable[[str], None]) -> tuple[ThreadLink, object]:
    """The `Factory` of a checkpoint. arguments: folder, max_streams, and those of `backends.choose`. About: the choice."""
    progress("Importing torch")
    from cf_agents.backends import choose
    from cf_agents.checkpoint import Checkpoint
    from cf_agents.loading import thread_link

    match arguments["choose"], arguments["folder"], arguments["max_streams"]:
        case dict(asked), str(folder), int(max_streams):
            choice = choose(**asked)
            return thread_link(Checkpoint.open(folder), choice, max_streams, progress), choice
    raise AssertionError(f"no arguments of a model: {arguments}")


class Worker:
    """The sessions of one channel, on one thread link. Ends when the channel does."""

    def __init__(self, channel: Channel, link: ThreadLink) -> None:
        self._channel = channel
        self._link = link
        self._voices: dict[str, Voice] = {}
        self._sessions: dict[int, Session] = {}

    def serve(self) -> None:
        """Carry out what comes, until nothing more does.

        Raises `StreamClosed` when the scheduler has stopped by itself: this process is of no more use.
        """
        while (message := self._channel.receive()) is not None:
            self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case Know(digest, data):
                self._voices[digest] = Voice.from_bytes(data)
            case Forget(digest):
                del self._voices[digest]
            case Open(number, digest, lead_s):
                self._open(number, self._voices[digest], lead_s)
            case Submit(number, segment) if number in self._sessions:
                self._sessions[number].submit(segment)
            case Position(number, seconds) if number in self._sessions:
                self._sessions[number].report_position(seconds)
            case Close(number) if (session := self._sessions.pop(number, None)) is not None:
                session.close()

    def _open(self, number: int, voice: Voice, lead_s: float) -> None:
        failed = False

        def deliver(event: Event) -> None:
            nonlocal failed
            happened = Happened(number, event)
            if isinstance(event, Closed):
                self._channel.send(happened)
            elif not failed and not self._channel.send(happened, number if isinstance(event, Audio) else None):
                failed = True
                slow = SynthesisFailed("The reader of this stream stood still while audio piled up; it was stopped.")
                self._channel.send(Happened(number, Failed(slow)))
                session.close()

        try:
            session = self._link.open_from(lambda call: call(), voice, lead_s, deliver)
        except StreamClosed:
            raise
        except CfAgentsError as error:
            deliver(Failed(error))
            deliver(Closed())
        else:
            self._sessions[number] = session


def main() -> None:
    """The process. Its arguments: the number of a connected socket that it has inherited, and the id of its parent."""
    end, parent = (int(argument) for argument in sys.argv[1:])
    # Ctrl-C reaches every process of a terminal; the agent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(end, False)
    die_with(parent)
    run(Channel(socket.socket(fileno=end)))


def run(channel: Channel) -> None:
    """Load, serve, and leave nothing."""
    channel.send(Hello())
    hello, load = channel.receive(), channel.receive()
    if hello != Hello(WIRE_VERSION) or not isinstance(load, Load):
        return

    def progress(message: str) -> None:
        channel.send(Progress(message))

    try:
        module, _, name = load.factory.partition(":")
        factory = typing.cast(Factory, vars(importlib.import_module(module))[name])
        link, about = factory(load.arguments, progress)
    except Exception as error:
        channel.send(LoadFailed(_typed(error)))
        channel.flush(_FLUSH_S)
        return
    try:
        # Until here SIGTERM ends the process as it is: there is nothing to put away.
        signal.signal(signal.SIGTERM, lambda *_: channel.end_receiving())
        channel.send(Ready(link.sample_rate, link.max_streams, about))
        Worker(channel, link).serve()
    finally:
        link.close()
        channel.flush(_FLUSH_S)
        channel.close()


def die_with(parent: int) -> None:
    """On Linux: be killed when the thread that started this process ends. Elsewhere the end of the socket has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("The process that started this worker is gone.")


def _typed(error: Exception) -> CfAgentsError:
    if isinstance(error, CfAgentsError):
        return error
    logger.error("Loading failed.", exc_info=error)
    return BackendUnavailable(
        f"The model could not be loaded in its process: {type(error).__name__}: {error}. "
        "The traceback is on standard error; link='thread' loads it in this process."
    )
