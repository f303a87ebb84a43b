"""The CUDA back-ends on a GPU: engines against dense float32 on the CPU, recordings against what they record.

Everything here but the device is also held on a CPU, by `test_engine`, `test_decode_graphs` and `test_vocoder_graphs`.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from cf_agents.backends import unavailable
from cf_agents.config import DecodeParams, T3Config
from cf_agents.decode import Decoder
from cf_agents.decode_graphs import StepGraphs
from cf_agents.engines.base import Engine
from cf_agents.engines.dense import DenseEngine
from cf_agents.engines.flashinfer_attention import FlashInferAttention
from cf_agents.engines.graphs import Capture, CudaCapture
from cf_agents.engines.paged import MOST_BLOCK, PagedEngine
from cf_agents.engines.paged_attention import TorchAttention
from cf_agents.models.flow import Flow
from cf_agents.models.hift import HiFT
from cf_agents.synthetic import TINY
from cf_agents.vocoder import Vocoder
from cf_agents.vocoder_graphs import FlowGraphs, HiFTGraphs, record
from tests.drawn import load_drawn
from tests.engines.test_engine import block, half_open
from tests.small import SMALL, prefix, small_t3
from tests.test_decode import run
from tests.test_vocoder import CONTINUE, draw_tokens, prompt, speak

DEVICE = torch.device("cuda")
WIDE = replace(SMALL, hidden_size=256, head_dim=64)
"""FlashInfer's kernels are made for heads of 64."""

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
MAX_LENGTH = 512


def capture() -> Capture:
    return CudaCapture(DEVICE)


def cpu(config: T3Config) -> DenseEngine:
    return DenseEngine(small_t3(config=config), max_rows=8, max_length=MAX_LENGTH)


def make(kind: str, dtype: torch.dtype, config: T3Config) -> Engine:
    t3 = small_t3(dtype, config).to(DEVICE)
    if kind == "dense":
        return DenseEngine(t3, max_rows=8, max_length=MAX_LENGTH)
    if kind == "paged":
        attention = TorchAttention(t3, MAX_LENGTH + MOST_BLOCK)
        return PagedEngine(t3, attention, max_rows=8, max_length=MAX_LENGTH, pad_held=True)
    if find_spec("flashinfer") is None or "flashinfer" in unavailable():
        pytest.skip(unavailable().get("flashinfer", "flashinfer-python is not installed"))
    kernels = FlashInferAttention(t3, MAX_LENGTH + MOST_BLOCK)
    return PagedEngine(t3, kernels, max_rows=8, max_length=MAX_LENGTH, pad_held=True)


@pytest.mark.parametrize(
    ("kind", "dtype", "off"),
    [
        ("dense", torch.float32, 1e-3),
        ("paged", torch.float32, 1e-3),
        ("dense", torch.bfloat16, 0.03),
        ("paged", torch.bfloat16, 0.03),
        ("flashinfer", torch.bfloat16, 0.03),
        ("flashinfer", torch.float16, 0.01),
    ],
)
def test_ragged_rows_score_as_on_the_cpu(kind: str, dtype: torch.dtype, off: float) -> None:
    engine, plain = make(kind, dtype, WIDE), cpu(WIDE)
    whats = [prefix(7, 1, voice=1), prefix(31, 2, voice=1).null(), prefix(60, 3, voice=2), prefix(12, 4, voice=1)]
    rows, others = engine.open(whats), plain.open(whats)
    opens = torch.tensor([half_open(n) for n in range(4)])
    for held in (0, 1, 4):
        engine.commit(rows[:held], [block(20 + held + n) for n in range(held)])
        plain.commit(others[:held], [block(20 + held + n) for n in range(held)])
        found = engine.score(rows, opens.to(DEVICE)).logits.cpu()
        wanted = plain.score(others, opens).logits
        for n in range(4):
            assert float((found[n] - wanted[n]).pow(2).mean().sqrt() / wanted[n].std()) < off
    for row in rows:
        engine.close(row)
    assert engine.rows_free == 8


GREEDY = DecodeParams(steps=4, temperature=0.0, position_noise=0.0)
JOBS = [(prefix(8 + 7 * n, n, voice=n % 2), replace(GREEDY, max_tokens=20 + 7 * n), n) for n in range(4)]
STARTS = [0, 0, 2, 3]


@pytest.mark.parametrize("kind", ["dense", "paged"])
def test_greedy_tokens_are_those_of_the_cpu(kind: str) -> None:
    assert run(Decoder(make(kind, torch.float32, SMALL)), JOBS, STARTS) == run(Decoder(cpu(SMALL)), JOBS, STARTS)


@pytest.mark.parametrize(("kind", "dtype"), [("paged", torch.float32), ("flashinfer", torch.bfloat16)])
def test_recorded_steps_are_the_launched_ones(kind: str, dtype: torch.dtype) -> None:
    """By tokens that are drawn, too; the first step of each kind is recorded in passing, the rest before."""
    jobs = [(what, replace(params, temperature=0.6, max_tokens=40), seed) for what, params, seed in JOBS]
    launched = run(Decoder(make(kind, dtype, WIDE)), jobs, STARTS)
    engine = make(kind, dtype, WIDE)
    assert isinstance(engine, PagedEngine)
    decoder = Decoder(engine, StepGraphs(engine, capture()))
    decoder.record(jobs[0][1], 4)
    for _ in range(2):
        found = run(decoder, jobs, STARTS)
        same = np.mean([a == b for one, other in zip(found, launched, strict=True) for a, b in zip(one, other, strict=False)])
        # Padding changes the order in which bfloat16 is added up, and with it near ties.
        assert same == 1.0 if dtype == torch.float32 else same > 0.5


def test_the_recorded_vocoder_is_the_one_on_the_cpu() -> None:
    flow, hift = Flow(CONTINUE), HiFT(TINY.hift)
    load_drawn(flow, "flow.")
    load_drawn(hift, "mel2wav.")
    plain = Vocoder(flow, hift)
    tokens, chunks = draw_tokens(5, 71), [16, 16, 16, 16, 7]
    wanted = np.concatenate(speak(plain, plain.open(plain.prepare(prompt()), 3), tokens, chunks))
    mine = capture()
    passes, windows = FlowGraphs(mine, 2), HiFTGraphs(mine, 2)
    vocoder = Vocoder(flow.to(DEVICE), hift.to(DEVICE), passes=passes, decode=windows)
    voice = vocoder.prepare(prompt())
    # TF32 would move F0, and with it the phase of all that follows.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        record(vocoder, voice, 2, 16)
        known = len(passes) + len(windows)
        for _ in range(2):
            found = np.concatenate(speak(vocoder, vocoder.open(voice, 3), tokens, chunks))
            assert float(np.square(found - wanted).mean() ** 0.5 / np.square(wanted).mean() ** 0.5) < 0.01
    assert len(passes) + len(windows) == known
