"""A Pipecat bot with nothing but this machine: a scripted language model, an interruption, a sound file and a picture of it.

    python examples/pipecat_offline.py [MODEL] [FOLDER]

The language model writes a token every 50 ms. The caller breaks in after two seconds of the answer, and asks something else.
Written to FOLDER (or here): `out.wav`, what the caller heard, and `timeline.png`. MODEL is "pocket" unless told.

    pip install pipecat-cf-agents matplotlib
"""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMRunFrame,
    LLMTextFrame,
    OutputAudioRawFrame,
    StartFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner
from pipecat_cf_agents import CfAgentsTTSService

from cf_agents import TTS, Busy, StreamStats, WavWriter
from cf_agents.picture import save_picture

TOKEN_S = 0.05
HEARD_S = 2.0
ANSWERS = [
    "The first train to the coast leaves at nine in the morning. It stops in every village on the way, so bring a book, or "
    "take the express at half past ten.",
    "The express costs twelve dollars more.",
]


class ScriptedLanguageModel(FrameProcessor):
    """Answers each context with the next of `ANSWERS`, a token at a time, until it is interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self._answers = iter(ANSWERS)
        self._writing: asyncio.Task[None] | None = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            self._writing = self.create_task(self._write(next(self._answers)))
            return
        if isinstance(frame, InterruptionFrame | CancelFrame) and self._writing is not None:
            await self.cancel_task(self._writing)
        await self.push_frame(frame, direction)

    async def _write(self, answer: str) -> None:
        await self.push_frame(LLMFullResponseStartFrame())
        for at in range(0, len(answer), 4):
            await self.push_frame(LLMTextFrame(answer[at : at + 4]))
            await asyncio.sleep(TOKEN_S)
        await self.push_frame(LLMFullResponseEndFrame())


class Recorder(BaseOutputTransport):
    """A loudspeaker that writes what it plays, in real time, pauses included."""

    def __init__(self, path: Path) -> None:
        super().__init__(TransportParams(audio_out_enabled=True))
        self._path = path
        self._file: WavWriter | None = None
        self._began = 0.0

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        self._file = WavWriter.create(self._path, self.sample_rate)
        self._began = time.monotonic()
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        assert self._file is not None
        silence_s = time.monotonic() - self._began - self._file.duration_s
        if silence_s > 0.1:
            self._file.write(bytes(2 * round(silence_s * self.sample_rate)))
        self._file.write(frame.audio)
        await asyncio.sleep(max(0.0, self._began + self._file.duration_s - time.monotonic()))
        return True

    async def cleanup(self) -> None:
        await super().cleanup()
        if self._file is not None:
            self._file.close()


class Streams:
    """Keeps the figures of every stream of the model, for the picture."""

    def __init__(self) -> None:
        self.stats: list[StreamStats] = []

    def opened(self, stats: StreamStats) -> Callable[[], object]:
        self.stats.append(stats)
        return lambda: None

    def refused(self, error: Busy) -> None:
        print(error)


def said(context: LLMContext) -> list[str]:
    """What the assistant has said, as the language model will see it."""
    return [str(each.get("content")) for each in context.messages if isinstance(each, dict) and each["role"] == "assistant"]


async def main(model: str, folder: Path) -> None:
    streams = Streams()
    async with TTS.load(model, observers=[streams]) as tts:
        context = LLMContext()
        aggregators = LLMContextAggregatorPair(context)
        pipeline = Pipeline(
            [
                aggregators.user(),
                ScriptedLanguageModel(),
                CfAgentsTTSService(tts=tts),
                Recorder(folder / "out.wav"),
                aggregators.assistant(),
            ]
        )
        worker = PipelineWorker(pipeline)
        speaks, silent = asyncio.Event(), asyncio.Event()
        worker.set_reached_downstream_filter((BotStartedSpeakingFrame, BotStoppedSpeakingFrame))

        @worker.event_handler("on_frame_reached_downstream")
        async def tell(worker: PipelineWorker, frame: Frame) -> None:
            (speaks if isinstance(frame, BotStartedSpeakingFrame) else silent).set()

        async def call() -> float:
            context.add_message({"role": "user", "content": "When does the train leave?"})
            await worker.queue_frame(LLMRunFrame())
            await speaks.wait()
            await asyncio.sleep(HEARD_S)
            interrupted_s = time.monotonic()
            await worker.queue_frame(InterruptionFrame())
            await silent.wait()
            context.add_message({"role": "user", "content": "What does the express cost?"})
            silent.clear()
            await worker.queue_frame(LLMRunFrame())
            await silent.wait()
            await worker.queue_frame(EndFrame())
            return interrupted_s

        runner = WorkerRunner()
        await runner.add_workers(worker)
        interrupted_s, _ = await asyncio.gather(call(), runner.run())
    first, second = said(context)
    told = [f"heard: {first}", f"not heard: {ANSWERS[0][len(first) :].strip()}", f"heard afterwards: {second}"]
    print("\n".join(told))
    save_picture(folder / "timeline.png", streams.stats, interrupted_s=interrupted_s, told=told)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "pocket", Path(sys.argv[2] if len(sys.argv) > 2 else ".")))
