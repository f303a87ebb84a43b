"""What the voice in the box costs on one thread: real-time factor, first audio, loading, memory, and where the time goes.

    python benchmarks/pocket.py                              the pocket voice with the knobs it names, thread and process link
    python benchmarks/pocket.py --knobs preset=released      other knobs
    python benchmarks/pocket.py --quantise none              the decoder's weights as the file has them
    python benchmarks/pocket.py --only stages                one part: links or stages

First audio is from the text's last character to the first chunk, of a stream that is open, over the sentences below in turn.
Loading is from the start of the interpreter, which imports everything, to a TTS that has said its silent word. Memory is the
resident set after speaking, of all processes. Each link is measured in an interpreter of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.knobs import parse_knobs
from benchmarks.machine import describe
from cf_agents import TTS
from cf_agents.backends import Quantise

SENTENCES = (
    "Thank you for calling.",
    "I found three rooms for you in Paris.",
    "Your order will arrive on Monday, before noon.",
    "Could you please tell me your name and your booking number?",
    "The meeting is at a quarter past nine in the large room on the second floor.",
)
BITS: dict[str, Quantise] = {"auto": "auto", "none": None, "8": 8}
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass
class Stages:
    """Seconds of work by stage."""

    prefill: float = 0.0
    denoising: float = 0.0
    flow: float = 0.0
    hift: float = 0.0
    steps: int = 0
    blocks: int = 0
    speech_s: float = 0.0
    first_s: list[float] = field(default_factory=list)


def by_stage(model: str, knobs: str, quantise: Quantise, rounds: int, clock: Callable[[], float]) -> Stages:
    """The parts called one after another without scheduler, link or event loop, each timed."""
    import torch

    from cf_agents.backends import choose
    from cf_agents.builtin import open_model
    from cf_agents.decode import Decoder
    from cf_agents.engines.base import Prefix
    from cf_agents.loading import load_engine, load_vocoder
    from cf_agents.text.normalise import normalise
    from cf_agents.voice import Voice

    torch.set_num_threads(1)
    checkpoint = open_model(model)
    choice = choose(device="cpu", quantise=quantise, named=checkpoint.config.quantise)
    params = parse_knobs(knobs, checkpoint.config.decoding)
    decoder, vocoder = Decoder(load_engine(checkpoint, choice, 2)), load_vocoder(checkpoint, choice, 1, lambda _: None)
    voice = Voice.load(next(iter(checkpoint.voices.values())))
    prepared, tokenizer = vocoder.prepare(voice), checkpoint.tokenizer()
    stages = Stages()
    for turn in range(rounds + 1):
        if turn == 1:
            stages = Stages()  # the first round warms up
        for seed, sentence in enumerate(SENTENCES):
            ids = tuple(tokenizer.encode(normalise(sentence).text))
            began = clock()
            decoding = decoder.open(Prefix(voice.conditioning, ids), params, seed)
            state, heard = vocoder.open(prepared, seed), False
            stages.prefill += clock() - began
            while not decoding.finished:
                start = clock()
                (block,) = decoder.step([decoding])
                stages.denoising += clock() - start
                stages.steps += 1
                if block is None:
                    continue
                stages.blocks += 1
                start = clock()
                tokens = torch.tensor(block.tokens, dtype=torch.int64)
                (mel,) = vocoder.flow.step([state.flow], [tokens], [decoding.finished])
                middle = clock()
                stages.flow += middle - start
                # As a voicer does it: what somebody waits for in two pieces.
                first, rest = (mel, mel[:, :0]) if heard else vocoder.parted(mel)
                for part, whole in ((first, not rest.shape[1]), (rest, True)):
                    if not state.hift.closed and (part is first or part.shape[1]):
                        (pcm,) = vocoder.hift.step([state.hift], [part], [decoding.finished and whole])
                        stages.speech_s += len(pcm) / vocoder.sample_rate
                        if len(pcm) and not heard:
                            heard = True
                            stages.first_s.append(clock() - began)
                stages.hift += clock() - middle
            decoder.close(decoding)
    return stages


async def by_link(chosen: argparse.Namespace) -> dict[str, float]:
    """Loading, first audio, real-time factor and memory through the door. `chosen.began`: when this interpreter was started."""
    import torch

    torch.set_num_threads(1)
    firsts, began = chosen.firsts, chosen.began
    async with TTS.load(chosen.model, device="cpu", link=chosen.link, max_streams=1, quantise=BITS[chosen.quantise]) as tts:
        loaded_s = time.time() - began
        params = parse_knobs(chosen.knobs, tts.params)
        waits: list[float] = []
        work_s = speech_s = 0.0
        for seed in range(firsts):
            async with tts.stream(params=params, seed=seed, lead_s=math.inf) as stream:
                start = time.perf_counter()
                stream.write(SENTENCES[seed % len(SENTENCES)])
                stream.end()
                size, first = 0, 0.0
                async for chunk in stream:
                    if not size and chunk.pcm:
                        first = time.perf_counter() - start
                    size += len(chunk.pcm)
                work_s += time.perf_counter() - start
                speech_s += size / 2 / stream.sample_rate
                waits.append(first)
        memory = _resident_bytes(os.getpid()) + sum(map(_resident_bytes, _children()))
    p50, p95 = np.percentile(waits, [50, 95])
    return {"load_s": loaded_s, "rtf": work_s / speech_s, "p50_ms": p50 * 1e3, "p95_ms": p95 * 1e3, "memory_mb": memory / 1e6}


def _resident_bytes(process: int) -> int:
    status = Path(f"/proc/{process}/statm")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.read_text().split()[1]) * resource.getpagesize()


def _children() -> list[int]:
    """This process's children and theirs; none where the system has no /proc."""
    found, waiting = [], [os.getpid()]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            new = [int(child) for child in task.read_text().split()]
            found += new
            waiting += new
    return found


