"""The recorded vocoder is the plain one, whatever is padded; CUDA graphs are played by tapes (see `test_decode_graphs`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from cf_agents.config import FlowConfig
from cf_agents.engines.graphs import Captured, Out
from cf_agents.models.flow import Flow
from cf_agents.models.hift import HiFT
from cf_agents.synthetic import TINY
from cf_agents.vocoder import Vocoder, VocoderState
from cf_agents.vocoder_graphs import FlowGraphs, HiFTGraphs, record
from tests.drawn import load_drawn
from tests.test_decode_graphs import Played, TapeCapture
from tests.test_vocoder import CHUNK, CONTINUE, PCM, draw_tokens, prompt, speak

WINDOWED = dataclasses.replace(CHUNK, window_tokens=32)
HIFT = dataclasses.replace(TINY.hift, base_channels=16, f0_channels=16)
MODES = {"continue": CONTINUE, "windowed": WINDOWED}


class Again:
    """Plays a recording by doing the work again, and counts."""

    def __init__(self) -> None:
        self.captured: list[Again] = []
        self.work: Callable[[], object] = object

    def __call__(self, work: Callable[[], Out]) -> tuple[Captured, Out]:
        made = Again()
        self.captured.append(made)
        made.work = work
        return made, work()

    def replay(self) -> None:
        self.work()


class Recorded:
    """A vocoder of tapes beside the plain one, of the same weights."""

    def __init__(self, config: FlowConfig, most: int = 4, capture: TapeCapture | Again | None = None) -> None:
        flow, hift = Flow(config), HiFT(HIFT)
        load_drawn(flow, "flow.")
        load_drawn(hift, "mel2wav.")
        self.capture = capture or TapeCapture()
        self.passes, self.windows = FlowGraphs(self.capture, most), HiFTGraphs(self.capture, most)
        self.plain = Vocoder(flow, hift)
        self.vocoder = Vocoder(flow, hift, passes=self.passes, decode=self.windows)

    @property
    def recordings(self) -> int:
        return len(self.passes) + len(self.windows)

    @property
    def replays(self) -> int:
        return sum(tape.replays for tape in self.capture.captured if isinstance(tape, Played))


@pytest.fixture(scope="module", params=MODES)
def recorded(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(MODES[request.param])


PLANS = [[16, 16, 16, 3], [16, 16, 0], [16, 9], [1, 0]]


def in_company(vocoder: Vocoder, plans: list[list[int]]) -> list[list[PCM]]:
    """Utterances of two voices at once, one with hardly a prompt, so that its first chunk is short. Not all of them take part
    in every step, so that rows change places."""
    voices = [vocoder.prepare(prompt(0, 30)), vocoder.prepare(prompt(1, 2))]
    tokens = [draw_tokens(n, sum(plan)) for n, plan in enumerate(plans)]
    states: list[VocoderState] = [vocoder.open(voices[n % 2], seed=n) for n in range(len(plans))]
    heard: list[list[PCM]] = [[] for _ in plans]
    for step in range(max(map(len, plans))):
        rows = [n for n, plan in enumerate(plans) if step < len(plan)][:: 1 if step % 2 else -1]
        news = [tokens[n][sum(plans[n][:step]) : sum(plans[n][: step + 1])] for n in rows]
        made = vocoder.step([states[n] for n in rows], news, [step == len(plans[n]) - 1 for n in rows])
        for n, pcm in zip(rows, made, strict=True):
            heard[n].append(pcm)
    return heard


def same(found: list[PCM], wanted: list[PCM]) -> None:
    assert [len(piece) for piece in found] == [len(piece) for piece in wanted]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(wanted), atol=1e-4)


def test_recorded_pieces_are_the_plain_ones(recorded: Recorded) -> None:
    """Alone, and among others that are at other places; after that, over memory that others have left, once more."""
    plain, vocoder = recorded.plain, recorded.vocoder
    chunks = [16, 16, 16, 7]
    tokens = draw_tokens(5, sum(chunks))

    def alone(each: Vocoder, prompt_tokens: int) -> list[PCM]:
        return speak(each, each.open(each.prepare(prompt(1, prompt_tokens)), 3), tokens, chunks)

    wanted = alone(plain, 30)
    same(alone(vocoder, 30), wanted)
    same(alone(vocoder, 2), alone(plain, 2))
    for found, each in zip(in_company(vocoder, PLANS), in_company(plain, PLANS), strict=True):
        same(found, each)
    before, replays = recorded.recordings, recorded.replays
    same(alone(vocoder, 30), wanted)
    assert recorded.recordings == before
    assert recorded.replays > replays


@pytest.mark.parametrize("mode", MODES)
def test_what_streams_need_is_recorded_before_and_little(mode: str) -> None:
    recorded = Recorded(MODES[mode], most=2, capture=Again())
    vocoder = recorded.vocoder
    voice = vocoder.prepare(prompt())
    record(vocoder, voice, 2, 16)
    known = recorded.recordings
    assert known <= 2 * (3 + 6)
    for last in (0, 12, 15):
        states = [vocoder.open(voice, seed) for seed in range(1 + last % 2)]
        tokens = draw_tokens(last, 64 + last)
        for n in range(5):
            vocoder.step(states, [tokens[16 * n : 16 * n + 16]] * len(states), [n == 4] * len(states))
        states = [vocoder.open(voice, seed) for seed in range(1 + last % 2)]
        assert all(more for _, more in vocoder.begin(states, [tokens[:16]] * len(states), [False] * len(states)))
        vocoder.rest(states)
        vocoder.step(states, [tokens[:16]] * len(states), [False] * len(states))
    assert recorded.recordings == known


def test_more_than_was_foreseen_runs_as_it_is() -> None:
    recorded = Recorded(CONTINUE, most=2)
    plain, vocoder = recorded.plain, recorded.vocoder
    tokens = draw_tokens(0, 150)
    same([vocoder.offline(tokens, vocoder.prepare(prompt()), 1)], [plain.offline(tokens, plain.prepare(prompt()), 1)])
    for found, wanted in zip(in_company(vocoder, [[16]] * 3), in_company(plain, [[16]] * 3), strict=True):
        same(found, wanted)
    assert recorded.recordings == 0
