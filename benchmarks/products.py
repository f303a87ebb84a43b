"""Layouts of the decoder's weights on a CPU: plain, packed by oneDNN, kept in float16, and in whole numbers of 8 bits.

    python -m benchmarks.products [--rows 1 16 32 64 256] [--model pocket|full]

Weights of a shape are multiplied in turn, enough of them that none stays in a near cache, as in a denoising step. One thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.machine import describe
from cf_agents.builtin import open_model
from cf_agents.config import T3Config
from cf_agents.models.linear import Int8Product, Product, half_product, packed_product

BYTES = 24_000_000


def shapes(config: T3Config) -> dict[str, tuple[int, int]]:
    """[out, in] of the products of a layer, and of the head."""
    width, inner, wide = config.hidden_size, config.num_heads * config.head_dim, config.intermediate_size
    return {
        "qkv": (3 * inner, width),
        "attention out": (width, inner),
        "gate and up": (2 * wide, width),
        "down": (width, wide),
        "head": (config.speech_vocab, width),
    }


def plain_product(weight: Tensor) -> Product:
    """torch's own."""
    return lambda x: F.linear(x, weight)


def best_us(products: list[Callable[[], Tensor]], repeats: int) -> float:
    """Microseconds of one product, the least of a few rounds."""
    found: list[float] = []
    for turn in range(repeats + 1):
        began = time.perf_counter()
        for product in products:
            product()
        if turn:
            found.append((time.perf_counter() - began) / len(products))
    return min(found) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 32, 64, 256])
    parser.add_argument("--model", choices=["pocket", "full"], default="pocket")
    parser.add_argument("--repeats", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = open_model("pocket").config.t3 if args.model == "pocket" else T3Config()
    print(f"{describe()}; 1 thread, {args.model}, float32 rows, microseconds\n")
    print("| product | rows | plain | oneDNN | float16 | float16 / oneDNN | 8 bits | 8 bits / float16 |\n" + "|---" * 8 + "|")
    for name, (out, into) in shapes(config).items():
        weights = [torch.randn(out, into).mul_(0.05).half().float() for _ in range(max(2, BYTES // (4 * out * into)))]
        for rows in args.rows:
            x = torch.randn(rows, into)

            def timed(make: Callable[[Tensor], Product | None], x: Tensor = x, weights: list[Tensor] = weights) -> float:
                made = [make(weight) for weight in weights]
                return best_us([lambda p=p: p(x) for p in made if p is not None], args.repeats) if all(made) else float("nan")

            plain = timed(plain_product)
            packed, half, whole = timed(packed_product), timed(half_product), timed(Int8Product)
            times = f"{plain:.0f} | {packed:.0f} | {half:.0f} | {half / packed:.2f} | {whole:.0f} | {whole / half:.2f}"
            print(f"| {name} | {rows} | {times} |", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
