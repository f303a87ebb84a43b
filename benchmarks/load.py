"""Many streams on one model: how long each waits, whether it runs dry, and what going together saves.

    python -m benchmarks.load --rate 0.5 --seconds 120 [--write words|whole] [--cancels 0.2] [--plot load.png]
    python -m benchmarks.load --together 8 [--repeats 3] [--peer-python PEER/bin/python --weights FOLDER]

Load: streams arrive at random (Poisson) whether or not earlier ones are done, so that queues show. Each is written one word per
10 ms, as a language model writes, or whole, and read as fast as audio comes; a share of them is cancelled on the way. Told are
the time to the first sample over -60 dBFS, the real-time factor, who ran dry against real-time playback, and who was refused.

Together: the same text one after another and all at once, in turn, on one loaded model. With PEER (see
`benchmarks/peer_environment.sh`) also the published package on the same full-size weights, one text alone and all of them as
the static batch of its `generate_batch`: all are known before it begins, and none is heard before the last is done.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import numpy as np

from benchmarks.first_audio import TEXT, Program, drawn_voice
from benchmarks.machine import describe
from cf_agents import TTS, Busy, CfAgentsError, Stream, StreamStats
from cf_agents.config import TOKEN_RATE

TEXTS = (
    "Sure, I can help with that. Which day would suit you best?",
    "Your table is booked for seven tomorrow evening. Would you like a seat by the window?",
    "I am sorry, that took longer than it should have. Let me look at your order again, and I will tell you where it is.",
    "Yes.",
    "The next train to the harbour leaves in twelve minutes from platform four, and the one after that in half an hour.",
    "Okay, I have changed the address. Is there anything else that I can do for you today?",
    "It will rain in the morning and clear up after lunch, so take a coat if you leave early.",
    "Could you say the last part again, please?",
)
WORD_S = 0.01


@dataclass
class Outcomes:
    """What became of the streams of one run."""

    stats: list[StreamStats] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    open: int = 0
    most_open: int = 0


async def write(stream: Stream, text: str, how: str) -> None:
    if how == "whole":
        stream.write(text)
    else:
        for word in text.split(" "):
            stream.write(word + " ")
            await anyio.sleep(WORD_S)
    stream.end()


async def visit(tts: TTS, text: str, cancel_after_s: float, seed: int, args: argparse.Namespace, into: Outcomes) -> None:
    """One caller: arrives, is refused or served, and may stop listening."""
    try:
        stream = tts.stream(args.voice, seed=seed)
    except Busy:
        into.ends["busy"] += 1
        return
    into.stats.append(stream.stats)
    into.open += 1
    into.most_open = max(into.most_open, into.open)
    try:
        with anyio.move_on_after(cancel_after_s):
            async with stream, anyio.create_task_group() as group:
                group.start_soon(write, stream, text, args.write)
                async for _ in stream:
                    pass
        into.ends[stream.stats.outcome] += 1
    except* CfAgentsError:
        into.ends["failed"] += 1
    into.open -= 1


async def load(args: argparse.Namespace) -> None:
    source, into = random.Random(args.seed), Outcomes()
    async with TTS.load(args.model, **options(args)) as tts:
        print(f"{tts.config.name}, {tts.choice.why}, {args.link} link")
        began = time.monotonic()
        async with anyio.create_task_group() as group:
            arrives_s = source.expovariate(args.rate)
            while arrives_s < args.seconds:
                # An open loop: who comes does not wait for those before.
                await anyio.sleep(began + arrives_s - time.monotonic())
                stays_s = source.uniform(0.2, 4.0) if source.random() < args.cancels else math.inf
                group.start_soon(visit, tts, source.choice(TEXTS), stays_s, source.randrange(2**32), args, into)
                arrives_s += source.expovariate(args.rate)
        lasted_s = time.monotonic() - began
    report(into, lasted_s, args)


def report(into: Outcomes, lasted_s: float, args: argparse.Namespace) -> None:
    came = into.ends.total()
    if not came:
        raise SystemExit("Nobody came: give a higher --rate or more --seconds.")
    audible = [each.audible_ttfa_s for each in into.stats if each.audible_ttfa_s is not None]
    first = [each.ttfa_s for each in into.stats if each.ttfa_s is not None]
    rtf = [each.rtf for each in into.stats if each.rtf is not None]
    heard = [each for each in into.stats if each.delivered]
    dry = [each for each in heard if each.underruns]
    audio_s = sum(each.audio_s for each in into.stats)
    print(f"\n{'':34}{'p50':>8}{'p95':>8}{'p99':>8}{'of':>6}")
    for name, values in (("audible first audio, s", audible), ("first chunk, s", first), ("real-time factor in work", rtf)):
        if values:
            p50, p95, p99 = np.percentile(values, [50, 95, 99])
            print(f"{name:34}{p50:8.2f}{p95:8.2f}{p99:8.2f}{len(values):6}")
    share = len(dry) / len(heard) if heard else math.nan
    print(f"ran dry {share:.1%} of {len(heard)}, {sum(each.underrun_s for each in dry):.2f} s in all")
    print(", ".join(f"{name} {count / came:.1%}" for name, count in into.ends.most_common()), f"of {came} that came")
    print(f"at once at most {into.most_open}; {audio_s / lasted_s:.2f} s of audio a second over {lasted_s:.0f} s")
    if args.plot and audible:
        plot(audible, args)


def plot(audible_s: list[float], args: argparse.Namespace) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.hist(audible_s, bins=25, color="tab:blue")
    for at in (50, 95, 99):
        value = float(np.percentile(audible_s, at))
        axes.axvline(value, color="black", lw=0.8, ls=":")
        place = {"xytext": (3, -4), "textcoords": "offset points", "ha": "left", "va": "top"}
        axes.annotate(f"p{at}", (value, 1.0), xycoords=("data", "axes fraction"), fontsize=8, **place)
    title = f"{describe()}; {args.model}, {args.rate} streams a second"
    axes.set(xlabel="audible first audio, s", ylabel="streams", title=title)
    axes.title.set_fontsize(8)
    figure.savefig(args.plot, dpi=100)
    print(f"histogram: {args.plot}")


async def say_all(tts: TTS, count: int, args: argparse.Namespace, together: bool) -> tuple[float, float, float]:
    """Seconds until `count` texts are said, until the last of them was first heard of, and of audio."""
    params = replace(tts.params, max_tokens=args.tokens)
    began, first, audio_s = time.monotonic(), [], 0.0

    async def one(seed: int) -> None:
        nonlocal audio_s
        stream = tts.stream(args.voice, seed=seed, params=params, lead_s=1e9)
        async with stream:
            stream.write(TEXT if args.weights else TEXTS[2])
            stream.end()
            async for _ in stream:
                pass
        first.append(stream.stats.delivered[0].at_s - began)
        audio_s += stream.stats.audio_s

    if together:
        async with anyio.create_task_group() as group:
            for seed in range(count):
                group.start_soon(one, seed)
    else:
        for seed in range(count):
            await one(seed)
    return time.monotonic() - began, max(first), audio_s


async def compare(args: argparse.Namespace) -> None:
    count, peer = args.together, None
    ratios: list[float] = []
    voices = {args.voice: drawn_voice()} if args.weights else {}
    try:
        async with TTS.load(args.weights or args.model, **options(args), voices=voices) as tts:
            print(f"{tts.config.name}, {tts.choice.why}, {args.link} link")
            _, _, one_audio_s = await say_all(tts, 1, args, together=False)
            if args.peer_python:
                peer = await anyio.to_thread.run_sync(published, args, round(one_audio_s * TOKEN_RATE))
            for turn in range(1, args.repeats + 1):
                alone_s, _, audio_s = await say_all(tts, count, args, together=False)
                together_s, last_s, same_s = await say_all(tts, count, args, together=True)
                assert math.isclose(audio_s, same_s), "company changed what was said"
                ratios.append(alone_s / together_s)
                print(
                    f"{turn}: {count} one after another {alone_s:.2f} s, together {together_s:.2f} s ({ratios[-1]:.2f} x, "
                    f"{audio_s / together_s:.2f} s of audio a second), the last one heard after {last_s:.2f} s",
                    flush=True,
                )
                if peer is not None:
                    one_s = (await anyio.to_thread.run_sync(peer.speak))["total"]
                    spoken = await anyio.to_thread.run_sync(peer.speak, count)
                    print(
                        f"   the published package: one alone {one_s:.2f} s, {count} as a static batch {spoken['total']:.2f} s "
                        f"({count * one_s / spoken['total']:.2f} x, {spoken['seconds'] / spoken['total']:.2f} s of audio a "
                        f"second); ours together takes {together_s / spoken['total']:.2f} x, and its last one is heard after "
                        f"{last_s / spoken['total']:.3f} x as long",
                        flush=True,
                    )
    finally:
        if peer is not None:
            peer.close()
    print(f"together is {statistics.median(ratios):.2f} x as fast as one after another (median of {len(ratios)})")


def published(args: argparse.Namespace, tokens: int) -> Program:
    """The published package, which says as much in one piece as ours does in its segments."""
    dtype, threads = "float32" if args.dtype == "auto" else args.dtype, args.threads or os.cpu_count()
    given = vars(args) | {"dtype": dtype, "threads": threads, "device": "cpu", "tokens": tokens}
    return Program(args.peer_python, "peer", argparse.Namespace(**given))


def options(args: argparse.Namespace) -> dict:
    names = ("max_streams", "link", "backend", "dtype", "threads")
    return {name: vars(args)[name] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--voice", default="default")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--link", default="process", choices=["process", "thread"])
    parser.add_argument("--threads", type=int, help="as of TTS.load; the published package gets as many, or one for each core")
    parser.add_argument("--max-streams", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.3, help="streams a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--write", default="words", choices=["words", "whole"])
    parser.add_argument("--cancels", type=float, default=0.2, help="share of streams")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="histogram of the audible first audio, a PNG (needs matplotlib)")
    parser.add_argument("--together", type=int, help="compare so many at once with one after another")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="of each stream's segments at most, with --together")
    parser.add_argument("--peer-python", help="a Python that has chatterbox-flash 0.1.0; needs --weights")
    parser.add_argument("--weights", type=Path, help="a checkpoint folder for both, such as benchmarks/first_audio.py makes")
    args = parser.parse_args()
    if args.peer_python and not args.weights:
        parser.error("--peer-python needs --weights")
    if args.together:
        args.max_streams = max(args.max_streams, args.together)
    print(f"{describe()}; load {os.getloadavg()[0]:.1f}")
    anyio.run(compare if args.together else load, args)


if __name__ == "__main__":
    main()
