"""Streaming in general: rows beside rows, voices prepared once, bounded cost, states that vanish when dropped."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Container
from contextlib import nullcontext

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cf_agents.models.flow import Flow, FlowPrompt, FlowState
from cf_agents.models.flow_cache import Reach
from cf_agents.models.noise import SeededNoise
from tests.models.flow_cases import SMALL, Case, blocks, case, small_flow, stream

MODES = [{"mode": "chunk"}, {"mode": "chunk", "window_tokens": 16}, {"mode": "continue"}]
EXACT = 1e-5


@pytest.fixture(params=MODES, ids=["chunk", "window", "continue"])
def flow(request: pytest.FixtureRequest) -> Flow:
    return small_flow(**request.param)


def test_a_row_in_any_batch_equals_the_row_alone(flow: Flow) -> None:
    utterances = [case(23, 37, 1), case(0, 80, 2), case(50, 64, 3), case(2, 3, 4), case(20, 19, 5)]
    starts = [0, 0, 1, 2, 1]
    alone = [torch.cat(stream(flow, utterance, blocks(utterance.tokens.shape[0])), 1) for utterance in utterances]
    waiting = [list(utterance.tokens.split(16)) for utterance in utterances]
    states: dict[int, FlowState] = {}
    pieces: list[list[torch.Tensor]] = [[] for _ in utterances]
    tick = 0
    while any(waiting):
        for row, start in enumerate(starts):
            if start == tick:
                states[row] = utterances[row].open(flow)
        rows = [row for row in states if waiting[row]]
        tokens = [waiting[row].pop(0) for row in rows]
        mels = flow.step([states[row] for row in rows], tokens, [not waiting[row] for row in rows])
        for row, mel in zip(rows, mels, strict=True):
            pieces[row].append(mel)
        tick += 1
    for own, wanted in zip(pieces, alone, strict=True):
        assert (torch.cat(own, 1) - wanted).abs().max() <= EXACT


def test_every_token_becomes_two_frames_once(flow: Flow) -> None:
    for sizes in ([16, 16, 5], [16, 16, 0], [1], [2, 1], [3, 0], [40]):
        utterance = case(10, sum(sizes))
        assert sum(piece.shape[1] for piece in stream(flow, utterance, sizes)) == 2 * sum(sizes)


def test_no_tokens_at_all_is_no_mel(flow: Flow) -> None:
    (mel,) = stream(flow, case(10, 0), [0])
    assert mel.shape == (80, 0)


def test_the_first_piece_leaves_with_the_first_block(flow: Flow) -> None:
    state = case(10, 16).open(flow)
    (mel,) = flow.step([state], [case(10, 16).tokens], [False])
    assert mel.shape == (80, 26)


def test_a_prepared_voice_is_shared_and_never_changes(flow: Flow) -> None:
    utterance = case(23, 50)
    voice = flow.prepare(utterance.prompt)
    before = [part.clone() for part in (voice.cache.memory.estimator, voice.cache.token_tail, *voice.tail.parts())]

    def speak() -> torch.Tensor:
        state = flow.open(voice, SeededNoise(3, 80))
        return torch.cat([flow.step([state], [part], [i == 3])[0] for i, part in enumerate(utterance.tokens.split(16))], 1)

    assert torch.equal(speak(), speak())
    after = (voice.cache.memory.estimator, voice.cache.token_tail, *voice.tail.parts())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_continuing_is_an_offline_call_with_what_was_emitted_as_prompt() -> None:
    history = 8
    flow = small_flow(mode="continue", history_tokens=history)
    utterance = case(3, 24)  # a prompt this short is all context: nothing of it is cached
    voice, tokens, noise = utterance.prompt, utterance.tokens, utterance.noise
    first, second = stream(flow, utterance, [16, 8])
    kept = slice(13 - history, 13)
    prompt = FlowPrompt(
        torch.cat([voice.tokens, tokens[kept]]), torch.cat([voice.mel, first.T[2 * kept.start :]]), voice.speaker
    )
    kept_noise = torch.cat([noise[:, :6], noise[:, 6 + 2 * kept.start :]], 1)
    wanted = flow.offline(tokens[None, 13:], prompt, kept_noise[None])[0]
    assert (second - wanted).abs().max() <= EXACT


def test_the_cached_prompt_attends_to_itself_and_is_attended_to() -> None:
    flow = small_flow(mode="continue")
    utterance = case(20, 16)
    voice, total, cached = utterance.prompt, 33, 17
    (first,) = flow.step([utterance.open(flow)], [utterance.tokens], [False])
    place = torch.arange(total)
    seen = (place[:, None] >= cached) | (place[None, :] < cached)
    who = Reach(seen[None, None], (place[:, None] - place + total)[None, None], -total, total)
    mel = torch.nn.functional.pad(voice.mel, (0, 0, 0, 26))[None]
    with torch.inference_mode():
        mean = flow.encode(torch.cat([voice.tokens, utterance.tokens])[None], who)
        speaker = flow.spk_embed_affine_layer(torch.nn.functional.normalize(voice.speaker[None]))
        whole = flow.decoder(mean, speaker, mel, utterance.noise.T[None, : 2 * total], who.doubled().mask, None)
    assert (first - whole[0, 40:].T).abs().max() <= EXACT


def test_a_long_prompt_keeps_its_end() -> None:
    flow = small_flow(mode="continue", prompt_tokens=12)
    utterance = case(30, 40)
    voice = utterance.prompt
    shorter = Case(utterance.tokens, FlowPrompt(voice.tokens[18:], voice.mel[36:], voice.speaker), utterance.noise[:, 36:])
    trimmed, wanted = (torch.cat(stream(flow, one, blocks(40)), 1) for one in (utterance, shorter))
    assert torch.equal(trimmed, wanted)


def test_states_of_one_voice_stepped_in_turn_do_not_meet(flow: Flow) -> None:
    utterances = [case(23, 150, seed) for seed in (1, 2)]
    voice = flow.prepare(utterances[0].prompt)

    def speak(turns: list[list[int]]) -> list[torch.Tensor]:
        mels: list[list[torch.Tensor]] = [[], []]
        for turn in turns:
            states = {row: flow.open(voice, SeededNoise(row, 80)) for row in turn}
            for i in range(10):
                for row, state in states.items():
                    tokens = utterances[row].tokens[16 * i : 16 * i + 16]
                    mels[row] += flow.step([state], [tokens], [i == 9])
        return [torch.cat(own, 1) for own in mels]

    for apart, together in zip(speak([[0], [1]]), speak([[0, 1]]), strict=True):
        assert (apart - together).abs().max() <= EXACT


def test_a_row_alone_appends_to_its_cache_in_place() -> None:
    flow = small_flow(mode="chunk")
    utterance = case(23, 16 * 12)
    state = utterance.open(flow)
    places = set()
    for part in utterance.tokens.split(16):
        flow.step([state], [part], [False])
        places.add(state.cache.memory.estimator.data_ptr())
    assert len(places) <= 4, "all keys and values may be copied once in 64 tokens, not in every block"


def test_a_copied_state_goes_its_own_way(flow: Flow) -> None:
    utterance = case(23, 128)
    parts = list(utterance.tokens.split(16))
    wanted = torch.cat(stream(flow, utterance, blocks(128))[2:], 1)
    begun = utterance.open(flow)
    for part in parts[:2]:
        flow.step([begun], [part], [False])
    kept, other = copy.copy(begun), copy.copy(begun)
    mels: list[list[torch.Tensor]] = [[], []]
    for i, part in enumerate(parts[2:]):
        mels[0] += flow.step([begun], [part], [i == 5])
        flow.step([other], [part.flip(0)], [False])
        mels[1] += flow.step([kept], [part], [i == 5])
    for own in mels:
        assert (torch.cat(own, 1) - wanted).abs().max() <= EXACT


def test_opening_runs_no_network(flow: Flow) -> None:
    voice = flow.prepare(case(23, 0).prompt)
    with FlopCounterMode(display=False) as counter:
        flow.open(voice, SeededNoise(3, 80))
    assert counter.get_total_flops() == 0


@pytest.mark.parametrize("changes", [{"mode": "chunk", "window_tokens": 32}, {"mode": "continue"}])
def test_cost_per_block_is_bounded(changes: dict[str, object]) -> None:
    costs = block_costs(small_flow(SMALL, **changes), case(40, 16 * 41), (4, 40))
    assert costs[40] <= 1.1 * costs[4]


def test_streaming_costs_little_more_than_offline() -> None:
    flow = small_flow(mode="continue")
    utterance = case(75, 128)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as whole:
        flow.offline(utterance.tokens[None], utterance.prompt, utterance.noise[None])
    assert sum(block_costs(flow, utterance, range(8)).values()) <= 2.5 * whole.get_total_flops()


def test_a_window_bounds_the_memory() -> None:
    flow = small_flow(mode="chunk", window_tokens=32)
    utterance = case(40, 16 * 12)
    state = utterance.open(flow)
    for part in utterance.tokens.split(16):
        flow.step([state], [part], [False])
        assert state.cache.length <= 37 + 32


def test_dropping_a_state_frees_it(flow: Flow) -> None:
    utterances = [case(23, 64, 1), case(5, 64, 2)]
    states = [utterance.open(flow) for utterance in utterances]
    for i in range(3):
        flow.step(states, [utterance.tokens[16 * i : 16 * i + 16] for utterance in utterances], [False, False])
    dropped = [weakref.ref(states[0]), weakref.ref(states[0].cache), weakref.ref(states[0].context.mel)]
    kept = [state.cache.memory.estimator.untyped_storage().data_ptr() for state in states]
    assert kept[0] != kept[1], "a row must not keep the others of its batch alive"
    states[0].voice = states[1].voice
    del states[0]
    gc.collect()
    assert all(reference() is None for reference in dropped)


def test_stepping_a_finished_state_is_refused(flow: Flow) -> None:
    utterance = case(10, 16)
    state = utterance.open(flow)
    flow.step([state], [utterance.tokens], [True])
    with pytest.raises(AssertionError, match="after its last"):
        flow.step([state], [utterance.tokens], [False])


def block_costs(flow: Flow, utterance: Case, counted: Container[int]) -> dict[int, int]:
    """Floating-point operations of the `counted` blocks of 16 tokens; the others run uncounted."""
    state = utterance.open(flow)
    costs = {}
    for i, part in enumerate(utterance.tokens.split(16)):
        # the fused attention of a CPU is not counted
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) if i in counted else nullcontext() as counter:
            flow.step([state], [part], [False])
        if counter is not None:
            costs[i] = counter.get_total_flops()
    return costs
