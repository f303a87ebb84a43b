"""A model that is opened once, off the event loop, by whoever asks first. Knows nothing of LiveKit.

Opening runs in a thread with a loop of its own, which ends when the model is open: it may begin before there is any event loop
(LiveKit prepares a job's process without one), and no loop waits for it but by asking.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

import anyio

from cf_agents import DecodeParams, Stream, Voice
from cf_agents.errors import StreamClosed


class Engine(Protocol):
    """What speaks; `cf_agents.TTS` is one. Opened in one event loop, used from others."""

    async def __aenter__(self) -> object: ...

    async def aclose(self) -> None: ...

    def stream(
        self, voice: Voice | str | Path, *, params: DecodeParams | str | None, lead_s: float | None, sample_rate: int | None
    ) -> Stream: ...


class Model:
    """make: an `Engine` that is not open yet, anew for each try, such as `lambda: cf_agents.TTS.load("pocket")`."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._opening: _Opening | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to open it, if nobody has. Returns at once; needs no event loop. Raises `StreamClosed` after `aclose`."""
        self._begun()

    async def get(self, timeout_s: float | None) -> Engine:
        """The open engine. A failed opening is told to those who wait for it, and the next call tries again.

        Raises what opening raises, `TimeoutError` when it is not done yet (it goes on), `StreamClosed` after `aclose`.
        """
        opening = self._begun()
        await opening.wait(timeout_s)
        return opening.engine.result()

    async def aclose(self) -> None:
        """Close the engine, or give up opening it. Nothing of it is left. Closing twice is fine."""
        with self._lock:
            self._closed = True
            opening, self._opening = self._opening, None
        if opening is not None:
            await opening.aclose()

    def _begun(self) -> _Opening:
        with self._lock:
            if self._closed:
                raise StreamClosed("This TTS is closed: make another one.")
            if self._opening is None or self._opening.failed:
                self._opening = _Opening(self._make)
            return self._opening


class _Opening:
    """One try, in its thread."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self.engine: Future[Engine] = Future()
        self._make = make
        self._given_up = False
        self._cancel: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._run, name="cf-agents-open", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        return self.engine.done() and self.engine.exception() is not None

    async def wait(self, timeout_s: float | None) -> None:
        if self.engine.done():
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def told(_: Future[Engine]) -> None:
            with contextlib.suppress(RuntimeError):  # that loop is gone
                loop.call_soon_threadsafe(settle)

        self.engine.add_done_callback(told)
        await asyncio.wait_for(waiter, timeout_s)

    async def aclose(self) -> None:
        self._given_up = True
        if self._cancel is not None:
            with contextlib.suppress(RuntimeError):  # its loop is gone: it has ended by itself
                self._cancel()
        await asyncio.to_thread(self._thread.join)
        if not self.failed:
            await self.engine.result().aclose()

    def _run(self) -> None:
        try:
            engine = anyio.run(self._open)
        except BaseException as error:
            self.engine.set_exception(error)
        else:
            self.engine.set_result(engine)

    async def _open(self) -> Engine:
        scope, loop = anyio.CancelScope(), asyncio.get_running_loop()
        self._cancel = lambda: loop.call_soon_threadsafe(scope.cancel)
        with scope:
            if self._given_up:
                scope.cancel()
            engine = self._make()
            await engine.__aenter__()
            return engine
        raise StreamClosed("This TTS was closed while it was opened.")
