"""What a link costs and what it saves: the thread link beside the process link and the attached one, on the "tiny" model.

    python -m benchmarks.links [--streams 4] [--seconds 10] [--plot lag.png]

For each link: the way of a block from the scheduler to the event loop; how late the loop wakes from a sleep of 1 ms beside a
scheduler that never rests, with and without a busy agent on that loop (docs/lag.md says what such a sleep measures); and, of
streams that are cancelled and replaced over and over, from `cancel` to the end of the reader's loop, which is silence, and
until the rows are free and this side knows. For the process link also: from SIGKILL of the worker to the error of the last
stream, and to the first audio of a new one.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import numpy as np

from benchmarks.machine import describe
from cf_agents.builtin import tiny_folder
from cf_agents.checkpoint import Checkpoint
from cf_agents.config import DecodeParams
from cf_agents.links.attached import AttachedLink, Start
from cf_agents.links.base import Audio, Closed, Event, Failed, Link, Segment
from cf_agents.links.process import ProcessLink
from cf_agents.serving import MODEL_FACTORY, load_model
from cf_agents.stream import Stream
from cf_agents.voice import Voice

Series = list[tuple[str, list[float]]]
"""What was measured, by name, in seconds."""

PARAMS = DecodeParams(max_tokens=400)
FEW_STEPS = DecodeParams(max_tokens=400, steps=2)
"""For streams that are cancelled after a block or two; what they wait for is a step, and those are as long."""
TEXT = "the quick brown fox jumps over the lazy dog, and then does it again."


@dataclass
class Speaker:
    """A session that is never out of text, at no lead limit."""

    link: Link
    voice: Voice
    ways_s: list[float] = field(default_factory=list)
    steps: int = 0
    over_s: float | None = None
    failed_s: float | None = None
    first_s: float | None = None
    index: int = 0

    def __post_init__(self) -> None:
        self.over, self.heard = anyio.Event(), anyio.Event()
        self.session = self.link.open(self.voice, math.inf, self.receive)
        for _ in range(2):
            self.submit()

    def submit(self) -> None:
        self.session.submit(Segment(self.index, TEXT, PARAMS, self.index))
        self.index += 1

    def receive(self, event: Event) -> None:
        now = time.monotonic()
        match event:
            case Audio():
                if event.block is not None:
                    self.ways_s.append(now - event.block.sent_s)
                    self.steps += event.block.steps
                self.first_s = self.first_s or now
                self.heard.set()
                if event.last:
                    self.submit()
            case Failed():
                self.failed_s = now
            case Closed():
                self.over_s = now
                self.over.set()

    async def close(self) -> None:
        self.session.close()
        await self.over.wait()


@dataclass
class Cancelled:
    """Streams that were cancelled while they spoke: seconds until the reader's loop ended, and until the rows were free."""

    silence_s: list[float] = field(default_factory=list)
    free_s: list[float] = field(default_factory=list)


async def cancel_one(link: Link, voice: Voice, seed: int, into: Cancelled) -> None:
    """A stream with a reader in a task of its own, cancelled at some time after its first or second chunk."""
    began = ended_s = 0.0
    chunks, cancelled = 0, False
    taken = anyio.Event()

    async def read() -> None:
        nonlocal ended_s, chunks
        async for _ in stream:
            assert not cancelled, "a chunk came after the cancel"
            chunks += 1
            if chunks == 1 + seed % 2:
                taken.set()
        ended_s = time.monotonic()

    async with Stream(link, voice, params=FEW_STEPS, seed=seed, lead_s=math.inf) as stream:
        async with anyio.create_task_group() as group:
            stream.write(TEXT * 2)
            stream.end()
            group.start_soon(read)
            await taken.wait()
            await anyio.sleep(0.005 * (seed % 7))
            began, cancelled = time.monotonic(), True
            stream.cancel_nowait()
        into.silence_s.append(ended_s - began)
        await stream.aclose()
        into.free_s.append(time.monotonic() - began)


async def cancel_many(link: Link, voice: Voice, count: int, together: int) -> Cancelled:
    """So many, of which so many speak at a time: they are what keeps the scheduler from rest."""
    into, seeds = Cancelled(), iter(range(count))

    async def one_after_another() -> None:
        for seed in seeds:
            await cancel_one(link, voice, seed, into)

    async with anyio.create_task_group() as group:
        for _ in range(together):
            group.start_soon(one_after_another)
    return into


async def lags(seconds: float, work_s: float) -> list[float]:
    """How late the loop wakes, over and over; `work_s` of Python every 10 ms stand for a busy agent."""
    late: list[float] = []
    end = next_work = time.monotonic()
    end += seconds
    while (now := time.monotonic()) < end:
        if work_s and now >= next_work:
            next_work = now + 0.01
            while time.monotonic() < now + work_s:
                pass
        began = time.monotonic()
        await anyio.sleep(0.001)
        late.append(time.monotonic() - began - 0.001)
    return late


def row(name: str, values_s: list[float], series: Series) -> None:
    series.append((name, values_s))
    p50, p99 = np.percentile(values_s, [50, 99]) * 1e3
    print(f"{name:44}{p50:9.2f}{p99:9.2f}{max(values_s) * 1e3:9.2f}{len(values_s):8}", flush=True)


