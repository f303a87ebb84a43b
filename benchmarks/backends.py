"""Every back-end that this machine has, at 1, 8, 32 and 128 streams: step, block, first audio, memory, against the floor.

    python benchmarks/backends.py                                  the pocket voice, a minute or two on a CPU
    python benchmarks/backends.py --weights DIR --dtype bfloat16   random weights of the released sizes, written if need be
    python benchmarks/backends.py --backends flashinfer dense --streams 1 8 32 128 200 --plot backends.png

All streams begin at once, with the same text and voice and a seed of their own. "step": median time of a denoising step of all
streams. "block": all steps of a block and its vocoding. "first audio": from nothing open to the first PCM of every stream.
"real time": time of a block over the 0.64 s of audio that each stream gets from it; a stream is in real time below 1.
"floor": bytes that a step has to read (the decoder's layers and head once, and the keys and values of every row) over the
bandwidth that a copy of 256 MB reaches here. Whole utterances beside the published package are in `first_audio.py`.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.first_audio import TEXT
from benchmarks.first_audio import checkpoint as drawn_checkpoint
from benchmarks.machine import describe
from cf_agents import DecodeParams, Voice
from cf_agents.backends import Choice, choose, unavailable
from cf_agents.builtin import open_model, random_voice
from cf_agents.checkpoint import T3_FILE, Checkpoint
from cf_agents.config import SAMPLE_RATE
from cf_agents.decode import Decoder, Decoding
from cf_agents.engines.base import Prefix
from cf_agents.loading import ROWS_PER_STREAM, load_decoder, load_engine, load_vocoder
from cf_agents.models.t3 import T3
from cf_agents.vocoder import SAMPLES_PER_TOKEN

BLOCKS = 4
"""Measured of each stream, after the first."""
_COPIED = 2**28


@dataclass
class Row:
    """One line of the table. Times in seconds."""

    backend: str
    streams: int
    step: float
    block: float
    first: float
    floor: float
    memory: float
    """GiB."""

    def line(self, real: float) -> str:
        return (
            f"| {self.backend} | {self.streams} | {self.step * 1e3:.2f} | {self.step / self.floor:.1f} "
            f"| {self.block * 1e3:.1f} | {self.block / real:.3f} | {self.first * 1e3:.0f} | {self.memory:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--weights", type=Path, help="folder of random weights of the released sizes, in place of --model")
    parser.add_argument("--backends", nargs="+", default=["flashinfer", "dense", "mlx"])
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--preset", default="released")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="PNG of a step's time over the number of streams")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source = Checkpoint.open(drawn_checkpoint(args.weights)) if args.weights else open_model(args.model)
    missing = unavailable()
    rows: list[Row] = []
    print(f"{describe()}, {args.threads} thread(s); {source.config.name}, knobs of {args.preset}\n")
    for name in args.backends:
        if name in missing:
            print(f"{name}: {missing[name]}\n")
            continue
        choice = choose(name, dtype=args.dtype)
        print(f"{choice.why}\n\n| back-end | streams | step ms | x floor | block ms | real time | first audio ms | GiB |")
        print("|---|---|---|---|---|---|---|---|")
        for streams in args.streams:
            rows.append(measure(source, choice, streams, DecodeParams.preset(args.preset)))
            print(rows[-1].line(_block_s(source)), flush=True)
        print()
    if args.plot:
        plot(rows, args.plot)


@torch.inference_mode()
def measure(source: Checkpoint, choice: Choice, streams: int, params: DecodeParams) -> Row:
    """One back-end at one number of streams, built for it."""
    engine = load_engine(source, choice, ROWS_PER_STREAM * streams)
    decoder = load_decoder(engine, choice, params, streams, lambda _: None)
    vocoder = load_vocoder(source, choice, streams, lambda _: None)
    path = next(iter(source.voices.values()), None)
    voice = Voice.load(path) if path is not None else random_voice(source.config, "random")
    prepared = vocoder.prepare(voice)
    prefix = Prefix(voice.conditioning, tuple(source.tokenizer().encode(TEXT)))
    size = engine.config.block_size
    knobs = DecodeParams(**{**params.__dict__, "max_tokens": size * (2 * BLOCKS + 2)})

    def run(first_only: bool) -> tuple[float, list[float], list[float]]:
        began = time.perf_counter()
        decodings = [decoder.open(prefix, knobs, seed) for seed in range(streams)]
        states = [vocoder.open(prepared, seed) for seed in range(streams)]
        steps: list[float] = []
        blocks: list[float] = []
        heard, first = False, float("nan")
        while len(blocks) < BLOCKS and not (heard and first_only):
            block_began = time.perf_counter()
            tokens = _block(decoder, decodings, steps)
            last = [decoding.finished for decoding in decodings]
            pcm = vocoder.step(states, tokens, last)
            if not heard and len(pcm[0]) >= SAMPLES_PER_TOKEN:
                heard, first = True, time.perf_counter() - began
            blocks.append(time.perf_counter() - block_began)
            if any(last):
                break
        for decoding in decodings:
            decoder.close(decoding)
        return first, steps, blocks

    run(first_only=True)
    first, steps, blocks = run(first_only=False)
    places = engine.config.conditioning_length + len(prefix.text_ids) + 1 + size * BLOCKS // 2
    return Row(
        f"{choice.backend} {choice.device} {choice.dtype}" + (" graphs" if choice.graphs else ""),
        streams,
        statistics.median(steps),
        statistics.median(blocks[1:] or blocks),
        first,
        _floor(source, choice, streams, places),
        _memory(choice.device),
    )


def _block(decoder: Decoder, decodings: list[Decoding], steps: list[float]) -> list[list[int]]:
    """Denoise until every utterance has its next block."""
    done: dict[int, list[int]] = {}
    while len(done) < len(decodings):
        todo = [n for n in range(len(decodings)) if n not in done]
        began = time.perf_counter()
        blocks = decoder.step([decodings[n] for n in todo])
        if len(todo) == len(decodings):
            steps.append(time.perf_counter() - began)
        done.update({n: block.tokens for n, block in zip(todo, blocks, strict=True) if block is not None})
    return [done[n] for n in range(len(decodings))]


def _floor(source: Checkpoint, choice: Choice, streams: int, places: int) -> float:
    with torch.device("meta"):
        t3 = T3(source.config.t3)
    weights = sum(weight.numel() for weight in t3.tfmr.layers.parameters()) + t3.speech_head.weight.numel()
    number = torch.empty(0, dtype=getattr(torch, choice.dtype)).element_size()
    # A CPU keeps weights in float16 where the file does; see `cf_agents.models.linear`.
    halves = choice.backend == "dense" and choice.device == "cpu" and _stored(source) == "F16"
    config = source.config.t3
    cache = 2 * config.num_layers * config.num_heads * config.head_dim * places * streams  # null rows see two places
    return (weights * (2 if halves else number) + cache * number) / _bandwidth(choice.device)


def _stored(source: Checkpoint) -> str:
    return source.file(T3_FILE).tensors["speech_head.weight"].dtype


def _bandwidth(device: str) -> float:
    """Bytes read a second, by the best of ten copies that read and write as much."""
    source = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    taken = min(_seconds(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * _COPIED / taken


def _seconds(call: Callable[[], object], device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _memory(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _block_s(source: Checkpoint) -> float:
    return source.config.t3.block_size * SAMPLES_PER_TOKEN / SAMPLE_RATE


def plot(rows: list[Row], target: Path) -> None:
    """A step's time over the number of streams, with the floor of each back-end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row.backend for row in rows):
        own = [row for row in rows if row.backend == name]
        streams = [row.streams for row in own]
        (line,) = axes.loglog(streams, [row.step * 1e3 for row in own], marker="o", label=name)
        axes.loglog(streams, [row.floor * 1e3 for row in own], ls=":", color=line.get_color(), label=f"{name}, floor")
    axes.set(xlabel="streams", ylabel="denoising step of all, ms")
    axes.legend()
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    main()
