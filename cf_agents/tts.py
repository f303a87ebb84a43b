"""The door: a model is loaded here, and streams come out of it. Importing this file imports no tensor library."""

from __future__ import annotations

import math
import os
import secrets
import threading
import types
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import get_args

import anyio
import anyio.to_thread

from cf_agents.audio import AudioChunk
from cf_agents.backends import Backend, Choice, Dtype, Quantise, check_names
from cf_agents.config import DecodeParams, ModelConfig
from cf_agents.encoding import Encoding
from cf_agents.errors import ConfigError, StreamClosed, VoiceError
from cf_agents.observer import StreamObserver
from cf_agents.opening import DEFAULT_MODEL, Attach, Linked, Opened, Request, opened, silently
from cf_agents.stream import Stream
from cf_agents.voice import DEFAULT_VOICE, Voice

DEFAULT_LEAD_S = 2.0
MOST_FADE_S = 1.0
DEFAULT_IDLE_S = 60.0
"""What a server waits for another client."""


class TTS:
    """A loaded model that any number of streams share: one engine, one scheduler, one thread on the device, in a child process.

        async with TTS.load() as tts, tts.stream() as stream:
            stream.write("Hello.")
            stream.end()
            async for chunk in stream: ...

    Leaving the block ends every stream, and the process.
    """

    def __init__(self, request: Request, params: DecodeParams | None, lead_s: float) -> None:
        self.lead_s = lead_s
        self._params = params
        self._request = request
        self._open: Opened | None = None
        self._closed = False

    @classmethod
    def load(
        cls,
        model: str | Path = DEFAULT_MODEL,
        *,
        backend: Backend = "auto",
        dtype: Dtype = "auto",
        device: str = "auto",
        quantise: Quantise = "auto",
        threads: int | None = None,
        max_streams: int = 8,
        link: Linked = "process",
        voices: Mapping[str, Voice | str | Path] = types.MappingProxyType({}),
        params: DecodeParams | str | None = None,
        lead_s: float = DEFAULT_LEAD_S,
        revision: str | None = None,
        local_files_only: bool = False,
        observers: Iterable[StreamObserver] = (),
        progress: Callable[[str], None] | None = None,
    ) -> TTS:
        """Say which model; `async with` reads it, in a worker thread, and then says a word in silence to warm it up.

        model: "pocket" (a small voice that comes with the package), "tiny" (random weights that speak noise, for tests), a
        checkpoint folder, or a hub id such as
        "ResembleAI/chatterbox-flash", which is downloaded once; `revision` and `local_files_only` are for the hub.
        quantise: 8 bits for the decoder's weights, on a CPU and with MLX, or 4, with MLX: smaller, and not the same tokens
        (`docs/backends.md`); None keeps them as they are, and "auto" takes what the checkpoint names, if it names bits and they
        can be had. threads: of torch on the CPU, for the decoder and for the vocoder each; None takes what
        `backends.cpu_threads` says, and with link="thread" the number that torch has in this process. max_streams: streams
        open at once, from `stream` to their last chunk, `cancel` or `aclose`, whether they have something to say or not; each
        has room in the engine, and one more is `Busy` at once, for nobody waits in line. link: where the model runs. "process"
        is a child process, which leaves this one its interpreter, its event loop and the first right to a core (see
        `links.command`), and takes no torch into it (`make_voice` does); "thread" is a thread of this process, for notebooks
        and tests.
        voices: by name, beside those of the checkpoint. params: the default decoding knobs, or the name of a preset; None
        takes those that the checkpoint names. lead_s: how far synthesis may run ahead of playback. observers: told of every
        stream as it begins and ends, such as `metrics.Metrics` and `tracing.Tracing`. progress: told in words what is being
        done, from another thread.

        Raises `ConfigError` for a name or number that means nothing and `BackendUnavailable` for a back-end that is not here
        yet. Entering the block raises the errors of `Checkpoint.open`, `Checkpoint.fill`, `backends.choose` and `Voice.load`.
        """
        check_names(backend, dtype, quantise, threads)
        if link not in get_args(Linked):
            raise ConfigError(f"There is no link {link!r}; choose one of {', '.join(get_args(Linked))}.")
        if max_streams < 1:
            raise ConfigError(f"max_streams is {max_streams}; give at least 1.")
        request = Request(
            model=model,
            backend=backend,
            dtype=dtype,
            device=device,
            quantise=quantise,
            threads=threads,
            max_streams=max_streams,
            link=link,
            voices=dict(voices),
            revision=revision,
            local_files_only=local_files_only,
            observers=tuple(observers),
            progress=progress or silently,
        )
        return cls(request, None if params is None else _params(params), _checked_lead(lead_s))

    @classmethod
    def attach(
        cls,
        path: str | os.PathLike[str],
        model: str | Path | None = None,
        *,
        start: bool | None = None,
        idle_s: float = DEFAULT_IDLE_S,
        backend: Backend = "auto",
        dtype: Dtype = "auto",
        device: str = "auto",
        quantise: Quantise = "auto",
        threads: int | None = None,
        max_streams: int = 8,
        voices: Mapping[str, Voice | str | Path] = types.MappingProxyType({}),
        params: DecodeParams | str | None = None,
        lead_s: float = DEFAULT_LEAD_S,
        revision: str | None = None,
        local_files_only: bool = False,
        observers: Iterable[StreamObserver] = (),
        progress: Callable[[str], None] | None = None,
    ) -> TTS:
        """Say which server to share; `async with` connects to it. Several processes of one user then speak with one engine.

            async with TTS.attach("run/voice.sock", "pocket") as tts: ...

        path: its socket, in a folder that belongs to this user; `cf-agents serve --socket PATH` listens on one. start: whether
        to start a server where none is: the first that comes does, the others wait, and the server is nobody's child: it ends
        when it had no client for idle_s seconds. Left out, it is started if a model is given. model: what it must speak with,
        as in `load`; None takes what a server has, and starts one with "pocket". backend, dtype, device, quantise, threads:
        likewise, where they are named; with max_streams they are what a server is started with.
        The rest is as in `load`, and this process's own. Everything it takes is small: no torch, no weights.

        A server that dies fails every open stream with `WorkerDied`; a stream opened after that gets the next server, which is
        started again if it may be.

        Raises as `load` does, and `BackendUnavailable` where there are no Unix sockets. Entering the block raises what the
        server could not load for, `ServerAbsent`, `ServerMismatch` when it speaks with something else than was asked for, and
        `ServerError` for a path that cannot be used.
        """
        from cf_agents.links.far import check_sockets

        check_sockets()
        if not idle_s >= 0.0:
            raise ConfigError(f"idle_s is {idle_s}; give seconds, such as {DEFAULT_IDLE_S:g}.")
        tts = cls.load(
            DEFAULT_MODEL if model is None else model,
            backend=backend,
            dtype=dtype,
            device=device,
            quantise=quantise,
            threads=threads,
            max_streams=max_streams,
            voices=voices,
            params=params,
            lead_s=lead_s,
            revision=revision,
            local_files_only=local_files_only,
            observers=observers,
            progress=progress,
        )
        start = model is not None if start is None else start
        tts._request = replace(tts._request, model=model, attach=Attach(path, start, idle_s))
        return tts

    async def __aenter__(self) -> TTS:
        """Load. A caller that is cancelled does not wait: the worker thread finishes by itself and lets go of what it read.

        Raises `StreamClosed` when it was entered before, and what `load` says.
        """
        if self._open is not None or self._closed:
            raise StreamClosed("A TTS is entered once; call TTS.load again for another one.")
        abandoned = threading.Event()
        try:
            self._open = await anyio.to_thread.run_sync(opened, self._request, abandoned, abandon_on_cancel=True)
        except BaseException:
            abandoned.set()
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._open is not None and not self._closed:
            warnings.warn(
                "A TTS was never closed: use `async with`, or call aclose().", ResourceWarning, stacklevel=2, source=self
            )

    async def aclose(self) -> None:
        """End every stream and free the device; its process or thread has ended. Closing twice is fine."""
        self._closed = True
        if self._open is not None:
            await self._open.link.aclose()

    @property
    def sample_rate(self) -> int:
        """Hz of a stream that asks for no other rate."""
        return self._loaded.link.sample_rate

    @property
    def params(self) -> DecodeParams:
        """The decoding knobs of a stream that names none: those given to `load`, else the checkpoint's."""
        return self._params or self.config.decoding

    @property
    def config(self) -> ModelConfig:
        """Sizes of the loaded model; `config.trained` is False for one that speaks noise."""
        return self._loaded.checkpoint.config

    @property
    def folder(self) -> Path:
        """Where the checkpoint lies."""
        return self._loaded.checkpoint.folder

    @property
    def choice(self) -> Choice:
        """The back-end, device and dtype that run, and why."""
        return self._loaded.choice

    @property
    def voices(self) -> Mapping[str, Voice]:
        """The voices that can be asked for by name."""
        return types.MappingProxyType(self._loaded.voices)

    def stream(
        self,
        voice: Voice | str | Path = DEFAULT_VOICE,
        *,
        params: DecodeParams | str | None = None,
        seed: int | None = None,
        lead_s: float | None = None,
        sample_rate: int | None = None,
        encoding: Encoding = "s16le",
        fade_s: float = 0.0,
    ) -> Stream:
        """A new speaking session. Called on the event loop that will use it; returns at once.

        voice: a name of `voices`, a voice file, or a `Voice`. A file is read here; name it in `load` where a millisecond
        matters. params: the knobs, or the name of a preset, else those of `load`. seed: the same seed and text give the same
        speech, whatever else is spoken at the time; None draws one, which `Stream.seed` tells. lead_s: seconds of audio made
        ahead of playback at most. sample_rate: 8,000 to 48,000 Hz; None keeps the model's, and any other is resampled to, which
        holds back 96 samples of the lower rate inside a segment: 12 ms at 8 kHz, 4 ms from 24 kHz on. encoding: "s16le",
        "f32le", or G.711's "mulaw" and "alaw". fade_s: how much of the audio behind the playback position `cancel` hands over,
        faded out, in `Heard.tail`; 0.01 ends without a click. Audio that was taken is kept for it until it is played.

        Raises `VoiceError` for a voice that is not there or does not fit the model, `ConfigError` for a preset, lead, rate,
        encoding or fade that means nothing, `Busy` when `max_streams` are open, with the time to try again, `StreamClosed`
        outside the `async with` block. Where other processes share the engine, `Busy` may come from the iteration instead,
        before any audio.
        """
        loaded = self._loaded
        return Stream(
            loaded.link,
            self._find_voice(voice),
            params=self.params if params is None else _params(params),
            seed=secrets.randbits(63) if seed is None else seed,
            lead_s=self.lead_s if lead_s is None else _checked_lead(lead_s),
            sample_rate=sample_rate,
            encoding=encoding,
            fade_s=_checked_fade(fade_s),
            policy=loaded.checkpoint.config.segments,
            model=loaded.checkpoint.config.name,
            observers=self._request.observers,
        )

    async def say(
        self,
        text: str,
        voice: Voice | str | Path = DEFAULT_VOICE,
        *,
        params: DecodeParams | str | None = None,
        seed: int | None = None,
        sample_rate: int | None = None,
        encoding: Encoding = "s16le",
    ) -> AudioChunk:
        """The whole of a text as one chunk, as fast as the machine makes it. Raises as `stream` and its iteration do."""
        async with self.stream(
            voice, params=params, seed=seed, lead_s=math.inf, sample_rate=sample_rate, encoding=encoding
        ) as stream:
            stream.write(text)
            stream.end()
            chunks = [chunk async for chunk in stream]
            words = tuple(word for chunk in chunks for word in chunk.words)
            pcm = b"".join(chunk.pcm for chunk in chunks)
            return AudioChunk(pcm, stream.sample_rate, 0, words, 0.0, last=True, encoding=encoding)

    async def make_voice(self, recording: str | Path, *, name: str | None = None, exaggeration: float = 0.5) -> Voice:
        """A voice from at least 3 s of clean speech, made in a worker thread. Give it to `stream`, or `save` it.

        Raises `VoiceError` for a recording that makes no voice, `AudioError` for one that cannot be read.
        """
        checkpoint = self._loaded.checkpoint

        def make() -> Voice:
            from cf_agents.loading import reference_model

            return Voice.from_audio(recording, reference_model(checkpoint), name=name, exaggeration=exaggeration)

        return await anyio.to_thread.run_sync(make)

    @property
    def _loaded(self) -> Opened:
        if self._open is None or self._closed:
            raise StreamClosed("This TTS is not open: use it inside `async with TTS.load(...) as tts:`.")
        return self._open

    def _find_voice(self, voice: Voice | str | Path) -> Voice:
        loaded = self._loaded
        if isinstance(voice, str) and voice in loaded.voices:
            return loaded.voices[voice]
        if isinstance(voice, str) and not voice.endswith(".safetensors"):
            names = ", ".join(loaded.voices) or "none"
            model = self._request.model or loaded.checkpoint.config.name
            raise VoiceError(
                f"{model} has no voice {voice!r}; it has {names}. Give one of these, or make one of a recording "
                "with `cf-agents voice make REF.wav -o voice.safetensors` and give that file."
            )
        found = voice if isinstance(voice, Voice) else Voice.load(voice)
        found.check(loaded.checkpoint.config)
        return found


def _params(params: DecodeParams | str) -> DecodeParams:
    return DecodeParams.preset(params) if isinstance(params, str) else params


def _checked_lead(lead_s: float) -> float:
    if not lead_s > 0.0:
        raise ConfigError(f"lead_s is {lead_s}; give seconds above 0, such as {DEFAULT_LEAD_S}.")
    return lead_s


def _checked_fade(fade_s: float) -> float:
    if not 0.0 <= fade_s <= MOST_FADE_S:
        raise ConfigError(f"fade_s is {fade_s}; give seconds from 0 to {MOST_FADE_S:g}, such as 0.01.")
    return fade_s
