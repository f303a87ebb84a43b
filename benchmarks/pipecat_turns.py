"""Turns of a Pipecat bot that is interrupted over and over: when it starts to speak, how fast it is silent, what comes late.

    PYTHONPATH=.:integrations/pipecat-cf-agents/src python -m benchmarks.pipecat_turns [--turns 200] [--bots 1] [--link process]

Each bot is a real pipeline around `CfAgentsTTSService`, all in this process and on one engine. A scripted language model writes
a token every `--token-ms`; each reply is interrupted at a random time after its first audio. Seen from behind the service:

    first audio      from the first token to the first audio frame; and in how many turns that was before the text's end
    silence          from the interruption's entry into the pipeline to the last audio or word frame out of the service
    late, foreign    frames behind the interruption, frames of another turn: both have to be 0
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from contextlib import AsyncExitStack
from typing import get_args

import numpy as np
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
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner
from pipecat_cf_agents import CfAgentsTTSService

from benchmarks.machine import describe
from cf_agents import TTS
from cf_agents.tts import Linked

TEXT = "Certainly, I can look that up for you. The first train leaves at nine in the morning, and the next an hour later. " * 3


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


class Figures:
    def __init__(self) -> None:
        self.first_s: list[float] = []
        self.silence_s: list[float] = []
        self.before_end = self.late = self.foreign = 0


async def converse(worker: PipelineWorker, ear: Ear, args: argparse.Namespace, figures: Figures, seed: int) -> None:
    source = random.Random(seed)
    contexts: set[str | None] = set()
    for _ in range(args.turns):
        ear.first.clear()
        ear.silenced.clear()
        began, ended = time.perf_counter(), asyncio.Event()

        async def write(ended: asyncio.Event = ended) -> None:
            await worker.queue_frame(LLMFullResponseStartFrame())
            for at in range(0, len(TEXT), 4):
                await worker.queue_frame(LLMTextFrame(TEXT[at : at + 4]))
                await asyncio.sleep(args.token_ms / 1e3)
            await worker.queue_frame(LLMFullResponseEndFrame())
            ended.set()

        writing = asyncio.create_task(write())
        await ear.first.wait()
        figures.before_end += not ended.is_set()
        figures.first_s.append(time.perf_counter() - began)
        await asyncio.sleep(source.uniform(0.0, 0.3))
        writing.cancel()
        interrupted = time.perf_counter()
        await worker.queue_frame(InterruptionFrame())
        await ear.silenced.wait()
        await asyncio.sleep(0.05)
        at = next(i for i, (_, frame) in enumerate(ear.came) if isinstance(frame, InterruptionFrame))
        before, after = ear.came[:at], ear.came[at + 1 :]
        figures.silence_s.append(max([0.0, *(came - interrupted for came, _ in [*before, *after])]))
        mine = {getattr(frame, "context_id", None) for _, frame in before}
        figures.late += len(after)
        figures.foreign += len(mine) - 1 + len(mine & contexts)
        contexts |= mine
        ear.came.clear()


async def measure(args: argparse.Namespace) -> Figures:
    figures = Figures()
    async with AsyncExitStack() as stack:
        tts = await stack.enter_async_context(TTS.load(args.model, link=args.link, max_streams=max(2, 2 * args.bots)))
        ears = [Ear() for _ in range(args.bots)]
        workers = [PipelineWorker(Pipeline([CfAgentsTTSService(tts=tts), ear]), enable_rtvi=False) for ear in ears]
        runner = WorkerRunner()
        await runner.add_workers(*workers)
        running = asyncio.create_task(runner.run())
        pairs = enumerate(zip(workers, ears, strict=True))
        await asyncio.gather(*(converse(worker, ear, args, figures, seed) for seed, (worker, ear) in pairs))
        for worker in workers:
            await worker.queue_frame(EndFrame())
        await running
    return figures


def row(name: str, values_s: list[float]) -> None:
    p50, p99 = np.percentile(values_s, [50, 99]) * 1e3
    print(f"{name:28}{p50:9.2f}{p99:9.2f}{max(values_s) * 1e3:9.2f}{len(values_s):8}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=200, help="of each bot")
    parser.add_argument("--bots", type=int, default=1)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--link", choices=get_args(Linked), default="process")
    parser.add_argument("--token-ms", type=float, default=10.0)
    args = parser.parse_args()
    logger.remove()
    figures = asyncio.run(measure(args))
    print(f"{args.bots} bots, {args.model}, {args.link} link; {describe()}")
    print(f"{'ms':28}{'p50':>9}{'p99':>9}{'max':>9}{'turns':>8}")
    row("first audio", figures.first_s)
    row("silence", figures.silence_s)
    print(f"first audio before the text's end: {figures.before_end} of {len(figures.first_s)}")
    print(f"late frames {figures.late}, foreign frames {figures.foreign}")


if __name__ == "__main__":
    main()
