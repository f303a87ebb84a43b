"""The plugin's face: LiveKit's `TTS` and its two kinds of stream, on a `cf_agents` engine that they share.

    push_text --> _input_ch --> cf_agents.Stream.write      (a task of its own: text and audio do not wait for each other)
    frames <-- AudioEmitter <-- chunks, each with its words

Synthesis happens elsewhere, so nothing here takes the event loop's time, and a cancelled stream is silent at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from livekit.agents import APIConnectOptions, APITimeoutError, tts, utils
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, NotGivenOr, TimedString
from livekit.plugins.cf_agents.errors import api_error
from livekit.plugins.cf_agents.model import Engine, Model
from livekit.plugins.cf_agents.reply import interruption
from livekit.plugins.cf_agents.share import shared_engine

import cf_agents
from cf_agents import DecodeParams, Voice
from cf_agents.errors import Busy, ConfigError, StreamClosed

FRAME_MS = 50
"""LiveKit's own 200 ms leave gaps where blocks come just in time."""
PATIENCE_S = 2.0
"""A full house that has room again within so long is asked again then. LiveKit's own tries come too early or too late, and it
tells the application of each."""


@dataclass(frozen=True)
class _Settings:
    """What a stream takes along when it starts."""

    voice: Voice | str | Path
    params: DecodeParams | str | None
    lead_s: float

    def __post_init__(self) -> None:
        if isinstance(self.params, str):
            DecodeParams.preset(self.params)
        if not self.lead_s > 0.0:
            raise ConfigError(f"lead_s is {self.lead_s}; give seconds above 0, such as 2.0.")


