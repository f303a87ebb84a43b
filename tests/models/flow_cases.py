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
"""The sizes of the golden; 512 and the four layers after upsampling are literals in the published package."""

SMALL = replace(
    TINY, encoder_dim=64, encoder_heads=2, encoder_ffn=128, up_encoder_blocks=2, channels=32, blocks_per_stage=2, mid_stages=1
)


def small_flow(base: FlowConfig = SMALL, **changes: object) -> Flow:
    """A flow of the sizes of `base` with `changes` that are not sizes; all of a base share their drawn weights."""
    with torch.device("meta"):
        flow = Flow(replace(base, **changes))  # pyright: ignore[reportArgumentType]
    flow.load_state_dict(_weights(base), assign=True)
    return flow.eval()


@cache
def _weights(config: FlowConfig) -> dict[str, Tensor]:
    flow = Flow(config)
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
