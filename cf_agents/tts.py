"""The door: a model is loaded here, and streams come out of it. Importing this file imports no tensor library."""

from __future__ import annotations

import logging
import math
import secrets
import threading
import types
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

import anyio
import anyio.to_thread

from cf_agents.audio import AudioChunk
from cf_agents.backends import Backend, Choice, Dtype, Quantise, check_names, choose
from cf_agents.config import DecodeParams, ModelConfig
from cf_agents.encoding import Encoding
from cf_agents.errors import ConfigError, StreamClosed, VoiceError
from cf_agents.links.base import Closed, Event, Failed, Link, Segment
from cf_agents.observer import StreamObserver
from cf_agents.stream import Stream
from cf_agents.voice import Voice

if TYPE_CHECKING:
    from cf_agents.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "pocket"
DEFAULT_VOICE = "default"
DEFAULT_LEAD_S = 2.0
MOST_FADE_S = 1.0

Linked = Literal["thread", "process"]


@dataclass(frozen=True)
class _Request:
    """What `TTS.load` was asked for; nothing of it is done before the block is entered."""

    model: str | Path
    backend: Backend
    dtype: Dtype
    device: str
    quantise: Quantise | None
    max_streams: int
    link: Linked
    voices: Mapping[str, Voice | str | Path]
    revision: str | None
    local_files_only: bool
    observers: tuple[StreamObserver, ...]
    progress: Callable[[str], None]


class _Asked(TypedDict):
    """The arguments of `choose`."""

    backend: Backend
    device: str
    dtype: Dtype
    quantise: Quantise | None


@dataclass(frozen=True)
class _Open:
    """A loaded model."""

    checkpoint: Checkpoint
    choice: Choice
    voices: dict[str, Voice]
    link: Link