async def measure(kind: str, open_link: Callable[[], Link], voice: Voice, args: argparse.Namespace) -> Series:
    series: Series = []
    began = time.monotonic()
    link = await anyio.to_thread.run_sync(open_link)
    print(f"\n{kind} link, started in {time.monotonic() - began:.1f} s")
    print(f"{'ms':44}{'p50':>9}{'p99':>9}{'max':>9}{'of':>8}", flush=True)
    try:
        row("loop lag, nobody speaks", await lags(args.seconds, 0.0), series)
        speakers = [Speaker(link, voice) for _ in range(args.streams)]
        await anyio.sleep(2.0)
        for busy_s, name in ((0.0, "an idle agent"), (0.005, "an agent that works half the time")):
            steps, began = sum(speaker.steps for speaker in speakers), time.monotonic()
            row(f"loop lag, {name}", await lags(args.seconds, busy_s), series)
            rate = (sum(speaker.steps for speaker in speakers) - steps) / (time.monotonic() - began)
            print(f"    row steps per second: {rate:.0f}", flush=True)
        row("a block's way to the loop", [way for speaker in speakers for way in speaker.ways_s], series)
        for speaker in speakers:
            await speaker.close()
        cancelled = await cancel_many(link, voice, args.cancels, args.streams)
        row("from cancel() to silence", cancelled.silence_s, series)
        row("from cancel() to rows free, and known", cancelled.free_s, series)
        speakers = [Speaker(link, voice) for _ in range(args.streams)]
        await anyio.sleep(1.0)
        if isinstance(link, AttachedLink):
            began = time.monotonic()
            other = await anyio.to_thread.run_sync(open_link)
            print(f"attached to a server that is there in {(time.monotonic() - began) * 1e3:.0f} ms")
            await other.aclose()
        if isinstance(link, (ProcessLink, AttachedLink)):
            await kill(link, speakers, voice)
        for speaker in speakers:
            if speaker.over_s is None:
                await speaker.close()
    finally:
        await link.aclose()
    return series


async def kill(link: ProcessLink | AttachedLink, speakers: list[Speaker], voice: Voice) -> None:
    assert link.pid is not None
    began = time.monotonic()
    os.kill(link.pid, signal.SIGKILL)
    for speaker in speakers:
        await speaker.over.wait()
    told = max(speaker.failed_s or math.inf for speaker in speakers) - began
    after = Speaker(link, voice)
    await after.heard.wait()
    assert after.first_s is not None
    print(f"SIGKILL: every stream was told after {told * 1e3:.0f} ms; a new one spoke after {after.first_s - began:.2f} s")
    await after.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement of the loop")
    parser.add_argument("--cancels", type=int, default=1000)
    parser.add_argument("--plot", type=Path, help="the event loop's lag, a PNG (needs matplotlib)")
    parser.add_argument("--weights", type=Path, help='a checkpoint folder other than "tiny", with a default voice')
    parser.add_argument("--links", nargs="+", choices=["process", "attached", "thread"], help="some of them only")
    args = parser.parse_args()
    folder = args.weights or tiny_folder()
    voice = Voice.load(Checkpoint.open(folder).voices["default"])
    asked = {"backend": "dense", "device": "cpu", "dtype": "float32"}
    arguments: dict[str, object] = {"folder": str(folder), "max_streams": args.streams + 2, "choose": asked}

    def thread() -> Link:
        return load_model(arguments, lambda _: None).link

    def process() -> Link:
        link = ProcessLink(MODEL_FACTORY, arguments, lambda _: None)
        link.wait(threading.Event())
        return link

    def attached() -> Link:
        start = Start(MODEL_FACTORY, arguments, 1.0)
        link = AttachedLink(Path(run_folder) / "socket", start, lambda _: None, lambda _: None)
        link.wait()
        return link

    print(f"{describe()}; load {os.getloadavg()[0]:.1f}; {args.streams} streams that never rest")
    opened = {"process": process, "attached": attached, "thread": thread}
    found: dict[str, Series] = {}
    with tempfile.TemporaryDirectory() as run_folder:
        for kind in opened:
            # The thread link last: once torch is here, its threads are too.
            if kind in (args.links or opened):
                found[kind] = anyio.run(measure, kind, opened[kind], voice, args)
        while os.listdir(run_folder):
            # The server ends a second after its last client, and then nothing of it is there.
            time.sleep(0.1)
    if args.plot:
        plot(found, args.plot, f"{describe()}; {args.weights or 'the model tiny'}, {args.streams} streams that never rest")


def plot(found: dict[str, Series], target: Path, what: str) -> None:
    """Of the loop's wakes, the share that came later than so many milliseconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for (kind, series), color in zip(found.items(), ("tab:blue", "tab:green", "tab:orange"), strict=False):
        for (name, values_s), style in zip([each for each in series if "lag" in each[0]], (":", "-", "--"), strict=True):
            late_ms = np.sort(values_s)[::-1] * 1e3
            axes.loglog(np.maximum(late_ms, 0.01), np.arange(1, len(late_ms) + 1) / len(late_ms), style, color=color)
            axes.lines[-1].set_label(f"{kind} link, {name.removeprefix('loop lag, ')}")
    axes.axvline(5.0, color="black", lw=0.8, ls=":")
    axes.set(xlabel="the loop wakes later than, ms", ylabel="share of wakes", title=what)
    axes.title.set_fontsize(8)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=100)
    print(f"\nlag of the event loop: {target}")


if __name__ == "__main__":
    main()
