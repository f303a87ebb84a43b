"""The vocoder in pieces against itself in one piece, alone and in batches."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cf_agents.config import FlowConfig
from cf_agents.errors import StreamClosed
from cf_agents.models.flow import Flow
from cf_agents.models.hift import HiFT
from cf_agents.models.noise import SeededNoise, key
from cf_agents.synthetic import TINY, draw
from cf_agents.vocoder import OPENING_FRAMES, SAMPLES_PER_TOKEN, Vocoder, VocoderState, VocoderVoice
from tests.drawn import load_drawn

PCM = NDArray[np.float32]
CONTINUE = dataclasses.replace(TINY.flow, mode="continue")
CHUNK = dataclasses.replace(TINY.flow, mode="chunk")


@dataclass(frozen=True)
class Prompt:
    flow_tokens: NDArray[np.int64]
    flow_mel: PCM
    xvector: PCM


def prompt(seed: int = 0, tokens: int = 30) -> Prompt:
    random = np.random.RandomState(seed)
    mel = 2.0 * draw("vocoder.prompt", (2 * tokens, 80), seed) - 5.0
    return Prompt(random.randint(0, 6561, tokens), mel, draw("vocoder.xvector", (192,), seed))


def make(flow: FlowConfig) -> Vocoder:
    vocoder = Vocoder(Flow(flow), HiFT(TINY.hift))
    load_drawn(vocoder.flow, "flow.")
    load_drawn(vocoder.hift, "mel2wav.")
    return vocoder


@pytest.fixture(scope="module", params=[CONTINUE, CHUNK], ids=["continue", "chunk"])
def vocoder(request: pytest.FixtureRequest) -> Vocoder:
    return make(request.param)


@pytest.fixture(scope="module")
def voice(vocoder: Vocoder) -> VocoderVoice:
    return vocoder.prepare(prompt())


def draw_tokens(seed: int, count: int) -> list[int]:
    return np.random.RandomState(1000 + seed).randint(0, 6561, count).tolist()


def speak(vocoder: Vocoder, state: VocoderState, tokens: Sequence[int], chunks: Sequence[int]) -> list[PCM]:
    assert sum(chunks) == len(tokens)
    out, done = [], 0
    for i, chunk in enumerate(chunks):
        out += vocoder.step([state], [tokens[done : done + chunk]], [i == len(chunks) - 1])
        done += chunk
    return out


def chunking(seed: int, total: int, largest: int) -> list[int]:
    random, sizes = np.random.RandomState(seed), []
    while sum(sizes) < total:
        sizes.append(min(int(random.randint(0, largest + 1)), total - sum(sizes)))
    return [*sizes, 0]


def decibel(got: PCM, wanted: PCM) -> float:
    return float(20 * np.log10(np.square(got - wanted).mean() ** 0.5 / np.square(wanted).mean() ** 0.5))


def test_pieces_equal_the_whole_in_chunk_mode() -> None:
    """Mel in pieces is mel in one piece; what is left is HiFT's window."""
    vocoder = make(CHUNK)
    voice, tokens = vocoder.prepare(prompt()), draw_tokens(0, 70)
    whole = vocoder.offline(tokens, voice, seed=7)
    for seed in range(3):
        pieces = np.concatenate(speak(vocoder, vocoder.open(voice, 7), tokens, chunking(seed, 70, 20)))
        assert pieces.shape == whole.shape == (70 * SAMPLES_PER_TOKEN,)
        assert decibel(pieces, whole) < -70
        assert np.abs(pieces - whole).max() < 4e-3


def test_pieces_in_continue_mode_are_the_flows_mel_through_hift() -> None:
    """There the flow itself differs from the whole (its own tests bound that); the vocoder adds HiFT's window only."""
    vocoder = make(CONTINUE)
    voice, tokens = vocoder.prepare(prompt()), draw_tokens(0, 64)
    pieces = np.concatenate(speak(vocoder, vocoder.open(voice, 7), tokens, [16] * 4))
    fresh = vocoder.open(voice, 7)
    parts = [torch.tensor(tokens[i : i + 16]) for i in range(0, 64, 16)]
    mel = torch.cat([vocoder.flow.step([fresh.flow], [part], [i == 3])[0] for i, part in enumerate(parts)], 1)
    whole = vocoder.hift.step([fresh.hift], [mel], [True])[0].numpy()
    assert pieces.shape == whole.shape
    assert decibel(pieces, whole) < -70


