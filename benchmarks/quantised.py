"""Engines with few bits in their weights beside dense float32 on this CPU: what they gain, and what is lost.

    python benchmarks/quantised.py                      the pocket voice and a middle size, a minute or two
    python benchmarks/quantised.py --sizes released     the released sizes: gigabytes, minutes
    python -m benchmarks.products                       single products

"step" is the median time of `score` for the two rows of one stream, all engines in turns. "weights" are those of products: the
layers' and the head. "agree" is the share of masked positions whose most likely token is that of dense float32, with every
second position of a block open, and "off" the root mean square difference of their logits over their deviation. For the pocket
voice the prefixes are texts and the open tokens those that it decodes for them; its file holds float16, which dense keeps. The
other sizes have drawn weights and tokens, whose flat distributions make near ties: trained ones agree more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe
from benchmarks.metal import SIZES, built
from benchmarks.metal import prefix as drawn_prefix
from cf_agents import Voice
from cf_agents.backends import choose, unavailable
from cf_agents.builtin import open_model
from cf_agents.config import T3Config
from cf_agents.decode import Decoder
from cf_agents.engines.base import Engine, Prefix
from cf_agents.engines.dense import DenseEngine
from cf_agents.loading import load_engine
from cf_agents.models.layout import assign, released_layout
from cf_agents.synthetic import draw

TEXTS = (
    "Your table for two is booked at seven.",
    "I can't find an order with that number.",
    "The next train leaves in about ten minutes.",
    "Would you like me to read that back to you?",
    "Thanks for calling, and have a lovely day.",
    "It will be sunny in the morning, with rain later on.",
)


KINDS: tuple[tuple[str, str, Literal[8, 4] | None, float], ...] = (
    ("dense", "dense", None, 16),
    ("dense, 8 bits", "dense", 8, 8),
    ("mlx", "mlx", None, 32),
    ("mlx, 8 bits", "mlx", 8, 9),
    ("mlx, 4 bits", "mlx", 4, 5),
)
"""Name, back-end, what is asked of it, and the bits of a weight; with MLX each has a share in two float32 of a group of 64."""


@dataclass(frozen=True)
class Case:
    """Engines of the same weights, the first being what the others are held against, and blocks to look at, half open."""

    name: str
    engines: dict[str, tuple[Engine, float]]
    """And the bits of a weight."""
    blocks: Sequence[tuple[Prefix, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=("pocket", *SIZES), default=["pocket", "middle"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{describe()}, {torch.backends.cpu.get_cpu_capability()}, {args.threads} thread(s)\n")
    print("| model | engine | weights | step ms | agree | off |\n|---|---|---|---|---|---|")
    for name in args.sizes:
        show(pocket() if name == "pocket" else drawn(name, SIZES[name]), args.repeats)


@torch.inference_mode()
def show(case: Case, repeats: int) -> None:
    engines = [engine for engine, _ in case.engines.values()]
    config = engines[0].config
    seen = [torch.cat([_look(engine, *block)[block[1] == config.mask_id] for block in case.blocks]) for engine in engines]
    wanted = seen[0]
    inner = config.num_heads * config.head_dim
    layer = config.hidden_size * (4 * inner + 3 * config.intermediate_size)
    weights = config.num_layers * layer + config.hidden_size * config.speech_vocab
    times = _steps(engines, *case.blocks[0], repeats)
    for (name, (_, bits)), found, seconds in zip(case.engines.items(), seen, times, strict=True):
        agree = float((found.argmax(-1) == wanted.argmax(-1)).float().mean())
        off = float((found - wanted).pow(2).mean().sqrt() / wanted.std())
        size = f"{weights * bits / 8e6:.1f} MB"
        print(f"| {case.name} | {name} | {size} | {seconds * 1e3:.2f} | {agree:.1%} of {len(wanted)} | {off:.2g} |", flush=True)


def _look(engine: Engine, prefix: Prefix, block: Tensor) -> Tensor:
    (row,) = engine.open([prefix])
    logits = engine.score([row], block[None]).logits[0].clone()
    engine.close(row)
    return logits


def _steps(engines: Sequence[Engine], prefix: Prefix, block: Tensor, repeats: int) -> list[float]:
    """Median seconds of each engine's step, measured in turns so that what else runs here slows all of them."""
    rows = [engine.open([prefix, prefix.null()]) for engine in engines]
    calls = [lambda e=e, r=r: e.score(r, block.expand(2, -1)) for e, r in zip(engines, rows, strict=True)]
    return medians(calls, repeats)


def medians(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 2):
        for call, times in zip(calls, taken, strict=True):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    return [statistics.median(times[2:]) for times in taken]


def pocket() -> Case:
    """The pocket voice over texts, and the tokens that it decodes for them."""
    checkpoint = open_model("pocket")
    engines = {
        name: (load_engine(checkpoint, choose(backend, "cpu", "float32", quantise), 2), bits)
        for name, backend, quantise, bits in KINDS
        if backend not in unavailable()
    }
    plain = engines["dense"][0]
    voice = Voice.load(next(iter(checkpoint.voices.values())))
    decoder, tokenizer = Decoder(plain), checkpoint.tokenizer()
    blocks = []
    for seed, text in enumerate(TEXTS):
        prefix = Prefix(voice.conditioning, tuple(tokenizer.encode(text)))
        decoding = decoder.open(prefix, replace(checkpoint.config.decoding, max_tokens=160), seed)
        tokens: list[int] = []
        while not decoding.finished:
            (decoded,) = decoder.step([decoding])
            tokens += decoded.tokens if decoded is not None else []
        decoder.close(decoding)
        # The first block alone: what follows would stand on a past that is not committed here.
        for parity in range(2):
            block = torch.tensor(tokens[: plain.config.block_size])
            block[parity::2] = plain.config.mask_id
            blocks.append((prefix, block))
    return Case("pocket", engines, blocks)


def drawn(name: str, config: T3Config) -> Case:
    """A size with drawn weights, which float16 does not hold."""
    layout = released_layout(built(config))
    weights = {key: torch.from_numpy(draw(key, shape)) for key, shape in layout.items()}
    engines: dict[str, tuple[Engine, float]] = {}
    for kind, backend, quantise, bits in KINDS:
        if backend == "mlx" and "mlx" not in unavailable():
            engines[kind] = _metal(config, weights, quantise), bits
        elif backend == "dense":
            assign(t3 := built(config), lambda key: weights[key])
            if quantise == 8:
                t3.fuse(8)
            engines[kind] = DenseEngine(t3, max_rows=2, max_length=256), 32 if quantise is None else bits
    sets = range(8)
    blocks = []
    for seed in sets:
        block = torch.randint(0, 6561, (config.block_size,), generator=torch.Generator().manual_seed(seed))
        block[seed % 2 :: 2] = config.mask_id
        blocks.append((drawn_prefix(seed), block))
    return Case(f"{name}, drawn", engines, blocks)


def _metal(config: T3Config, weights: dict[str, Tensor], quantise: int | None) -> Engine:
    import mlx.core as mx

    from cf_agents.engines.metal import MetalEngine
    from cf_agents.engines.metal_t3 import MetalT3

    network = MetalT3(config, lambda key: mx.array(weights[key].numpy()), mx.float32, quantise)
    return MetalEngine(network, max_rows=2, max_length=256)


if __name__ == "__main__":
    main()
