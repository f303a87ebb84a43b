"""A conversation without a network: an engine that speaks by the clock, a language model that reads out a script, and a
loudspeaker that plays in real time and remembers what was heard of whom.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from livekit import rtc
from livekit.agents import Agent, AgentSession, llm, tts, voice
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, USERDATA_TIMED_TRANSCRIPT, APIConnectOptions, TimedString
from livekit.agents.voice.io import AudioOutput, AudioOutputCapabilities, TextOutput
from livekit.agents.voice.transcription import TranscriptSynchronizer
from livekit.plugins import cf_agents
from virtual_time import VirtualLoop

from cf_agents import DecodeParams, Stream, StreamStats, Voice
from cf_agents.errors import CfAgentsError, VoiceError
from cf_agents.links.base import Audio, Block, Closed, Event, Failed, Segment
from cf_agents.observer import StreamObserver
from tests.fakes import fake_voice

SAMPLE_RATE = 24_000
PACE = 1.25
"""The `transcription_speed_factor` that the README advises."""


class FakeEngine:
    """Speaks 15 characters a second in blocks of `audio_s`, each `block_s` after the one before, as far ahead as it may.

    All samples of its stream number N are N + 1, so that audio says whose it is. error: what a stream ends with after
    `fail_after` blocks. on_open: called before a stream is made. silent: a stream that is closed is told nothing.
    """

    def __init__(self, observers: Sequence[StreamObserver] = ()) -> None:
        self.observers = observers
        self.block_s = 0.08
        self.audio_s = 0.64
        self.silent = False
        self.sample_rate = SAMPLE_RATE
        self.sessions: list[FakeSession] = []
        self.stats: list[StreamStats] = []
        self.asked: list[dict[str, object]] = []
        self.on_open: Callable[[], None] = lambda: None
        self.error: CfAgentsError | None = None
        self.fail_after = 0
        self.entered = self.closed = 0

    async def __aenter__(self) -> FakeEngine:
        self.entered += 1
        return self

    async def aclose(self) -> None:
        self.closed += 1

    def stream(
        self, voice: Voice | str | Path, *, params: DecodeParams | str | None, lead_s: float | None, sample_rate: int | None
    ) -> Stream:
        self.asked.append({"voice": voice, "params": params, "lead_s": lead_s, "sample_rate": sample_rate})
        self.on_open()
        if isinstance(voice, str) and voice not in ("default", "male"):
            raise VoiceError(f"There is no voice {voice!r}.")
        stream = Stream(
            self,
            fake_voice(),
            params=DecodeParams(),
            seed=1,
            lead_s=lead_s or 2.0,
            sample_rate=sample_rate,
            observers=self.observers,
        )
        self.stats.append(stream.stats)
        return stream

    def open(self, voice: Voice, lead_s: float, receive: Callable[[Event], None]) -> FakeSession:
        session = FakeSession(self, len(self.sessions), lead_s, receive)
        self.sessions.append(session)
        return session

    @property
    def open_sessions(self) -> int:
        return sum(not session.closed for session in self.sessions)


@dataclass(eq=False)
class FakeSession:
    """One stream's line to a `FakeEngine`."""

    engine: FakeEngine
    number: int
    lead_s: float
    receive: Callable[[Event], None]
    segments: list[Segment] = field(default_factory=list)
    blocks: int = 0
    spoken: int = 0
    made_s: float = 0.0
    closed: bool = False
    _first_at: float = 0.0
    _worker: asyncio.Task[None] | None = None

    def submit(self, segment: Segment) -> None:
        self.segments.append(segment)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._speak())

    def report_position(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            if self._worker is not None:
                self._worker.cancel()
            if not self.engine.silent:
                asyncio.get_running_loop().call_soon(self.receive, Closed())

    async def _speak(self) -> None:
        while self.spoken < len(self.segments):
            segment = self.segments[self.spoken]
            left = max(1, round(len(segment.text) / 15 * SAMPLE_RATE))
            while left:
                began = time.monotonic()
                self._first_at = self._first_at or began + self.engine.block_s
                ahead_s = self.made_s - (began - self._first_at)
                await asyncio.sleep(max(self.engine.block_s, ahead_s - self.lead_s))
                if self.engine.error is not None and self.blocks >= self.engine.fail_after:
                    self.receive(Failed(self.engine.error))
                    return
                count = min(left, round(self.engine.audio_s * SAMPLE_RATE))
                left -= count
                self.blocks += 1
                self.made_s += count / SAMPLE_RATE
                now = time.monotonic()
                pcm = np.full(count, self.number + 1, "<i2").tobytes()
                self.receive(Audio(segment.index, pcm, not left, Block(16, 8, began, now, now)))
            self.spoken += 1


class Script(llm.LLM):
    """A language model that writes `replies`, in turn, in pieces of `size` characters, one each `token_s`.

    before_last: what it waits for before the last piece of a reply.
    """

    def __init__(self, replies: Sequence[str], token_s: float = 0.03, size: int = 5) -> None:
        super().__init__()
        self.replies = replies
        self.token_s = token_s
        self.size = size
        self.turn = 0
        self.before_last: asyncio.Event | None = None
        self.ended_at: list[float] = []

    def chat(
        self,
        *,
        chat_ctx: llm.ChatContext,
        tools: list[llm.Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        **_: object,
    ) -> llm.LLMStream:
        reply = self.replies[self.turn % len(self.replies)]
        self.turn += 1
        return _ScriptStream(self, reply, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


class _ScriptStream(llm.LLMStream):
    def __init__(
        self, script: Script, reply: str, *, chat_ctx: llm.ChatContext, tools: list[llm.Tool], conn_options: APIConnectOptions
    ) -> None:
        super().__init__(script, chat_ctx=chat_ctx, tools=tools, conn_options=conn_options)
        self._script = script
        self._reply = reply

    async def _run(self) -> None:
        for at in range(0, len(self._reply), self._script.size):
            piece = self._reply[at : at + self._script.size]
            if self._script.before_last is not None and at + self._script.size >= len(self._reply):
                await self._script.before_last.wait()
            self._event_ch.send_nowait(llm.ChatChunk(id="scripted", delta=llm.ChoiceDelta(role="assistant", content=piece)))
            await asyncio.sleep(self._script.token_s)
        self._script.ended_at.append(time.time())


@dataclass
class Heard:
    """What came out of the loudspeaker in one go. Times are `time.time()`, `played_s` is where it ended or was cut off."""

    started_at: float
    frames: list[tuple[float, rtc.AudioFrame]] = field(default_factory=list)
    words: list[TimedString] = field(default_factory=list)
    played_s: float = 0.0
    gaps_s: float = 0.0
    interrupted: bool = False
    playing_until: float = 0.0

    @property
    def seconds(self) -> float:
        """Audio that was given, played or not."""
        return sum(frame.duration for _, frame in self.frames)

    @property
    def samples(self) -> np.ndarray:
        return np.concatenate([np.frombuffer(frame.data, np.int16) for _, frame in self.frames])

    @property
    def text(self) -> str:
        """The words that were over when it ended."""
        return "".join(word for word in self.words if word.end_time <= self.played_s)


class Loudspeaker(AudioOutput):
    """Plays at once and in real time, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(label="loudspeaker", capabilities=AudioOutputCapabilities(pause=False))
        self.heard: list[Heard] = []
        self._playing: Heard | None = None
        self._ending: asyncio.TimerHandle | None = None

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        now = time.time()
        if self._playing is None:
            self._playing = Heard(now, playing_until=now)
            self.heard.append(self._playing)
            self.on_playback_started(created_at=now)
        heard = self._playing
        heard.gaps_s += max(0.0, now - heard.playing_until)
        heard.playing_until = max(heard.playing_until, now) + frame.duration
        heard.frames.append((now, frame))
        heard.words += frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, [])

    def flush(self) -> None:
        super().flush()
        if self._playing is not None and self._ending is None:
            left_s = max(0.0, self._playing.playing_until - time.time())
            self._ending = asyncio.get_running_loop().call_later(left_s, self._finish, False)

    def clear_buffer(self) -> None:
        self._finish(True)

    def _finish(self, interrupted: bool) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        if self._playing is not None:
            heard, self._playing = self._playing, None
            heard.interrupted = interrupted
            heard.played_s = heard.seconds - max(0.0, heard.playing_until - time.time())
            self.on_playback_finished(playback_position=heard.played_s, interrupted=interrupted)


class Transcript(TextOutput):
    """What the room is shown."""

    def __init__(self) -> None:
        super().__init__(label="transcript", next_in_chain=None)
        self.text = ""

    async def capture_text(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        self.text += "\n"


@dataclass
class Conversation:
    """A running session and its ends."""

    session: AgentSession
    loudspeaker: Loudspeaker
    transcript: Transcript
    script: Script
    errors: list[object]

    @property
    def last(self) -> Heard:
        return self.loudspeaker.heard[-1]

    def messages(self) -> list[llm.ChatMessage]:
        """The agent's part of the history."""
        items = self.session.history.items
        return [item for item in items if isinstance(item, llm.ChatMessage) and item.role == "assistant"]

    def said(self) -> list[str]:
        """The text of `messages`."""
        return [message.text_content or "" for message in self.messages()]

    async def reply(self, interrupt_after_s: float | None = None) -> voice.SpeechHandle:
        """One turn; interrupted so long after its first sound, if at all."""
        count = len(self.loudspeaker.heard)
        handle = self.session.generate_reply(user_input="Go on.")
        if interrupt_after_s is not None:
            while len(self.loudspeaker.heard) == count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(interrupt_after_s)
            await self.session.interrupt()
        await handle
        return handle


@contextlib.asynccontextmanager
async def conversation(
    speech: tts.TTS, script: Script, *, agent: Agent | None = None, pace: float = 1.0, **options: object
) -> AsyncIterator[Conversation]:
    """A session around `speech`, wired as LiveKit wires a room's, closed at the end. pace: its `transcription_speed_factor`."""
    session = AgentSession(
        llm=script,
        tts=speech,
        vad=None,
        turn_handling={"turn_detection": "manual", "interruption": {"resume_false_interruption": False}},
        use_tts_aligned_transcript=True,
        user_away_timeout=None,
        **options,
    )
    loudspeaker, transcript = Loudspeaker(), Transcript()
    synchroniser = TranscriptSynchronizer(next_in_chain_audio=loudspeaker, next_in_chain_text=transcript, speed=pace)
    session.output.audio = synchroniser.audio_output
    session.output.transcription = synchroniser.text_output
    errors: list[object] = []
    session.on("error", errors.append)
    await session.start(agent or Agent(instructions="Be brief."))
    try:
        yield Conversation(session, loudspeaker, transcript, script, errors)
    finally:
        await session.aclose()
        await synchroniser.aclose()


async def loaded(speech: cf_agents.TTS) -> None:
    """Wait for what another thread does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    with loop.waiting():
        await speech.ready()
