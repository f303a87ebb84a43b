"""A tiny flow with drawn weights, and utterances for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from cf_agents.config import FlowConfig
from cf_agents.models.flow import Flow, FlowPrompt, FlowState
from cf_agents.models.noise import FixedNoise
from tests.drawn import load_drawn

TINY = FlowConfig(
    encoder_ffn=256,
    encoder_blocks=2,
    channels=64,
    estimator_heads=2,
    estimator_head_dim=32,
    blocks_per_stage=1,
    mid_stages=2,
)


def tiny_flow(**changes: object) -> Flow:
    """A flow of `TINY` with `changes`; all of them share their weights."""
    with torch.device("meta"):
        flow = Flow(replace(TINY, **changes))  # pyright: ignore[reportArgumentType]
    flow.load_state_dict(_weights(), assign=True)
    return flow.eval()


@cache
def _weights() -> dict[str, Tensor]:
    flow = Flow(TINY)
    load_drawn(flow, "flow.")
    return flow.state_dict()


@dataclass(frozen=True)
class Case:
    """An utterance: tokens [T], its voice, and noise [80, 2 (P + T)] of prompt and speech."""

    tokens: Tensor
    prompt: FlowPrompt
    noise: Tensor

    def open(self, flow: Flow) -> FlowState:
        known = 2 * self.prompt.tokens.shape[0]
        return flow.open(flow.prepare(self.prompt, FixedNoise(self.noise[:, :known])), FixedNoise(self.noise[:, known:]))


def case(prompt: int, generated: int, seed: int = 0) -> Case:
    random = np.random.RandomState(seed)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(random.standard_normal(shape).astype(np.float32))

    def ids(count: int) -> Tensor:
        return torch.from_numpy(random.randint(0, 6561, count).astype(np.int64))

    voice = FlowPrompt(ids(prompt), 2 * normal(2 * prompt, 80) - 6, normal(192))
    return Case(ids(generated), voice, normal(80, 2 * (prompt + generated)))


def stream(flow: Flow, utterance: Case, sizes: Sequence[int]) -> list[Tensor]:
    """The mel pieces of an utterance whose tokens come `sizes` at a time; the last size ends it."""
    state = utterance.open(flow)
    pieces, begin = [], 0
    for i, size in enumerate(sizes):
        pieces += flow.step([state], [utterance.tokens[begin : begin + size]], [i + 1 == len(sizes)])
        begin += size
    assert begin == utterance.tokens.shape[0]
    return pieces


def blocks(count: int, size: int = 16) -> list[int]:
    """`count` tokens as whole blocks and what is left."""
    return [min(size, count - begin) for begin in range(0, count, size)]
