"""The MLX engine beside the dense one on the same drawn weights: a step's time, size in 8 and 4 bits, and whether tokens agree.

    python benchmarks/metal.py                    tiny and middle sizes, about a minute on a CPU
    python benchmarks/metal.py --sizes released   the released sizes: for a machine with a GPU
    python benchmarks/metal.py --dtype bfloat16   another number format, in both

"step" is the median time of `score` for the two rows of one stream, nothing held back. "agree" is the share of positions of
half masked blocks whose most likely token is the dense float32 engine's, over many prefixes, with and without conditioning.
"off" is the root mean square difference of the logits over their deviation.

Drawn weights make flat distributions, in which two tokens are often nearly as likely: trained ones should agree more. A CPU's
times say nothing of Metal: MLX's wheel for Linux multiplies float32 with the reference BLAS.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe
from cf_agents.config import ModelConfig, T3Config
from cf_agents.engines.base import Conditioning, Engine, Prefix
from cf_agents.engines.dense import DenseEngine
from cf_agents.engines.metal import MetalEngine
from cf_agents.engines.metal_t3 import MetalT3
from cf_agents.models.layout import assign, released_layout, without_storage
from cf_agents.models.t3 import T3
from cf_agents.synthetic import TINY, draw

SIZES = {
    "tiny": TINY.t3,
    "middle": T3Config(hidden_size=384, intermediate_size=1024, num_layers=8, num_heads=6, max_text_tokens=256),
    "released": ModelConfig().t3,
}
BITS = (None, 8, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "middle"])
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prefixes", type=int, default=8, help="utterances of two rows and a block of 16 for the agreement")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    where = "the GPU" if mx.metal.is_available() else "the CPU, which says nothing of Metal"
    print(f"{describe()}, {args.threads} torch thread(s); MLX {version('mlx')} on {where}; drawn weights\n")
    print("| size | engine | weights | step ms | agree | off |\n|---|---|---|---|---|---|")
    for name in args.sizes:
        compare(name, SIZES[name], args)


def compare(name: str, config: T3Config, args: argparse.Namespace) -> None:
    with without_storage():
        t3 = T3(config)
    layout = released_layout(t3)
    drawn = {key: draw(key, shape) for key, shape in layout.items()}
    assign(t3, lambda key: torch.from_numpy(drawn[key]))
    size = sum(value.numel() for key, value in t3.named_parameters() if not key.startswith(("text_head", "tfmr.embed")))
    engine: Engine = DenseEngine(t3, max_rows=2, max_length=256)
    wanted = logits(engine, args.prefixes)
    if args.dtype == "float32":
        show(name, "dense float32", size * 4, step(engine, args.repeats), wanted, wanted)
    else:
        assign(t3 := built(config), lambda key: torch.from_numpy(drawn[key]).to(getattr(torch, args.dtype)))
        engine = DenseEngine(t3, max_rows=2, max_length=256)
        found = logits(engine, args.prefixes)
        show(name, f"dense {args.dtype}", size * 2, step(engine, args.repeats), found, wanted)
    for bits in BITS:
        network = MetalT3(config, lambda key: mx.array(drawn[key]), getattr(mx, args.dtype), bits)
        engine = MetalEngine(network, max_rows=2, max_length=256)
        found = logits(engine, args.prefixes)
        what = f"mlx {args.dtype}" + (f", {bits} bits" if bits else "")
        show(name, what, network.nbytes, step(engine, args.repeats), found, wanted)


def built(config: T3Config) -> T3:
    with without_storage():
        return T3(config)


def show(name: str, what: str, size: int, seconds: float, found: Tensor, wanted: Tensor) -> None:
    agree = float((found.argmax(-1) == wanted.argmax(-1)).float().mean())
    off = float((found - wanted).pow(2).mean().sqrt() / wanted.std())
    print(f"| {name} | {what} | {size / 1e6:.1f} MB | {seconds * 1e3:.1f} | {agree:.1%} | {off:.1g} |", flush=True)


def prefix(seed: int) -> Prefix:
    random = np.random.RandomState(seed)
    voice = Conditioning(random.standard_normal(256).astype(np.float32), random.randint(0, 6561, 150))
    return Prefix(voice, (255, *random.randint(3, 200, 24).tolist(), 0))


def logits(engine: Engine, prefixes: int) -> Tensor:
    """[prefixes * 2 * D, V] of half masked blocks."""
    found = []
    for seed in range(prefixes):
        rows = engine.open([prefix(seed), prefix(seed).null()])
        found.append(engine.score(rows, half_open(engine.config, seed)).logits.flatten(0, 1).clone())
        for row in rows:
            engine.close(row)
    return torch.cat(found)


def step(engine: Engine, repeats: int) -> float:
    rows = engine.open([prefix(0), prefix(0).null()])
    tokens = half_open(engine.config, 0)
    engine.score(rows, tokens)
    taken = [seconds(lambda: engine.score(rows, tokens)) for _ in range(repeats)]
    for row in rows:
        engine.close(row)
    return statistics.median(taken)


def half_open(config: T3Config, seed: int) -> Tensor:
    tokens = torch.tensor(np.random.RandomState(seed).randint(0, 6561, config.block_size))
    tokens[::2] = config.mask_id
    return tokens.expand(2, -1).contiguous()


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
