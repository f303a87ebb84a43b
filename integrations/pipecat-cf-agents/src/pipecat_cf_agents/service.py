"""The Pipecat service: text is handed to cf_agents as it comes, audio and words come back in tasks of their own.

    process_frame --> run_tts --> Turn.write            (returns at once, so interruptions and settings are never waited for)
                                    |
    audio context <-- _speak <-- chunks                 (one task for each audio context)

Knows nothing of models but how to ask for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    AggregatedTextFrame,
    CancelFrame,
    ControlFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TextAggregationMode, TTSService
from pipecat.transcriptions.language import Language, resolve_language
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.tracing.service_decorators import traced_tts

from cf_agents import (
    TTS,
    AudioChunk,
    Busy,
    CfAgentsError,
    ConfigError,
    Stream,
    SynthesisFailed,
    TextError,
    VoiceError,
)
from pipecat_cf_agents.manner import Manner
from pipecat_cf_agents.model import LoadOptions, SharedModel
from pipecat_cf_agents.settings import CfAgentsTTSSettings
from pipecat_cf_agents.turn import Turn
from pipecat_cf_agents.words import WordAggregator

SILENCE_S = 0.1
"""What is heard of a context that ends without sound. Pipecat gives up a service after three silent contexts in a row."""
STOP_FRAME_TIMEOUT_S = 30.0
"""Pipecat's 3 s lose the reply of a model whose first audio takes longer, and split one in which the language model pauses."""


