"""A service in a real pipeline, with a listener at its end who hears what the test says has been played.

    test --> service --> listener (audio, and words by their time) --> assistant aggregator --> context

The pipeline's clock moves when told to. The listener does what an output transport does: audio plays from when it comes, one
piece after the other, a frame with a time goes on when its time has come, and any other when the audio before it was played.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from pipecat.clocks.base_clock import BaseClock
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    MetricsFrame,
    StartFrame,
    SystemFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.metrics.metrics import MetricsData
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner
from pipecat_cf_agents import CfAgentsTTSService

F = TypeVar("F", bound=Frame)
M = TypeVar("M", bound=MetricsData)


class FakeClock(BaseClock):
    def __init__(self) -> None:
        self.now_s = 100.0

    def get_time(self) -> int:
        return round(self.now_s * 1e9)

    def start(self) -> None:
        pass


class Listener(FrameProcessor):
    """frames: all that came from the service, in the order it came. ends_s: when the audio that came has been heard."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(enable_direct_mode=True)
        self.frames: list[Frame] = []
        self.ends_s = 0.0
        self.came = asyncio.Event()
        self._clock = clock
        self._timed: list[tuple[int, int, Frame]] = []
        self._count = itertools.count()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if direction is FrameDirection.UPSTREAM:
            await self.push_frame(frame, direction)
            return
        self.frames.append(frame)
        self.came.set()
        if isinstance(frame, InterruptionFrame):
            self._timed = [each for each in self._timed if not each[2].interruptible]
            self.ends_s = 0.0
        if isinstance(frame, TTSAudioRawFrame):
            self.ends_s = max(self.ends_s, self._clock.now_s) + frame.num_frames / frame.sample_rate
            return
        if isinstance(frame, SystemFrame | EndFrame):
            await self.push_frame(frame, direction)
            return
        timed = frame.pts and not isinstance(frame, TTSStoppedFrame)
        due = frame.pts if timed else round(self.ends_s * 1e9)
        heapq.heappush(self._timed, (due or 0, next(self._count), frame))
        await self.hear()

    async def hear(self) -> None:
        """Let the frames go whose time has come."""
        while self._timed and self._timed[0][0] <= self._clock.get_time():
            await self.push_frame(heapq.heappop(self._timed)[2])


class Bench:
    """A running pipeline around `service`."""

    def __init__(self, service: CfAgentsTTSService, *, sample_rate: int = 24_000, enable_tracing: bool = False) -> None:
        self.service = service
        self.clock = FakeClock()
        self.context = LLMContext()
        self.listener = Listener(self.clock)
        self.errors: list[ErrorFrame] = []
        aggregators = LLMContextAggregatorPair(self.context)
        self.worker = PipelineWorker(
            Pipeline([service, self.listener, aggregators.assistant()]),
            clock=self.clock,
            params=PipelineParams(
                audio_out_sample_rate=sample_rate,
                enable_metrics=True,
                enable_usage_metrics=True,
                send_initial_empty_metrics=False,
            ),
            enable_rtvi=False,
            setup_timeout_secs=100.0,
            enable_tracing=enable_tracing,
            cancel_on_idle_timeout=False,
        )

        @self.worker.event_handler("on_pipeline_error")
        async def keep(worker: PipelineWorker, frame: ErrorFrame) -> None:
            self.errors.append(frame)

    async def send(self, *frames: Frame) -> None:
        """Put frames into the service's queue, all at once."""
        for frame in frames:
            await self.service.queue_frame(frame)

    async def reply(self, text: str, *, end: bool = True, size: int = 4) -> None:
        """What a language model pushes: the text in tokens of `size` characters."""
        tokens = [LLMTextFrame(text[at : at + size]) for at in range(0, len(text), size)]
        await self.send(LLMFullResponseStartFrame(), *tokens, *([LLMFullResponseEndFrame()] if end else []))

    async def settle(self) -> None:
        """Let every task run until none of them has anything to do but wait."""
        for _ in range(300):
            await asyncio.sleep(0)

    async def until(self, done: Callable[[], object]) -> None:
        """Wait for what another thread or process brings about, however slow the machine is."""
        async with asyncio.timeout(100):
            while not done():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def play(self, seconds: float) -> None:
        """Let so much time pass for the listener."""
        await self.settle()
        self.clock.now_s += seconds
        await self.listener.hear()
        await self.settle()

    async def interrupt(self) -> None:
        await self.send(InterruptionFrame())
        await self.settle()

    def frames(self, kind: type[F]) -> list[F]:
        return [frame for frame in self.listener.frames if isinstance(frame, kind)]

    def audio(self) -> bytes:
        return b"".join(frame.audio for frame in self.frames(TTSAudioRawFrame))

    def words(self) -> list[tuple[str, float]]:
        """Words as they came, with their times by the pipeline's clock."""
        return [(frame.text, (frame.pts or 0) / 1e9) for frame in self.frames(TTSTextFrame)]

    def metrics(self, kind: type[M]) -> list[M]:
        return [data for frame in self.frames(MetricsFrame) for data in frame.data if isinstance(data, kind)]

    def said(self) -> list[str]:
        """What the context says the assistant said."""
        return [
            str(message["content"])
            for message in self.context.messages
            if isinstance(message, dict) and message["role"] == "assistant"
        ]


@asynccontextmanager
async def open_bench(
    service: CfAgentsTTSService, *, sample_rate: int = 24_000, enable_tracing: bool = False, cancel: bool = False
) -> AsyncIterator[Bench]:
    """Run the pipeline inside the block, and end it afterwards, or cancel it."""
    bench = Bench(service, sample_rate=sample_rate, enable_tracing=enable_tracing)
    started = asyncio.Event()

    @bench.worker.event_handler("on_pipeline_started")
    async def start(worker: PipelineWorker, frame: StartFrame) -> None:
        started.set()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(bench.worker)
    running = asyncio.create_task(runner.run())
    try:
        await asyncio.wait_for(started.wait(), 100)
        yield bench
    finally:
        await bench.worker.queue_frame(CancelFrame() if cancel else EndFrame())
        await asyncio.wait_for(running, 100)
