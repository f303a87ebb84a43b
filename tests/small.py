"""The small decoder that the goldens were made with, and prefixes to feed it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from cf_agents.config import T3Config
from cf_agents.engines.base import Conditioning, Prefix
from cf_agents.engines.dense import DenseEngine
from cf_agents.engines.flashinfer_attention import FlashInferAttention, FlashInferPlan
from cf_agents.engines.paged import MOST_BLOCK, PagedEngine
from cf_agents.engines.paged_attention import Gathered, TorchAttention
from cf_agents.models.layout import released_layout, without_storage
from cf_agents.models.t3 import T3
from cf_agents.synthetic import draw
from tests.drawn import load_drawn
from tests.engines import fake_flashinfer

if TYPE_CHECKING:
    from cf_agents.engines.metal import MetalEngine
    from cf_agents.engines.metal_t3 import MetalT3

SMALL = T3Config(
    hidden_size=128,
    intermediate_size=256,
    num_layers=4,
    num_heads=4,
    head_dim=32,
    max_text_tokens=256,
    max_speech_tokens=256,
)
ALIGNED = replace(SMALL, alignment_heads=((1, 2), (2, 0), (2, 3)))
"""The same weights, with heads to read text places from."""


def small_t3(dtype: torch.dtype = torch.float32, config: T3Config = SMALL) -> T3:
    with without_storage():
        t3 = T3(config)
    load_drawn(t3)
    return t3.to(dtype)


def small_engine(
    max_rows: int = 8, max_length: int = 512, dtype: torch.dtype = torch.float32, config: T3Config = SMALL
) -> DenseEngine:
    return DenseEngine(small_t3(dtype, config), max_rows=max_rows, max_length=max_length)


def small_paged_engine(
    max_rows: int = 8,
    max_length: int = 512,
    dtype: torch.dtype = torch.float32,
    pages: int | None = None,
    *,
    pad_held: bool = False,
    config: T3Config = SMALL,
) -> PagedEngine[Gathered]:
    t3 = small_t3(dtype, config)
    attention = TorchAttention(t3, max_length + MOST_BLOCK)
    return PagedEngine(t3, attention, max_rows=max_rows, max_length=max_length, pages=pages, pad_held=pad_held)


def small_flashinfer_engine(
    max_rows: int = 8, max_length: int = 512, dtype: torch.dtype = torch.float32, config: T3Config = SMALL
) -> PagedEngine[FlashInferPlan]:
    """FlashInfer's kernels are played by torch: what is held is what they are given."""
    t3 = small_t3(dtype, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "flashinfer", fake_flashinfer)
        attention = FlashInferAttention(t3, max_length + MOST_BLOCK)
    return PagedEngine(t3, attention, max_rows=max_rows, max_length=max_length, pad_held=True)


def small_mlx_t3(dtype: torch.dtype = torch.float32, quantise: int | None = None, config: T3Config = SMALL) -> MetalT3:
    """`small_t3` in MLX. Skips the test where there is none."""
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'cf-agents[mlx]'", exc_type=ImportError)
    from cf_agents.engines.metal_t3 import MetalT3

    with without_storage():
        layout = released_layout(T3(config))
    kind = {torch.float32: mx.float32, torch.bfloat16: mx.bfloat16, torch.float16: mx.float16}[dtype]
    return MetalT3(config, lambda name: mx.array(draw(name, layout[name])), kind, quantise)


def small_mlx_engine(
    max_rows: int = 8,
    max_length: int = 512,
    dtype: torch.dtype = torch.float32,
    quantise: int | None = None,
    config: T3Config = SMALL,
) -> MetalEngine:
    t3 = small_mlx_t3(dtype, quantise, config)
    from cf_agents.engines.metal import MetalEngine

    return MetalEngine(t3, max_rows=max_rows, max_length=max_length)


def conditioning(seed: int = 0) -> Conditioning:
    random = np.random.RandomState(seed)
    return Conditioning(random.standard_normal(256).astype(np.float32), random.randint(0, 6561, 150).astype(np.int64))


def prefix(length: int, seed: int = 0, voice: int = 0) -> Prefix:
    text = np.random.RandomState(1000 + seed).randint(3, 200, length)
    return Prefix(conditioning(voice), (255, *text.tolist(), 0))
