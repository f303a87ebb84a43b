"""The real decoder and vocoder under the scheduler, small and drawn at random: company changes nothing of what is said."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from cf_agents.builtin import default_voice
from cf_agents.checkpoint import S3GEN_FILE, T3_FILE, Checkpoint
from cf_agents.config import DecodeParams
from cf_agents.decode import Decoder, Decoding
from cf_agents.decoded import Decoded
from cf_agents.engines.dense import DenseEngine
from cf_agents.links.base import Audio, Event
from cf_agents.models.flow import Flow
from cf_agents.models.hift import HiFT
from cf_agents.models.layout import without_storage
from cf_agents.models.t3 import T3
from cf_agents.scheduler import Scheduler
from cf_agents.utterance import Speech, Utterance
from cf_agents.vocoder import SAMPLES_PER_TOKEN, Vocoder
from tests.fakes import FakeClock, fake_ids

LSB = 1 / 32768
TEXTS = (
    "a short one",
    "this is a text of medium length, no more",
    "and here is one that goes on for longer than the others",
)


class Noted(Decoder):
    """Keeps the codec tokens of every utterance by its seed."""

    def __init__(self, engine: DenseEngine) -> None:
        super().__init__(engine)
        self.tokens: dict[int, list[int]] = {}

    def step(self, decodings: Sequence[Decoding]) -> list[Decoded | None]:
        blocks = super().step(decodings)
        for decoding, block in zip(decodings, blocks, strict=True):
            if block is not None:
                self.tokens.setdefault(decoding.seed, []).extend(block.tokens)
        return blocks


@dataclass
class Talk:
    """One speech of a segment: what it is asked, when it comes, and when it is cancelled, in turns of the scheduler."""

    seed: int
    text: str
    params: DecodeParams
    comes: int = 0
    goes: int | None = None
    pcm: list[bytes] = field(default_factory=list)
    speech: Speech | None = None

    def receive(self, event: Event) -> None:
        if isinstance(event, Audio):
            self.pcm.append(event.pcm)

    @property
    def sound(self) -> np.ndarray:
        return np.frombuffer(b"".join(self.pcm), "<i2") * LSB


@pytest.fixture(scope="module")
def say(tiny_folder: Path) -> Callable[[Sequence[Talk]], dict[int, list[int]]]:
    """Let these talks be said by one scheduler, turn by turn; gives the tokens of each."""
    checkpoint = Checkpoint.open(tiny_folder)
    with without_storage():
        t3, flow, hift = T3(checkpoint.config.t3), Flow(checkpoint.config.flow), HiFT(checkpoint.config.hift)
    checkpoint.fill(t3, T3_FILE)
    checkpoint.fill(flow, S3GEN_FILE, "flow.")
    checkpoint.fill(hift, S3GEN_FILE, "mel2wav.")
    engine, vocoder, voice = DenseEngine(t3, max_rows=24, max_length=256), Vocoder(flow, hift), default_voice(checkpoint)

    def run(talks: Sequence[Talk]) -> dict[int, list[int]]:
        decoder, clock = Noted(engine), FakeClock()
        scheduler = Scheduler(decoder, vocoder, vocoder.sample_rate, clock)
        last = max(max(talk.comes, talk.goes or 0) for talk in talks)
        turn, wait = 0, 0.0
        while turn <= last or wait is not None:
            for talk in talks:
                if talk.comes == turn:
                    talk.speech = scheduler.open(voice, 1e9, talk.receive)
                    scheduler.submit(Utterance(talk.speech, 0, fake_ids(talk.text), talk.params, talk.seed, clock()))
                if talk.goes == turn and talk.speech is not None:
                    scheduler.cancel(talk.speech)
            scheduler.take_commands(0.0)
            wait, turn = scheduler.turn(), turn + 1
        assert engine.rows_free == 24
        return decoder.tokens

    return run


def alone(talk: Talk) -> Talk:
    return Talk(talk.seed, talk.text, talk.params)


def test_in_company_a_stream_says_what_it_says_alone(say: Callable[[Sequence[Talk]], dict[int, list[int]]]) -> None:
    """Joined early or late, with other knobs and lengths beside it, some of them cancelled on the way."""
    source = random.Random(11)
    talks = []
    for seed in range(6):
        params = DecodeParams(
            steps=source.choice([1, 2, 3]),
            guidance=source.choice([0.0, 0.7]),
            block_size=source.choice([8, 16]),
            max_tokens=source.choice([12, 20, 28]),
        )
        goes = source.randrange(2, 8) if seed % 3 == 2 else None
        talks.append(Talk(seed, source.choice(TEXTS), params, comes=source.randrange(0, 6), goes=goes))
    together = say(talks)
    cancelled = 0
    for talk in talks:
        single = alone(talk)
        tokens = say([single])[talk.seed]
        if talk.goes is None:
            assert together[talk.seed] == tokens
            assert len(talk.sound) == len(tokens) * SAMPLES_PER_TOKEN
        else:
            said = together.get(talk.seed, [])
            assert said == tokens[: len(said)]
            cancelled += len(said) < len(tokens)
        np.testing.assert_allclose(talk.sound, single.sound[: len(talk.sound)], atol=1e-4 + LSB)
    assert cancelled