class CfAgentsTTSService(TTSService):
    """Streaming text-to-speech with cf_agents: a Chatterbox-Flash model in this machine's own memory.

    Text goes to the model word by word as the language model writes it. Audio comes back a block at a time with the times of
    its words, so that after an interruption the context holds what was heard. An interruption ends synthesis of exactly the
    contexts it is for. Metrics (TTFB, TTFA, characters) and traces are Pipecat's own.

    The model is loaded while the pipeline is set up, in a process of its own, and shared with every other service that asks for
    the same one. To load it before the first call, or to keep it between calls, load a `cf_agents.TTS` yourself and pass it.
    """

    Settings = CfAgentsTTSSettings

    def __init__(
        self,
        *,
        tts: TTS | None = None,
        load: LoadOptions | None = None,
        settings: Settings | None = None,
        text_aggregation_mode: TextAggregationMode | None = None,
        stop_frame_timeout_s: float = STOP_FRAME_TIMEOUT_S,
        **kwargs: Any,
    ) -> None:
        """Make the service; nothing is loaded before the pipeline is set up.

        Args:
            tts: A loaded model, which stays the caller's to close. None loads `settings.model`, or shares it.
            load: How to load it; the model runs in a process of its own by default.
            settings: What can change at run time: voice, params, lead_s. Its model ("pocket" by default) cannot.
            text_aggregation_mode: None hands on finished words. A mode of Pipecat's makes it as with other services: SENTENCE
                is slower to the first audio, TOKEN loses what was heard of a first sentence that is interrupted.
            stop_frame_timeout_s: Pipecat closes an audio context in which nothing comes for so long.
            **kwargs: For `TTSService`, such as sample_rate and text_transforms.

        Raises:
            ConfigError: `tts` is given together with `load` or a model.
        """
        if tts is not None and (load is not None or (settings is not None and settings.model)):
            raise ConfigError("Give a loaded `tts`, or say with `settings.model` and `load` what to load; not both.")
        complete = self.Settings(model="pocket", voice="default", language=Language.EN, params=None, lead_s=None)
        if settings is not None:
            complete.apply_update(settings)
        if tts is not None:
            complete.model = tts.config.name
        super().__init__(
            text_aggregation_mode=text_aggregation_mode or TextAggregationMode.SENTENCE,
            push_text_frames=False,
            push_start_frame=True,
            push_stop_frames=False,
            pause_frame_processing=False,
            stop_frame_timeout_s=stop_frame_timeout_s,
            settings=complete,
            **kwargs,
        )
        self._words: WordAggregator | None = None
        if text_aggregation_mode is None:
            self._words = self._text_aggregator = WordAggregator(self.text_aggregation_language)
        self._tts = tts
        self._shared = SharedModel(complete.model or "pocket", load or LoadOptions()) if tts is None else None
        self._manner: Manner | None = None
        self._turns: dict[str, Turn] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._playing: Turn | None = None
        self._interrupted_by = 0
        """Id of the last interruption; frames count up."""

    def can_generate_metrics(self) -> bool:
        """TTFB, TTFA and characters."""
        return True

    @property
    def supports_processing_metrics(self) -> bool:
        """No: `run_tts` only hands the text on."""
        return False

    def language_to_service_language(self, language: Language) -> str | None:
        """English; Pipecat warns of any other."""
        return resolve_language(language, _ENGLISH, use_base_code=True)

    # Life.

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Load the model, or share a loaded one. What this raises makes the service unusable; Pipecat reports it."""
        await super().setup(setup)
        if self._shared is not None:
            self._tts = await self._shared.acquire()
        self._manner = await self._choose_manner()

    async def stop(self, frame: EndFrame) -> None:
        """Speak what there is, and stop."""
        for turn in list(self._turns.values()):
            await self._end(turn)
        await super().stop(frame)

    async def cancel(self, frame: CancelFrame) -> None:
        """Stop at once."""
        for turn in self._turns.values():
            turn.cancel()
        await super().cancel(frame)

    async def cleanup(self) -> None:
        """End every stream and let go of the model."""
        await super().cleanup()
        for turn in self._turns.values():
            turn.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._shared is not None:
            self._tts = None
            await self._shared.release()

    # Settings.

    async def _update_settings(self, delta: TTSSettings) -> dict[str, Any]:
        """Apply a change to the text that comes after it. One that cannot be used is reported, and nothing changes."""
        before = self._settings.copy()
        changed = await super()._update_settings(delta)
        if changed.keys() & {"voice", "params", "lead_s"} and self._tts is not None:
            try:
                self._manner = await self._choose_manner()
            except CfAgentsError as error:
                self._settings.apply_update(before)
                # Without an earlier choice there is nothing to go on with: the error's own category says so.
                category = ErrorCategory.APPLICATION if self._manner is not None else None
                await self.push_error(f"Settings stay as they were: {error}", exception=error, category=category)
                return {}
            for turn in self._turns.values():
                turn.renew()
        self._warn_unhandled_updated_settings(changed.keys() - {"voice", "params", "lead_s"})
        return changed

    async def _choose_manner(self) -> Manner:
        if self._tts is None:
            raise ConfigError("The service has no model: see the error of its set-up.")
        assert isinstance(self._settings, CfAgentsTTSSettings)
        return await Manner.of(self._settings, self._tts)

    # Text.

    async def start_text_aggregation_metrics(self) -> None:
        """See `TTSService`. Not for finished words, as Pipecat does not for tokens: it would be a metric for each."""
        if self._words is None:
            await super().start_text_aggregation_metrics()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """See `TTSService`. Text of a reply that was interrupted is dropped even when the interruption has overtaken it."""
        if isinstance(frame, InterruptionFrame):
            self._interrupted_by = max(self._interrupted_by, frame.id)
            self._set_in_reply(False)
            if self._playing is not None and self._playing.interruptible:
                # What the listener has not heard of it will not be heard, though all of it may have left already.
                self._playing = None
        elif isinstance(frame, LLMTextFrame | AggregatedTextFrame):
            if frame.id < self._interrupted_by and frame.interruptible and not frame.skip_tts:
                logger.debug("{}: dropping [{}], written before the interruption", self, frame.text)
                return
        elif isinstance(frame, LLMFullResponseStartFrame) and not frame.skip_tts:
            self._set_in_reply(True)
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMFullResponseEndFrame) and not frame.skip_tts:
            self._set_in_reply(False)

    def _set_in_reply(self, in_reply: bool) -> None:
        if self._words is not None:
            self._words.in_reply = in_reply

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Hand text on and return at once; the audio comes from `_speak`.

        Args:
            text: A finished word, or whatever Pipecat was told to aggregate.
            context_id: The audio context it belongs to.

        Yields:
            None: the audio comes separately.
        """
        turn = self._turns.get(context_id)
        if turn is None:
            context = self._tts_contexts.get(context_id)
            interruptible = context is None or context.interruptible
            turn = self._turns[context_id] = Turn(context_id, self._stream_of_now, interruptible)
            task = self.create_task(self._speak(turn), "speak")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        turn.write(text if self._is_streaming_tokens or text[-1:].isspace() else f"{text} ")
        if context_id != self._turn_context_id:
            # Text that came outside of a reply: nobody tells its end.
            await self.flush_audio(context_id)
        yield None

    async def flush_audio(self, context_id: str | None = None) -> None:
        """No more text comes for a context."""
        context_id = context_id or self.get_active_audio_context_id()
        turn = self._turns.get(context_id) if context_id else None
        if turn is not None:
            await self._end(turn)
        elif context_id and self.audio_context_available(context_id):
            # The service was not usable: its text was not handed on, and nobody else closes the context.
            await self._close_context(context_id, said_all=False)

    async def on_turn_context_completed(self) -> None:
        """No more text comes for the turn, whether or not Pipecat has given its context up meanwhile."""
        turn = self._turns.get(self._turn_context_id or "")
        await super().on_turn_context_completed()
        if turn is not None:
            await self._end(turn)

    async def on_audio_context_interrupted(self, context_id: str) -> None:
        """Stop this context's synthesis, before anything else can happen."""
        turn = self._turns.pop(context_id, None)
        if turn is not None:
            told = turn.ended.is_set()
            turn.cancel()
            if not told:
                await self.start_tts_usage_metrics(turn.text)
        await super().on_audio_context_interrupted(context_id)

    async def on_audio_context_completed(self, context_id: str) -> None:
        """Forget a turn that was spoken; one that still waits for text goes on in a context of its own."""
        turn = self._turns.get(context_id)
        if turn is not None and turn.spoken:
            del self._turns[context_id]
        elif turn is not None:
            turn.pause()
        await super().on_audio_context_completed(context_id)

    async def _end(self, turn: Turn) -> None:
        if not turn.ended.is_set():
            turn.end()
            await self.start_tts_usage_metrics(turn.text)

    def _stream_of_now(self) -> Callable[[], Stream]:
        """Opens a core stream with the settings of now, whenever it is called."""
        return partial(self._open_stream, self._manner)

    def _open_stream(self, manner: Manner | None) -> Stream:
        if self._tts is None or manner is None:
            raise ConfigError("The service has no model or voice to speak with: see the errors before this one.")
        return manner.open(self._tts, self.sample_rate)

    # Audio.

    async def _speak(self, turn: Turn) -> None:
        said_all = True
        try:
            try:
                async for chunk in turn:
                    await self._deliver(turn, chunk)
            except Exception as error:
                said_all = False
                await self.cancel_ttfb_metrics()
                await self.push_error(f"A reply was not spoken to its end: {error}", exception=error)
                await turn.ended.wait()
            turn.spoken = True
            if not turn.cancelled and self.audio_context_available(turn.context_id):
                if not turn.made_s:
                    silence = bytes(2 * round(SILENCE_S * self.sample_rate))
                    await self._append_audio(turn.context_id, silence)
                await self._close_context(turn.context_id, said_all)
            elif self._turns.get(turn.context_id) is turn:
                del self._turns[turn.context_id]
        finally:
            await turn.aclose()

    async def _deliver(self, turn: Turn, chunk: AudioChunk) -> None:
        if turn.cancelled:
            return
        words = turn.take(chunk, self._now_s())
        await self.add_word_timestamps([each for each in words if each[0]], turn.context_id)
        if chunk.pcm:
            await self._append_audio(turn.context_id, chunk.pcm)

    async def _append_audio(self, context_id: str, pcm: bytes) -> None:
        await self.append_to_audio_context(context_id, TTSAudioRawFrame(pcm, self.sample_rate, 1, context_id=context_id))

    async def _close_context(self, context_id: str, said_all: bool) -> None:
        if not said_all:
            await self.append_to_audio_context(context_id, _NothingMoreSaid(context_id))
        await self.append_to_audio_context(context_id, TTSStoppedFrame(context_id=context_id))
        await self.remove_audio_context(context_id)

    async def push_frame(self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM) -> None:
        """See `TTSService`."""
        if isinstance(frame, _NothingMoreSaid):
            # Pipecat takes what is left of a context's text for spoken when it stops.
            others = {each for each in self.get_audio_contexts() if each != frame.context_id}
            self._aggregated_frame_sequencer.clear(keep_contexts=others)
            return
        await super().push_frame(frame, direction)

    async def start_word_timestamps(self) -> None:
        """The first audio of a context leaves: its words count from when the listener hears it, which may be later.

        Pipecat counts from now, or from the last word before, though that word is still to be spoken to its end.
        """
        turn = self._turns.get(self.get_active_audio_context_id() or "")
        at_s = max(self._now_s(), self._playing.dry_at_s() if self._playing is not None else 0.0)
        tracker = self._word_timestamp_tracker
        tracker.last_pts = max(tracker.last_pts, round(at_s * 1e9))
        if turn is not None:
            turn.begin(at_s)
            self._playing = turn
        await super().start_word_timestamps()

    def _now_s(self) -> float:
        return self.get_clock().get_time() / 1e9

    def _classify_error(self, exception: Exception) -> ErrorCategory | None:
        for kinds, category in _CATEGORIES:
            if isinstance(exception, kinds):
                return category
        return None


@dataclass
class _NothingMoreSaid(ControlFrame):
    """Travels with a context's audio: what of its text has had no word by now was not spoken."""

    context_id: str


_CATEGORIES: tuple[tuple[type[CfAgentsError] | tuple[type[CfAgentsError], ...], ErrorCategory], ...] = (
    (Busy, ErrorCategory.RATE_LIMIT),
    (SynthesisFailed, ErrorCategory.SERVER),
    (TextError, ErrorCategory.APPLICATION),
    ((VoiceError, ConfigError), ErrorCategory.INVALID_REQUEST),
)
_ENGLISH = {language: "en" for language in Language if language.value.partition("-")[0] == "en"}
