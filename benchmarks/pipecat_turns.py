"""Turns of a Pipecat bot that is interrupted over and over: when it starts to speak, how fast it is silent, what comes late.

    PYTHONPATH=.:integrations/pipecat-cf-agents/src python -m benchmarks.pipecat_turns [--turns 200] [--bots 1] [--link process]

Each bot is a real pipeline around `CfAgentsTTSService`, all in this process and on one engine. A scripted language model writes
a token every `--token-ms`; each reply is interrupted at a random time after its first audio. Frames are seen from behind the
service; what is foreign is told by their audio contexts. See `turns` for the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from contextlib import AsyncExitStack

from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameCallback, FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner
from pipecat_cf_agents import CfAgentsTTSService

from benchmarks.turns import AFTERWARDS_S, TOKEN_CHARS, Figures, heard_s, is_foreign, parser, report, text_of, turns_each
from cf_agents import TTS


class Service(CfAgentsTTSService):
    """Notes when an interruption arrives at its door."""

    told = 0.0

    async def queue_frame(
        self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM, callback: FrameCallback | None = None
    ) -> None:
        if isinstance(frame, InterruptionFrame):
            self.told = time.perf_counter()
        await super().queue_frame(frame, direction, callback)


class Ear(FrameProcessor):
    """Times of what comes out of the service."""

    def __init__(self) -> None:
        super().__init__(enable_direct_mode=True)
        self.came: list[tuple[float, Frame]] = []
        self.first = asyncio.Event()
        self.silenced = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame | TTSTextFrame | InterruptionFrame):
            self.came.append((time.perf_counter(), frame))
        if isinstance(frame, TTSAudioRawFrame):
            self.first.set()
        elif isinstance(frame, InterruptionFrame):
            self.silenced.set()
        await self.push_frame(frame, direction)


async def converse(
    worker: PipelineWorker, service: Service, ear: Ear, args: argparse.Namespace, figures: Figures, bot: int
) -> None:
    source = random.Random(bot)
    contexts: set[str | None] = set()
    for turn in range(turns_each(args)):
        ear.first.clear()
        ear.silenced.clear()
        text = text_of(bot, turn)
        writing = asyncio.create_task(write(worker, text, args.token_ms / 1e3))
        began = time.perf_counter()
        await ear.first.wait()
        figures.before_end += not writing.done()
        figures.first_s.append(time.perf_counter() - began)
        await asyncio.sleep(heard_s(source))
        writing.cancel()
        interrupted = time.perf_counter()
        await worker.queue_frame(InterruptionFrame())
        await ear.silenced.wait()
        await asyncio.sleep(AFTERWARDS_S)
        at = next(i for i, (_, frame) in enumerate(ear.came) if isinstance(frame, InterruptionFrame))
        before, after = ear.came[:at], ear.came[at + 1 :]
        last = max(came for came, _ in [*before, *after])
        figures.last_s.append(max(0.0, last - interrupted))
        figures.told_s.append(service.told - interrupted)
        figures.last_told_s.append(max(0.0, last - service.told))
        figures.silence_s.append(ear.came[at][0] - interrupted)
        mine = {getattr(frame, "context_id", None) for _, frame in before}
        words = " ".join(frame.text for _, frame in before if isinstance(frame, TTSTextFrame))
        figures.late += len(after)
        figures.foreign += len(mine) - 1 + len(mine & contexts) + is_foreign(words, text)
        contexts |= mine
        ear.came.clear()


async def write(worker: PipelineWorker, text: str, token_s: float) -> None:
    await worker.queue_frame(LLMFullResponseStartFrame())
    for at in range(0, len(text), TOKEN_CHARS):
        await worker.queue_frame(LLMTextFrame(text[at : at + TOKEN_CHARS]))
        await asyncio.sleep(token_s)
    await worker.queue_frame(LLMFullResponseEndFrame())


async def measure(args: argparse.Namespace) -> Figures:
    figures = Figures()
    async with AsyncExitStack() as stack:
        tts = await stack.enter_async_context(TTS.load(args.model, link=args.link, max_streams=max(2, 2 * args.bots)))
        ears = [Ear() for _ in range(args.bots)]
        services = [Service(tts=tts) for _ in ears]
        workers = [
            PipelineWorker(Pipeline([service, ear]), enable_rtvi=False) for service, ear in zip(services, ears, strict=True)
        ]
        runner = WorkerRunner()
        await runner.add_workers(*workers)
        running = asyncio.create_task(runner.run())
        parts = enumerate(zip(workers, services, ears, strict=True))
        await asyncio.gather(*(converse(*each, args, figures, bot) for bot, each in parts))
        for worker in workers:
            await worker.queue_frame(EndFrame())
        await running
    return figures


def main() -> None:
    args = parser(__doc__, ("process", "thread")).parse_args()
    logger.remove()
    report("bots", args, asyncio.run(measure(args)))


if __name__ == "__main__":
    main()