class TTS(tts.TTS):
    """Speech for an `AgentSession`: the language model's words as it writes them, each with the time at which it is heard.

    Make one for each session: they share an engine anyway, and what one reports (metrics, errors) every session that uses it
    takes for its own.
    """

    def __init__(
        self,
        *,
        model: str | Path | Callable[[], Engine] = "pocket",
        voice: Voice | str | Path = "default",
        params: DecodeParams | str | None = None,
        lead_s: float = 2.0,
        sample_rate: int = 24_000,
        share: str | Path | None = "auto",
    ) -> None:
        """Nothing is loaded here: `prewarm`, which a session calls, begins it, or else the first text.

        model: "pocket" (comes with cf_agents), a checkpoint folder or a hub id. Or a function that makes a `cf_agents.TTS` with
        options of your own, such as `lambda: cf_agents.TTS.load("pocket", link="thread")`; this TTS then opens and closes it.
        voice: a name of the model's voices, a voice file, or a `cf_agents.Voice`. params: decoding knobs or the name of a
        preset; None takes those that the model speaks best with. lead_s: seconds of audio made ahead of playback at most; what
        is made past an interruption is waste. sample_rate: Hz of the frames.
        share: how a model that is named is run. "auto" is one engine process for every job of this user on this machine; the
        first job starts it, and it ends a minute after the last one has gone. A socket path is where a server of yours listens
        (`cf-agents serve --socket PATH`), or else where that engine shall. None is an engine process for this TTS alone.

        Raises `cf_agents.ConfigError` for a preset or lead that means nothing. A voice is looked for when it is first spoken
        with.
        """
        super().__init__(
            capabilities=tts.TTSCapabilities(streaming=True, aligned_transcript=True), sample_rate=sample_rate, num_channels=1
        )
        self._settings = _Settings(voice, params, lead_s)
        self._name = "custom" if callable(model) else str(model)
        self._model = Model(model if callable(model) else lambda: shared_engine(model, share))
        self._streams: weakref.WeakSet[ChunkedStream | SynthesizeStream] = weakref.WeakSet()

    @property
    def model(self) -> str:
        """Name of the model, for metrics."""
        return self._name

    @property
    def provider(self) -> str:
        """Name of who speaks, for metrics."""
        return "cf_agents"

    def update_options(
        self,
        *,
        voice: NotGivenOr[Voice | str | Path] = NOT_GIVEN,
        params: NotGivenOr[DecodeParams | str | None] = NOT_GIVEN,
        lead_s: NotGivenOr[float] = NOT_GIVEN,
    ) -> None:
        """Speak otherwise from the next stream on, which is the next reply. Raises as the constructor does."""
        given = {"voice": voice, "params": params, "lead_s": lead_s}
        self._settings = replace(self._settings, **{name: value for name, value in given.items() if utils.is_given(value)})

    def prewarm(self) -> None:
        """Begin to load the model, in the background. Returns at once; may be called before there is an event loop."""
        with contextlib.suppress(StreamClosed):
            self._model.start()

    async def ready(self) -> None:
        """Wait until the model is loaded, however long it takes. Raises `APIError` when it cannot be."""
        with _as_api_errors(lambda: False):
            await self._model.get(None)

    def synthesize(self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS) -> ChunkedStream:
        """The whole of a text, as fast as the machine makes it."""
        stream = ChunkedStream(tts=self, input_text=text, conn_options=conn_options)
        self._streams.add(stream)
        return stream

    def stream(self, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS) -> SynthesizeStream:
        """One reply, from text as it is written. `flush` ends it as `end_input` does: a stream is one segment."""
        stream = SynthesizeStream(tts=self, conn_options=conn_options)
        self._streams.add(stream)
        return stream

    async def aclose(self) -> None:
        """End every stream and let go of the model. Closing twice is fine."""
        await asyncio.gather(*(stream.aclose() for stream in list(self._streams)))
        await self._model.aclose()

    @contextlib.asynccontextmanager
    async def _speaking(self, timeout_s: float, lead_s: float | None = None) -> AsyncIterator[cf_agents.Stream]:
        """A stream of the engine with the settings of now, to be said to its end. Left otherwise, it is silent at once."""
        settings = self._settings
        try:
            engine = await self._model.get(timeout_s)
        except TimeoutError as error:
            raise APITimeoutError(f"{self._name} is not loaded after {timeout_s:g} s; it goes on loading.") from error
        voice = settings.voice
        if isinstance(voice, Path) or (isinstance(voice, str) and voice.endswith(".safetensors")):
            voice = await asyncio.to_thread(Voice.load, voice)
        stream = engine.stream(voice, params=settings.params, lead_s=lead_s or settings.lead_s, sample_rate=self.sample_rate)
        try:
            yield stream
        except BaseException:
            # Waiting for the far side to confirm would hold up the framework's interruption for a denoising step.
            stream.cancel_nowait()
            raise


class ChunkedStream(tts.ChunkedStream):
    """See `TTS.synthesize`."""

    _tts: TTS

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        output_emitter.initialize(
            request_id=utils.shortuuid(),
            sample_rate=self._tts.sample_rate,
            num_channels=self._tts.num_channels,
            mime_type="audio/pcm",
            frame_size_ms=FRAME_MS,
        )
        if not self._input_text.strip():
            return
        with _as_api_errors(lambda: output_emitter.pushed_duration() > 0.0):
            await _patiently(lambda: self._say(output_emitter))
        output_emitter.flush()

    async def _say(self, emitter: tts.AudioEmitter) -> None:
        asked = time.perf_counter()
        async with self._tts._speaking(self._conn_options.timeout, lead_s=math.inf) as stream:
            self._acquire_time = time.perf_counter() - asked
            stream.write(self._input_text)
            stream.end()
            await _pass_on(stream, emitter)
            self._set_token_usage(output_tokens=stream.stats.tokens)