@pytest.mark.parametrize("count", range(6))
def test_short_utterances_are_whole(vocoder: Vocoder, voice: VocoderVoice, count: int) -> None:
    tokens = draw_tokens(count, count)
    assert vocoder.offline(tokens, voice, seed=1).shape == (count * SAMPLES_PER_TOKEN,)
    state = vocoder.open(voice, 1)
    pieces = speak(vocoder, state, tokens, [1] * count + [0])
    assert sum(map(len, pieces)) == count * SAMPLES_PER_TOKEN
    assert all(piece.dtype == np.float32 and np.isfinite(piece).all() for piece in pieces)
    assert state.held_samples == 0


def test_the_first_piece_leaves_as_soon_as_the_latency_is_covered(vocoder: Vocoder, voice: VocoderVoice) -> None:
    state, tokens, held = vocoder.open(voice, 0), draw_tokens(0, 40), vocoder.latency_samples
    assert held == 3 * SAMPLES_PER_TOKEN + 10 * 480
    for count in (4, 4, 8, 16):
        (pcm,) = vocoder.step([state], [tokens[state.tokens : state.tokens + count]], [False])
        received = state.tokens * SAMPLES_PER_TOKEN
        if vocoder.flow.config.mode == "continue":
            assert state.held_samples == min(held, received)
        else:
            assert held <= state.held_samples or state.held_samples == received
            assert state.held_samples < held + vocoder.flow.config.chunk_tokens * SAMPLES_PER_TOKEN
        if state.tokens == 16:
            assert len(pcm) == 16 * SAMPLES_PER_TOKEN - held


@pytest.mark.parametrize(("count", "ends"), [(16, False), (16, True), (3, True), (2, False), (0, True)])
def test_a_beginning_and_the_rest_are_the_piece_in_two(vocoder: Vocoder, voice: VocoderVoice, count: int, ends: bool) -> None:
    tokens, more = draw_tokens(5, count), draw_tokens(6, 16)
    whole, parted = vocoder.open(voice, 2), vocoder.open(voice, 2)
    (wanted,) = vocoder.step([whole], [tokens], [ends])
    ((opening, left),) = vocoder.begin([parted], [tokens], [ends])
    assert left == (count == 16)
    assert len(opening) == (OPENING_FRAMES * 480 if left else len(wanted))
    found = np.concatenate([opening, *(vocoder.rest([parted]) if left else [])])
    assert parted.held_samples == whole.held_samples
    if not ends:
        wanted = np.concatenate([wanted, *vocoder.step([whole], [more], [True])])
        found = np.concatenate([found, *vocoder.step([parted], [more], [True])])
    assert found.shape == wanted.shape
    assert whole.closed
    assert parted.closed
    assert decibel(found, wanted) < -70 if left else np.array_equal(found, wanted)


