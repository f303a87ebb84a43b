"""A loaded model that the services of a process share: read for the first that asks, closed after the last."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal
from weakref import WeakKeyDictionary

from loguru import logger

from cf_agents import TTS, Voice


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded: the arguments of `cf_agents.TTS.load` beside its name. None leaves its own default.

    Services of one process and one event loop that ask for the same model in the same way share it.
    """

    backend: Literal["auto", "dense", "flashinfer", "mlx"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    quantise: Literal["auto", 8, 4, None] = "auto"
    max_streams: int | None = None
    """Replies spoken at once, of all services together."""
    link: Literal["process", "thread"] = "process"
    voices: tuple[tuple[str, Voice | str | Path], ...] = ()
    """Name and voice, or voice file, beside those of the model."""
    revision: str | None = None
    local_files_only: bool = False

    def load(self, model: str) -> TTS:
        """A `TTS` to be entered. Raises as `TTS.load` does."""
        load = partial(
            TTS.load,
            model,
            backend=self.backend,
            dtype=self.dtype,
            device=self.device,
            quantise=self.quantise,
            link=self.link,
            voices=dict(self.voices),
            revision=self.revision,
            local_files_only=self.local_files_only,
            progress=lambda message: logger.debug("cf_agents {}: {}", model, message),
        )
        return load() if self.max_streams is None else load(max_streams=self.max_streams)


class SharedModel:
    """One holder's share in a loaded model. Not safe to use from two tasks at once; the model is."""

    # Sharing between services that know nothing of each other needs a place they all know.
    _held: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, LoadOptions], _Held]]] = WeakKeyDictionary()

    def __init__(self, model: str, options: LoadOptions) -> None:
        self._key = (model, options)
        self._mine: _Held | None = None

    async def acquire(self) -> TTS:
        """The model, loaded off the event loop unless it is here already. Raises what `TTS.load` and entering it raise.

        A caller that is cancelled, or told of an error, holds nothing.
        """
        if self._mine is None:
            held = self._all.get(self._key)
            if held is None:
                model, options = self._key
                held = self._all[self._key] = _Held(asyncio.ensure_future(options.load(model).__aenter__()))
            held.holders += 1
            self._mine = held
        try:
            return await asyncio.shield(self._mine.loading)
        except BaseException:
            await self.release()
            raise

    async def release(self) -> None:
        """Let go of it; the last holder closes it. Releasing twice is fine."""
        held, self._mine = self._mine, None
        if held is None:
            return
        held.holders -= 1
        if held.holders:
            return
        if self._all.get(self._key) is held:
            del self._all[self._key]
        if not held.loading.done():
            held.loading.cancel()
        await asyncio.wait([held.loading])
        if not held.loading.cancelled() and held.loading.exception() is None:
            await held.loading.result().aclose()

    @property
    def _all(self) -> dict[tuple[str, LoadOptions], _Held]:
        return self._held.setdefault(asyncio.get_running_loop(), {})


@dataclass
class _Held:
    loading: asyncio.Future[TTS]
    holders: int = 0