class SynthesizeStream(tts.SynthesizeStream):
    """See `TTS.stream`. Made while a session speaks a reply, it is silent from that reply's interruption on."""

    _tts: TTS

    def __init__(self, *, tts: TTS, conn_options: APIConnectOptions) -> None:
        super().__init__(tts=tts, conn_options=conn_options)
        self._interrupted = interruption()

    async def __anext__(self) -> tts.SynthesizedAudio:
        audio = await super().__anext__()
        while self._interrupted():
            audio = await super().__anext__()
        return audio

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        request_id = utils.shortuuid()
        output_emitter.initialize(
            request_id=request_id,
            sample_rate=self._tts.sample_rate,
            num_channels=self._tts.num_channels,
            mime_type="audio/pcm",
            frame_size_ms=FRAME_MS,
            stream=True,
        )
        said = _Said(await self._first_text())
        if not said.text:
            return
        with _as_api_errors(lambda: output_emitter.pushed_duration() > 0.0):
            output_emitter.start_segment(segment_id=request_id)
            await _patiently(lambda: self._say(said, output_emitter))
            output_emitter.end_segment()

    async def _first_text(self) -> str:
        """The beginning of the text, with something in it that is not white space; empty if there is none."""
        text = ""
        async for item in self._input_ch:
            if isinstance(item, str):
                text += item
                if text.strip():
                    return text
        return ""

    async def _say(self, said: _Said, emitter: tts.AudioEmitter) -> None:
        asked = time.perf_counter()
        async with self._tts._speaking(self._conn_options.timeout) as stream:
            self._acquire_time = time.perf_counter() - asked
            writer = asyncio.create_task(self._write(stream, said), name="cf_agents.write")
            try:
                await _pass_on(stream, emitter)
                await writer
            finally:
                await utils.aio.cancel_and_wait(writer)
            self._set_token_usage(output_tokens=stream.stats.tokens)

    async def _write(self, stream: cf_agents.Stream, said: _Said) -> None:
        # A stream that has failed takes no text; its reader raises why.
        with contextlib.suppress(StreamClosed):
            stream.write(said.text)
            self._begin_clock(stream)
            while not said.ended and isinstance(item := await anext(self._input_ch, None), str):
                said.text += item
                stream.write(item)
                self._begin_clock(stream)
            said.ended = True
            stream.end()
            self._begin_clock(stream)

    def _begin_clock(self, stream: cf_agents.Stream) -> None:
        """The time to first audio counts from the first stretch of text that is spoken, not from its first letter."""
        if stream.stats.segments:
            self._mark_started()


@dataclass
class _Said:
    """What a stream was told so far; another try is told it again."""

    text: str
    ended: bool = False


async def _patiently(say: Callable[[], Awaitable[None]]) -> None:
    """Ask a full house again when it says that there is room, once, and only then tell the framework of it.

    There is no room before the first sound, or there is to the end, so nothing is said twice.
    """
    try:
        await say()
    except Busy as busy:
        if busy.retry_after_s > PATIENCE_S:
            raise
        await asyncio.sleep(busy.retry_after_s)
        await say()


async def _pass_on(stream: cf_agents.Stream, emitter: tts.AudioEmitter) -> None:
    blank, until_s = "", 0.0
    async for chunk in stream:
        words: list[TimedString] = []
        for word in chunk.words:
            # LiveKit takes white space that is out before its time for a syllable too early, and waits for it: so it comes
            # with the word behind it.
            text = word.text.rstrip()
            words.append(TimedString(blank + text, word.start_s, word.end_s))
            blank, until_s = word.text[len(text) :], word.end_s
        # Words go to the next frame, so they come before the audio they begin in.
        emitter.push_timed_transcript(words)
        emitter.push(chunk.pcm)
    if blank:
        # The next stream of the same reply goes on behind it.
        emitter.push_timed_transcript(TimedString(blank, until_s, until_s))


@contextlib.contextmanager
def _as_api_errors(audio_went_out: Callable[[], bool]) -> Iterator[None]:
    """The framework handles nothing else. It would repeat what was heard when it tried again, so then there is no other try."""
    try:
        yield
    except Exception as cause:
        error = api_error(cause)
        if audio_went_out():
            error.retryable = False
        if error is cause:
            raise
        raise error from cause
