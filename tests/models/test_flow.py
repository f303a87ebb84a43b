"""The flow against the published package, and its streaming with chunked attention against the same offline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cf_agents.config import FlowConfig
from cf_agents.models.flow import FlowPrompt
from cf_agents.models.flow_cache import reach
from cf_agents.models.flow_stream import chunk_reach
from tests.models.flow_cases import TINY, blocks, case, small_flow, stream

GOLDENS = Path(__file__).parents[1] / "goldens"
EXACT = 1e-5
"""Largest difference that float32 rounding in another order may make to mel of range 8."""


def test_offline_equals_the_published_package() -> None:
    with np.load(GOLDENS / "flow.npz") as file:
        golden = {name: torch.from_numpy(file[name]) for name in file.files}
    flow = small_flow(TINY)
    prompt = FlowPrompt(golden["prompt_tokens"].long(), golden["prompt_mel"], golden["speaker"])
    tokens = golden["tokens"].long()[None]
    every = torch.cat([prompt.tokens[None], tokens], 1)
    padded = torch.cat([every, torch.full((1, 3), -1)], 1)
    with torch.inference_mode():
        mean = flow.encode(padded, reach(0, every.shape[1], every.device))[0].T
    assert (mean - golden["mu"]).abs().max() < 1e-5 * span(golden["mu"])
    mel = flow.offline(tokens, prompt, golden["noise"][None])[0]
    assert mel.shape == (80, 2 * tokens.shape[1])
    assert (mel - golden["mel"]).abs().max() < 1e-5 * span(golden["mel"])


@pytest.mark.parametrize("window", [0, 16, 24])
@pytest.mark.parametrize(
    ("prompt", "generated"), [(23, 37), (0, 40), (2, 5), (3, 1), (50, 64), (19, 100), (35, 46), (35, 47), (16, 48), (17, 16)]
)
def test_chunk_streaming_equals_chunked_offline(prompt: int, generated: int, window: int) -> None:
    flow = small_flow(mode="chunk", window_tokens=window)
    utterance = case(prompt, generated)
    whole = flow.offline_chunked(utterance.tokens[None], utterance.prompt, utterance.noise[None])[0]
    pieces = stream(flow, utterance, blocks(generated))
    assert (torch.cat(pieces, 1) - whole).abs().max() <= EXACT
    assert pieces[0].shape[1] == (26 if generated > 16 else 2 * generated)
    assert all(piece.shape[1] == 32 for piece in pieces[1:-1])


@pytest.mark.parametrize("sizes", [[1] * 37, [5, 0, 20, 12], [37], [36, 1, 0], [16, 16, 2, 3], [32, 5], [15, 1, 1, 20]])
def test_chunk_streaming_takes_tokens_in_any_portions(sizes: list[int]) -> None:
    flow = small_flow(mode="chunk")
    utterance = case(20, 37)
    whole = flow.offline_chunked(utterance.tokens[None], utterance.prompt, utterance.noise[None])[0]
    assert (torch.cat(stream(flow, utterance, sizes), 1) - whole).abs().max() <= EXACT


def test_a_full_look_ahead_closes_a_chunk_even_when_nothing_follows() -> None:
    flow = small_flow(mode="chunk")
    utterance = case(20, 32)
    whole = flow.offline_chunked(utterance.tokens[None], utterance.prompt, utterance.noise[None])[0]
    pieces = stream(flow, utterance, [16, 16, 0])
    assert [piece.shape[1] for piece in pieces] == [26, 32, 6]
    assert (torch.cat(pieces, 1) - whole).abs().max() <= EXACT


def test_the_window_and_the_chunks_are_not_the_full_attention() -> None:
    utterance = case(20, 70)
    inputs = utterance.tokens[None], utterance.prompt, utterance.noise[None]
    full = small_flow().offline(*inputs)
    chunked = small_flow(mode="chunk").offline_chunked(*inputs)
    windowed = small_flow(mode="chunk", window_tokens=16).offline_chunked(*inputs)
    assert (full - chunked).abs().mean() > 1e-3
    assert (chunked - windowed).abs().mean() > 1e-3


def test_chunk_attention_by_hand() -> None:
    config = FlowConfig(mode="chunk", chunk_tokens=4, window_tokens=4, lookahead_tokens=3)
    # prompt of 8, five of them cached as [1 | 4]; then [3 of the prompt and 1 | 4 | 4 | 1 left], the last one joined
    who = chunk_reach(config, 8, 10, torch.device("cpu"))
    assert who.mask is not None
    seen = who.mask[0, 0]
    ends = seen.int().mul(torch.arange(1, 19)).amax(1).tolist()
    assert ends == [1] + [5] * 4 + [9] * 4 + [13] * 4 + [18] * 5
    assert seen[13].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14, 15, 16, 17]
    distance = who.index[0, 0] + who.low
    assert distance[13, 12] == 1
    assert distance[13, 4] == 5, "what the window dropped counts for no distance"


def test_bfloat16_speaks_the_same() -> None:
    utterance = case(20, 37)
    whole = small_flow(mode="chunk").offline_chunked(utterance.tokens[None], utterance.prompt, utterance.noise[None])[0]
    mel = torch.cat(stream(small_flow(mode="chunk").bfloat16(), utterance, blocks(37)), 1)
    assert mel.dtype == torch.float32
    assert (mel - whole).abs().mean() < 0.02 * whole.std()
    assert small_flow().bfloat16().offline(utterance.tokens[None], utterance.prompt, utterance.noise[None]).isfinite().all()


def test_replaced_weights_are_noticed() -> None:
    utterance = case(20, 20)
    inputs = utterance.tokens[None], utterance.prompt, utterance.noise[None]
    flow = small_flow()
    before = flow.offline(*inputs)
    flow.load_state_dict({name: 1.1 * value for name, value in flow.state_dict().items()})
    fresh = small_flow()
    fresh.load_state_dict(flow.state_dict(), assign=True)
    after = flow.offline(*inputs)
    assert torch.equal(after, fresh.offline(*inputs))
    assert not torch.equal(before, after)


def span(x: torch.Tensor) -> float:
    return (x.max() - x.min()).item()