def _in_an_interpreter(chosen: argparse.Namespace, link: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--model", chosen.model, "--knobs", chosen.knobs, "--firsts", str(chosen.firsts)]
    command += ["--quantise", chosen.quantise]
    began = repr(time.time())
    made = subprocess.run(
        [*command, "--link", link, "--began", began], env={**os.environ, **_ONE_THREAD}, stdout=subprocess.PIPE, check=True
    )
    return json.loads(made.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="pocket", help="a built-in name, folder or hub id")
    parser.add_argument("--knobs", default="", metavar="K=V,...", help="decoding knobs; the model's own if not given")
    parser.add_argument("--quantise", choices=BITS, default="auto", help="bits of the decoder's weights; what the model names")
    parser.add_argument("--firsts", type=int, default=20, help="streams whose first audio is waited for")
    parser.add_argument("--rounds", type=int, default=3, help="of all sentences, for the stages")
    parser.add_argument("--cpu-time", action="store_true", help="stages by the thread's own time: on a busy machine")
    parser.add_argument("--only", choices=("links", "stages"))
    parser.add_argument("--link", choices=("thread", "process"), help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.link:
        print(json.dumps(anyio.run(by_link, chosen)))
        return
    print(f"{describe()}; one thread, {chosen.model}, knobs {chosen.knobs or 'of the checkpoint'}, bits {chosen.quantise}\n")
    if chosen.only != "stages":
        print("| link | real-time factor | first audio p50 | p95 | load | memory |\n|---|---|---|---|---|---|")
        for link in ("thread", "process"):
            got = _in_an_interpreter(chosen, link)
            print(
                f"| {link} | {got['rtf']:.3f} | {got['p50_ms']:.0f} ms | {got['p95_ms']:.0f} ms | {got['load_s']:.2f} s "
                f"| {got['memory_mb']:.0f} MB |",
                flush=True,
            )
        print()
    if chosen.only != "links":
        clock = time.thread_time if chosen.cpu_time else time.perf_counter
        stages = by_stage(chosen.model, chosen.knobs, BITS[chosen.quantise], chosen.rounds, clock)
        parts = {name: getattr(stages, name) for name in ("prefill", "denoising", "flow", "hift")}
        total = sum(parts.values())
        print("| stage | of real time | share |\n|---|---|---|")
        for name, seconds in parts.items():
            print(f"| {name} | {seconds / stages.speech_s:.4f} | {seconds / total:.0%} |")
        print(f"| all | {total / stages.speech_s:.4f} | |\n")
        print(
            f"{stages.steps / stages.blocks:.1f} steps a block, {1e3 * stages.denoising / stages.steps:.2f} ms a step; first "
            f"audio p50 {1e3 * np.percentile(stages.first_s, 50):.0f} ms, p95 {1e3 * np.percentile(stages.first_s, 95):.0f} ms"
        )


if __name__ == "__main__":
    main()