class TTS:
    """A loaded model that any number of streams share: one engine, one scheduler, one thread on the device, in a child process.

        async with TTS.load() as tts, tts.stream() as stream:
            stream.write("Hello.")
            stream.end()
            async for chunk in stream: ...

    Leaving the block ends every stream, and the process.
    """

    def __init__(self, request: _Request, params: DecodeParams, lead_s: float) -> None:
        self.params = params
        self.lead_s = lead_s
        self._request = request
        self._open: _Open | None = None
        self._closed = False

    @classmethod
    def load(
        cls,
        model: str | Path = DEFAULT_MODEL,
        *,
        backend: Backend = "auto",
        dtype: Dtype = "auto",
        device: str = "auto",
        quantise: Quantise | None = None,
        max_streams: int = 8,
        link: Linked = "process",
        voices: Mapping[str, Voice | str | Path] = types.MappingProxyType({}),
        params: DecodeParams | str = "released",
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
        quantise: 8 or 4 bits for the decoder's weights, with MLX only: smaller, and not the same tokens
        (`benchmarks/metal.py`). max_streams: utterances spoken at once; more wait. link: where the model runs. "process" is a
        child process, which leaves this one its interpreter and its event loop, and takes no torch into it (`make_voice` does);
        "thread" is a thread of this process, for notebooks and tests. voices: by name, beside those of the checkpoint. params:
        the default decoding knobs, or the name of a preset. lead_s: how far synthesis may run ahead of playback. observers:
        told of every stream as it begins and ends, such as `metrics.Metrics` and `tracing.Tracing`. progress: told in words
        what is being done, from another thread.

        Raises `ConfigError` for a name or number that means nothing and `BackendUnavailable` for a back-end that is not here
        yet. Entering the block raises the errors of `Checkpoint.open`, `Checkpoint.fill`, `backends.choose` and `Voice.load`.
        """
        check_names(backend, dtype, quantise)
        if link not in get_args(Linked):
            raise ConfigError(f"There is no link {link!r}; choose one of {', '.join(get_args(Linked))}.")
        if max_streams < 1:
            raise ConfigError(f"max_streams is {max_streams}; give at least 1.")
        request = _Request(
            model=model,
            backend=backend,
            dtype=dtype,
            device=device,
            quantise=quantise,
            max_streams=max_streams,
            link=link,
            voices=dict(voices),
            revision=revision,
            local_files_only=local_files_only,
            observers=tuple(observers),
            progress=progress or _silently,
        )
        return cls(request, _params(params), _checked_lead(lead_s))

    async def __aenter__(self) -> TTS:
        """Load. A caller that is cancelled does not wait: the worker thread finishes by itself and lets go of what it read.

        Raises `StreamClosed` when it was entered before, and what `load` says.
        """
        if self._open is not None or self._closed:
            raise StreamClosed("A TTS is entered once; call TTS.load again for another one.")
        abandoned = threading.Event()
        try:
            self._open = await anyio.to_thread.run_sync(_load, self._request, abandoned, abandon_on_cancel=True)
            await self._warm_up()
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
        encoding or fade that means nothing, `StreamClosed` outside the `async with` block.
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
    def _loaded(self) -> _Open:
        if self._open is None or self._closed:
            raise StreamClosed("This TTS is not open: use it inside `async with TTS.load(...) as tts:`.")
        return self._open

    def _find_voice(self, voice: Voice | str | Path) -> Voice:
        loaded = self._loaded
        if isinstance(voice, str) and voice in loaded.voices:
            return loaded.voices[voice]
        if isinstance(voice, str) and not voice.endswith(".safetensors"):
            names = ", ".join(loaded.voices) or "none"
            raise VoiceError(
                f"{self._request.model} has no voice {voice!r}; it has {names}. Give one of these, or make one of a recording "
                "with `cf-agents voice make REF.wav -o voice.safetensors` and give that file."
            )
        found = voice if isinstance(voice, Voice) else Voice.load(voice)
        found.check(loaded.checkpoint.config)
        return found

    async def _warm_up(self) -> None:
        """Say one block that nobody hears, so that the first listener does not wait for what is computed once."""
        loaded = self._loaded
        voice = loaded.voices.get(DEFAULT_VOICE) or next(iter(loaded.voices.values()), None)
        if voice is None:
            return
        self._request.progress("Warming up")
        over = anyio.Event()
        failures: list[Failed] = []

        def receive(event: Event) -> None:
            match event:
                case Failed():
                    failures.append(event)
                case Closed():
                    over.set()
                    return
            session.close()

        session = loaded.link.open(voice, math.inf, receive)
        params = replace(self.params, steps=1, max_tokens=loaded.checkpoint.config.t3.block_size)
        session.submit(Segment(0, "hello.", params, 0))
        await over.wait()
        if failures:
            raise failures[0].error


def _load(request: _Request, abandoned: threading.Event) -> _Open:
    from cf_agents.builtin import open_model

    request.progress(f"Looking for {request.model}")
    checkpoint = open_model(
        request.model,
        revision=request.revision,
        local_files_only=request.local_files_only,
        progress=request.progress is not _silently,
    )
    if not checkpoint.config.trained:
        logger.info("%s has random weights that nobody trained: what it says is noise.", request.model)
    voices = {name: Voice.load(path) for name, path in checkpoint.voices.items()}
    for name, voice in request.voices.items():
        voices[name] = voice if isinstance(voice, Voice) else Voice.load(voice)
    for voice in voices.values():
        voice.check(checkpoint.config)
    link, choice = (_process_link if request.link == "process" else _thread_link)(request, checkpoint, abandoned)
    logger.info("%s speaks on %s.", checkpoint.config.name, choice.why)
    return _Open(checkpoint, choice, voices, link)


def _thread_link(request: _Request, checkpoint: Checkpoint, abandoned: threading.Event) -> tuple[Link, Choice]:
    request.progress("Importing torch")
    from cf_agents.loading import thread_link

    choice = choose(**_asked(request))
    link = thread_link(checkpoint, choice, request.max_streams, request.progress)
    if abandoned.is_set():
        link.close()
    return link, choice


def _process_link(request: _Request, checkpoint: Checkpoint, abandoned: threading.Event) -> tuple[Link, Choice]:
    from cf_agents.links.process import ProcessLink
    from cf_agents.links.worker import MODEL_FACTORY

    folder = str(checkpoint.folder.resolve())
    arguments = {"folder": folder, "max_streams": request.max_streams, "choose": _asked(request)}
    link = ProcessLink(MODEL_FACTORY, arguments, request.progress)
    link.wait(abandoned)
    assert isinstance(link.about, Choice)
    return link, link.about


def _asked(request: _Request) -> _Asked:
    return {"backend": request.backend, "device": request.device, "dtype": request.dtype, "quantise": request.quantise}


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


def _silently(message: str) -> None:
    logger.debug("%s.", message)