def test_the_rest_comes_before_all_else_and_can_be_taken_again(
    vocoder: Vocoder, voice: VocoderVoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [vocoder.open(voice, seed) for seed in range(2)]
    assert [more for _, more in vocoder.begin(states, [draw_tokens(0, 16)] * 2, [True, False])] == [True, True]
    with pytest.raises(AssertionError, match="rest of a piece"):
        vocoder.step(states[1:], [[]], [True])
    with monkeypatch.context() as patch:
        patch.setattr(HiFT, "decode", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            vocoder.rest(states)
    ended, going_on = vocoder.rest(states)
    assert len(ended) == (16 * 2 - OPENING_FRAMES) * 480
    assert len(going_on) == 16 * SAMPLES_PER_TOKEN - vocoder.latency_samples - OPENING_FRAMES * 480
    with pytest.raises(AssertionError, match="nothing was left"):
        vocoder.rest(states)
    with pytest.raises(StreamClosed):
        vocoder.begin(states, [[], []], [False, False])


def test_a_row_in_any_batch_equals_the_row_alone(vocoder: Vocoder) -> None:
    voices = [vocoder.prepare(prompt(0, 30)), vocoder.prepare(prompt(1, 17))]
    plans = [[16, 16, 16, 3], [16, 16, 0], [4, 16, 16, 16, 9], [1, 0], [0, 8, 8, 8, 8]]
    tokens = [draw_tokens(i, sum(plan)) for i, plan in enumerate(plans)]

    def begin(i: int) -> VocoderState:
        return vocoder.open(voices[i % 2], seed=i)

    alone = [speak(vocoder, begin(i), tokens[i], plan) for i, plan in enumerate(plans)]
    states = [begin(i) for i in range(len(plans))]
    for step in range(max(map(len, plans))):
        rows = [i for i, plan in enumerate(plans) if step < len(plan)][:: 1 if step % 2 else -1]
        news = [tokens[i][sum(plans[i][:step]) : sum(plans[i][: step + 1])] for i in rows]
        got = vocoder.step([states[i] for i in rows], news, [step == len(plans[i]) - 1 for i in rows])
        for i, pcm in zip(rows, got, strict=True):
            assert pcm.shape == alone[i][step].shape
            np.testing.assert_allclose(pcm, alone[i][step], atol=2e-4)


def test_seams_do_not_click(vocoder: Vocoder, voice: VocoderVoice) -> None:
    tokens = draw_tokens(3, 16 * 16)
    pieces = speak(vocoder, vocoder.open(voice, 3), tokens, [16] * 16)
    jumps = np.abs(np.diff(np.concatenate(pieces)))
    seams = np.cumsum([len(piece) for piece in pieces])[:-1] - 1
    inside = np.delete(jumps, seams)
    assert len(seams) >= 15
    assert jumps[seams].max() < np.quantile(inside, 0.999)


def test_the_vocoders_random_numbers_are_its_own(vocoder: Vocoder, voice: VocoderVoice) -> None:
    tokens = draw_tokens(0, 6)
    first, again, other = (vocoder.offline(tokens, voice, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    decoders = [SeededNoise(key(1, *path), 80).frames(0, 4) for path in [(), *((block,) for block in range(300))]]
    mine = vocoder.open(voice, 1).flow.noise.frames(0, 4)
    assert not any(torch.equal(mine, drawn) for drawn in [SeededNoise(1, 80).frames(0, 4), *decoders])


def test_a_list_and_a_tensor_are_the_same_tokens(vocoder: Vocoder, voice: VocoderVoice) -> None:
    tokens = draw_tokens(0, 6)
    assert np.array_equal(vocoder.offline(tokens, voice, 1), vocoder.offline(torch.tensor(tokens), voice, 1))


def test_a_step_after_the_last_is_refused_and_hurts_nobody(vocoder: Vocoder, voice: VocoderVoice) -> None:
    tokens, other = draw_tokens(0, 24), vocoder.open(voice, 2)
    ended = vocoder.open(voice, 1)
    vocoder.step([ended], [tokens], [True])
    assert ended.closed
    (first,) = vocoder.step([other], [tokens[:12]], [False])
    with pytest.raises(StreamClosed, match="open a new one"):
        vocoder.step([other, ended], [tokens[12:], []], [True, True])
    (second,) = vocoder.step([other], [tokens[12:]], [True])
    wanted = speak(vocoder, vocoder.open(voice, 2), tokens, [12, 12])
    np.testing.assert_array_equal(np.concatenate([first, second]), np.concatenate(wanted))


def test_a_step_that_raises_can_be_taken_again(vocoder: Vocoder, voice: VocoderVoice, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, state = draw_tokens(0, 40), vocoder.open(voice, 2)
    wanted = speak(vocoder, vocoder.open(voice, 2), tokens, [20, 20])
    vocoder.step([state], [tokens[:20]], [False])

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(vocoder.hift, "decode", full)
        with pytest.raises(torch.OutOfMemoryError):
            vocoder.step([state], [tokens[20:]], [True])
    assert state.tokens == 20
    np.testing.assert_array_equal(vocoder.step([state], [tokens[20:]], [True])[0], wanted[1])


@pytest.mark.parametrize("token", [-1, 6561, 6562])
def test_special_ids_are_a_programming_error(vocoder: Vocoder, voice: VocoderVoice, token: int) -> None:
    state = vocoder.open(voice, 0)
    with pytest.raises(AssertionError, match="codec ids"):
        vocoder.step([state], [[1, token]], [False])
    assert state.tokens == 0


def test_a_dropped_state_leaves_nothing(vocoder: Vocoder, voice: VocoderVoice) -> None:
    state = vocoder.open(voice, 0)
    vocoder.step([state], [draw_tokens(0, 20)], [False])
    kept = [weakref.ref(state), weakref.ref(state.hift.mel), weakref.ref(state.hift.source), weakref.ref(state.flow)]
    del state
    gc.collect()
    assert [each() for each in kept] == [None] * 4


def test_no_step_is_fine_without_utterances(vocoder: Vocoder) -> None:
    assert vocoder.step([], [], []) == []
