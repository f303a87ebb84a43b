"""What speaks in a process that others reach over sockets: built once, for one client or many.

    greet(channel)    hello, and what loading is at
    load()            meanwhile, once
    attend(channel)   ready, and then whatever the client asks, until it goes

Knows nothing of how a channel came about, nor of event loops.
"""

from __future__ import annotations

import importlib
import logging
import threading
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cf_agents.errors import BackendUnavailable, CfAgentsError
from cf_agents.links.channel import Channel
from cf_agents.links.guest import Guest
from cf_agents.links.shelf import Shelf
from cf_agents.links.thread import ThreadLink
from cf_agents.links.wire import About, Hello, LoadFailed, Progress, Ready
from cf_agents.voice import Voice

logger = logging.getLogger(__name__)

FLUSH_S = 1.0
"""For a client to take the last words."""


@dataclass(frozen=True)
class Speaker:
    """What a `Factory` built."""

    link: ThreadLink
    about: About
    """What `Ready` says of it."""
    voices: tuple[Voice, ...] = ()
    """Those that it has spoken with already, and need not prepare again."""


Factory: TypeAlias = Callable[[Mapping[str, object], Callable[[str], None]], Speaker]
"""Builds what speaks, from arguments that are plain data. Tells its progress. May raise anything."""


class Host:
    """Builds what `factory` ("module:function", a `Factory`) makes of the arguments, and lets clients speak with it.

    tell: told the progress too, on the thread that loads.
    """

    def __init__(
        self, factory: str, arguments: Mapping[str, object], tell: Callable[[str], None] = lambda message: None
    ) -> None:
        self._factory = factory
        self._arguments = arguments
        self._tell = tell
        self._lock = threading.Lock()
        self._told: str | None = None
        self._greeted: list[Channel] = []
        """Those that wait."""
        self._settled = threading.Event()
        self._shelf = Shelf()
        self.speaker: Speaker | None = None
        self.error: CfAgentsError | None = None
        """Why there is none."""

    def greet(self, channel: Channel) -> bool:
        """Take a client's hello; from then on it hears of progress. False when it is none of ours. Ours was sent before."""
        if channel.receive() != Hello():
            return False
        with self._lock:
            self._greeted.append(channel)
            if self._told is not None:
                channel.send(Progress(self._told))
        return True

    def load(self) -> bool:
        """Build what speaks. Blocks; whether there is something. Every client hears of it, in `attend`."""
        try:
            module, _, name = self._factory.partition(":")
            factory = typing.cast(Factory, vars(importlib.import_module(module))[name])
            self.speaker = factory(self._arguments, self._progress)
            for voice in self.speaker.voices:
                self._shelf.keep(voice)
        except Exception as error:
            self.error = _typed(error)
        finally:
            self._settled.set()
        return self.error is None

    def attend(self, channel: Channel) -> None:
        """Wait for what speaks, and speak for a client that was greeted, until it goes.

        Raises `WireError` for a client that does not keep to the format, and `StreamClosed` when the scheduler has stopped by
        itself: this process is of no more use.
        """
        self._settled.wait()
        with self._lock:
            self._greeted.remove(channel)
        if self.speaker is None:
            channel.send(LoadFailed(self.error or BackendUnavailable("The process that speaks was ended while it loaded.")))
            channel.flush(FLUSH_S)
            return
        link = self.speaker.link
        channel.send(Ready(link.sample_rate, link.max_streams, self.speaker.about))
        Guest(channel, link, self._shelf).serve()

    def close(self) -> None:
        """End every session; clients hear of it, and nothing is built any more. Blocks for the step under way."""
        self._settled.set()
        if self.speaker is not None:
            self.speaker.link.close()

    def _progress(self, message: str) -> None:
        self._tell(message)
        with self._lock:
            self._told = message
            for channel in self._greeted:
                channel.send(Progress(message))


def _typed(error: Exception) -> CfAgentsError:
    if isinstance(error, CfAgentsError):
        return error
    logger.error("Loading failed.", exc_info=error)
    return BackendUnavailable(
        f"The model could not be loaded in its process: {type(error).__name__}: {error}. "
        "The traceback is on that process's standard error; link='thread' loads it in this one."
    )
