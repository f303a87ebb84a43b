"""A LiveKit agent with nothing but this machine: a scripted language model, an interruption, a sound file and a picture of it.

    python examples/livekit_offline.py [MODEL] [FOLDER]

The language model writes a token every 50 ms. After three seconds of speech the caller breaks in and asks something else.
Written to FOLDER (the current one by default): `out.wav`, what the caller heard, and `timeline.png`. MODEL is "pocket" by
default.

    pip install livekit-plugins-cf-agents matplotlib
"""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

from livekit import rtc
from livekit.agents import DEFAULT_API_CONNECT_OPTIONS, Agent, AgentSession, APIConnectOptions, llm
from livekit.agents.voice.io import AudioOutput, AudioOutputCapabilities, TextOutput
from livekit.agents.voice.transcription import TranscriptSynchronizer
from livekit.plugins import cf_agents

from cf_agents import TTS, Busy, StreamStats, WavWriter
from cf_agents.picture import save_picture

TOKEN_S = 0.05
INTERRUPTED_AFTER_S = 3.0
TURNS = [
    (
        "When does the train leave?",
        "The first train to the coast leaves at nine in the morning. It stops in every village on the way, so bring a book, or "
        "take the express at half past ten.",
    ),
    ("What does the express cost?", "The express costs twelve dollars more."),
]


class ScriptedLanguageModel(llm.LLM):
    """Answers the questions of `TURNS`, four characters at a time."""

    def chat(
        self,
        *,
        chat_ctx: llm.ChatContext,
        tools: list[llm.Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        **_: object,
    ) -> llm.LLMStream:
        return Answer(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


class Answer(llm.LLMStream):
    async def _run(self) -> None:
        asked = [item for item in self.chat_ctx.items if isinstance(item, llm.ChatMessage) and item.role == "user"][-1]
        answer = dict(TURNS)[asked.text_content or ""]
        for at in range(0, len(answer), 4):
            delta = llm.ChoiceDelta(role="assistant", content=answer[at : at + 4])
            self._event_ch.send_nowait(llm.ChatChunk(id="script", delta=delta))
            await asyncio.sleep(TOKEN_S)


class Recorder(AudioOutput):
    """A loudspeaker that writes what it plays, in real time, pauses included. In a room LiveKit has one of its own."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        super().__init__(label="recorder", capabilities=AudioOutputCapabilities(pause=False), sample_rate=sample_rate)
        self._file = WavWriter.create(path, sample_rate)
        self._began: float | None = None
        self._waiting: list[rtc.AudioFrame] = []
        self._coming = asyncio.Event()
        self._played_s = 0.0
        self._speaking = self._ended = False
        self.heard = asyncio.Event()
        self._player = asyncio.create_task(self._play())

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        self._speaking, self._ended = True, False
        self._waiting.append(frame)
        self._coming.set()

    def flush(self) -> None:
        super().flush()
        self._ended = True
        self._coming.set()

    def clear_buffer(self) -> None:
        self._waiting.clear()
        # Told when the session has ended its text too, which it does next.
        asyncio.get_running_loop().call_soon(self._finish, True)

    async def aclose(self) -> None:
        self._player.cancel()
        await asyncio.wait([self._player])
        self._file.close()

    async def _play(self) -> None:
        while True:
            await self._coming.wait()
            if self._waiting:
                frame = self._waiting.pop(0)
                if not self._played_s:
                    self.on_playback_started(created_at=time.time())
                    self.heard.set()
                self._write(frame)
                self._played_s += frame.duration
                assert self._began is not None
                await asyncio.sleep(self._began + self._file.duration_s - time.monotonic())
            else:
                if self._ended:
                    self._finish(interrupted=False)
                self._coming.clear()

    def _write(self, frame: rtc.AudioFrame) -> None:
        now = time.monotonic()
        self._began = self._began or now
        silence_s = now - self._began - self._file.duration_s
        if silence_s > 0.1:
            self._file.write(bytes(2 * round(silence_s * self._file.sample_rate)))
        self._file.write(bytes(frame.data))

    def _finish(self, interrupted: bool) -> None:
        if self._speaking:
            played_s, self._played_s, self._speaking = self._played_s, 0.0, False
            self.on_playback_finished(playback_position=played_s, interrupted=interrupted)


class Screen(TextOutput):
    """Shows the words as they are heard. In a room LiveKit sends them to the participants."""

    def __init__(self) -> None:
        super().__init__(label="screen", next_in_chain=None)

    async def capture_text(self, text: str) -> None:
        print(text, end="", flush=True)

    def flush(self) -> None:
        print()


class Streams:
    """Keeps the figures of every stream of the model, for the picture."""

    def __init__(self) -> None:
        self.stats: list[StreamStats] = []

    def opened(self, stats: StreamStats) -> Callable[[], object]:
        self.stats.append(stats)
        return lambda: None

    def refused(self, error: Busy) -> None:
        print(error)


def said(session: AgentSession) -> list[str]:
    """What the assistant has said, as the language model will see it."""
    messages = [item for item in session.history.items if isinstance(item, llm.ChatMessage)]
    return [message.text_content or "" for message in messages if message.role == "assistant"]


async def main(model: str, folder: Path) -> None:
    streams = Streams()
    speech = cf_agents.TTS(model=lambda: TTS.load(model, observers=[streams]))
    session = AgentSession(
        llm=ScriptedLanguageModel(),
        tts=speech,
        vad=None,
        turn_handling={"turn_detection": "manual", "interruption": {"resume_false_interruption": False}},
        use_tts_aligned_transcript=True,  # the history then holds what was heard
    )
    recorder = Recorder(folder / "out.wav", speech.sample_rate)
    # In a room: `transcription_speed_factor`. These voices are faster than LiveKit takes them for.
    synchroniser = TranscriptSynchronizer(next_in_chain_audio=recorder, next_in_chain_text=Screen(), speed=1.25)
    session.output.audio = synchroniser.audio_output
    session.output.transcription = synchroniser.text_output
    await speech.ready()
    await session.start(Agent(instructions="You sell railway tickets."))

    (question, answer), (other_question, _) = TURNS
    reply = session.generate_reply(user_input=question)
    await recorder.heard.wait()
    await asyncio.sleep(INTERRUPTED_AFTER_S)
    interrupted_s = time.monotonic()
    session.interrupt()
    await reply
    await session.generate_reply(user_input=other_question)
    first, second = said(session)

    await session.aclose()
    await synchroniser.aclose()
    await recorder.aclose()
    await speech.aclose()
    told = [f"heard: {first}", f"not heard: {answer[len(first) :].strip()}", f"afterwards: {second}"]
    print("\n".join(told))
    save_picture(folder / "timeline.png", streams.stats, interrupted_s=interrupted_s, told=told)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "pocket", Path(sys.argv[2] if len(sys.argv) > 2 else ".")))
