"""A decoder and a vocoder without a model, for tests of everything around them.

The decoder makes tokens from the seed alone; the vocoder's sound says which utterance and which sample it is, so that what is
lost, doubled or out of order shows in the audio.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cf_agents.config import DecodeParams, ModelConfig
from cf_agents.decoded import Decoded
from cf_agents.engines.base import Conditioning, Prefix
from cf_agents.errors import CfAgentsError, EngineFull
from cf_agents.links.base import Audio, Block, Closed, Event, Failed, Segment
from cf_agents.links.thread import Post, loop_post
from cf_agents.stream import Stream
from cf_agents.text_ids import TextIds
from cf_agents.voice import Voice

SAMPLES_PER_TOKEN = 960
SAMPLE_RATE = 24_000
FULL_SCALE = 32767


class FakeClock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def fake_voice(name: str = "fake") -> Voice:
    """A voice that is whole and says nothing."""
    conditioning = Conditioning(np.zeros(256, np.float32), np.zeros(3, np.int64))
    return Voice(conditioning, np.zeros(2, np.int64), np.zeros((4, 80), np.float32), np.zeros(192, np.float32), name)


@dataclass(eq=False)
class FakeDecoding:
    """tokens: all it will ever say; places: where in the text ids."""

    tokens: list[int]
    places: list[float] | None
    steps: int
    block_size: int
    seed: int
    rows: int
    step: int = 0
    said: int = 0
    finished: bool = False
    closed: bool = False


class FakeDecoder:
    """Says 3 tokens for each text id, in blocks of `block_size`, each after `params.steps` steps.

    pool: decoder rows; an utterance takes two with guidance. step_s: time that a step burns. on_step: called with the seeds of
    each batch before it is stepped; what it raises is the step's error. batches: the seeds of every batch. places: where in so
    many text ids so many tokens are spoken, if it is to tell.
    """

    def __init__(self, pool: int = 8, block_size: int = 4, step_s: float = 0.0) -> None:
        self.pool = self.rows_free = pool
        self.block_size = block_size
        self.step_s = step_s
        self.on_open: Callable[[Prefix, int], None] = lambda prefix, seed: None
        self.on_step: Callable[[list[int]], None] = lambda seeds: None
        self.places: Callable[[int, int], list[float]] | None = None
        self.batches: list[list[int]] = []
        self.opened: list[int] = []

    def open(self, prefix: Prefix, params: DecodeParams, seed: int, words: Sequence[tuple[int, int]] = ()) -> FakeDecoding:
        rows = 2 if params.guidance > 0 else 1
        self.on_open(prefix, seed)
        if rows > self.rows_free:
            raise EngineFull(f"{rows} rows needed, {self.rows_free} of {self.pool} free; load with a larger pool.")
        self.rows_free -= rows
        self.opened.append(seed)
        tokens = fake_tokens(seed, 3 * len(prefix.text_ids))
        places = self.places(len(prefix.text_ids), len(tokens)) if self.places else None
        return FakeDecoding(tokens, places, params.steps, self.block_size, seed, rows)

    def step(self, decodings: Sequence[FakeDecoding]) -> list[Decoded | None]:
        assert not any(decoding.closed or decoding.finished for decoding in decodings)
        seeds = [decoding.seed for decoding in decodings]
        self.on_step(seeds)
        self.batches.append(seeds)
        if self.step_s:
            end = time.perf_counter() + self.step_s
            while time.perf_counter() < end:
                pass
        return [self._advance(decoding) for decoding in decodings]

    def close(self, decoding: FakeDecoding) -> None:
        if not decoding.closed:
            decoding.closed = True
            self.rows_free += decoding.rows

    def _advance(self, decoding: FakeDecoding) -> Decoded | None:
        decoding.step += 1
        if decoding.step < decoding.steps:
            return None
        decoding.step = 0
        span = slice(decoding.said, decoding.said + decoding.block_size)
        block = Decoded(decoding.tokens[span], None if decoding.places is None else decoding.places[span])
        decoding.said += len(block.tokens)
        decoding.finished = decoding.said == len(decoding.tokens)
        return block


@dataclass(eq=False)
class FakeState:
    """made: samples given out; held: samples kept back; rest: what `begin` has left."""

    seed: int
    made: int = 0
    held: int = 0
    ended: bool = False
    rest: NDArray[np.float32] | None = None


class FakeVocoder:
    """960 samples for a token, `holdback` of them kept until the end. See `fake_sound` for what they are.

    opening: samples of a piece that `begin` gives out.
    """

    def __init__(self, holdback: int = 480, opening: int = 2**30) -> None:
        self.holdback = holdback
        self.opening = opening
        self.prepared: list[str] = []
        self.on_step: Callable[[list[int]], None] = lambda seeds: None
        self.on_rest: Callable[[list[int]], None] = lambda seeds: None
        self.on_open: Callable[[int], None] = lambda seed: None
        self.sound: Callable[[int, int, int], NDArray[np.float32]] = fake_sound

    def prepare(self, voice: Voice) -> str:
        self.prepared.append(voice.name)
        return voice.name

    def open(self, voice: str, seed: int) -> FakeState:
        self.on_open(seed)
        return FakeState(seed)

    def step(
        self, states: Sequence[FakeState], tokens: Sequence[Sequence[int]], last: Sequence[bool]
    ) -> list[NDArray[np.float32]]:
        assert not any(state.ended or state.rest is not None for state in states)
        assert len({id(state) for state in states}) == len(states)
        self.on_step([state.seed for state in states])
        return [self._piece(*each) for each in zip(states, tokens, last, strict=True)]

    def begin(
        self, states: Sequence[FakeState], tokens: Sequence[Sequence[int]], last: Sequence[bool]
    ) -> list[tuple[NDArray[np.float32], bool]]:
        whole = self.step(states, tokens, last)
        for state, sound in zip(states, whole, strict=True):
            state.rest = sound[self.opening :] if len(sound) > self.opening else None
        return [(sound[: self.opening], state.rest is not None) for state, sound in zip(states, whole, strict=True)]

    def rest(self, states: Sequence[FakeState]) -> list[NDArray[np.float32]]:
        assert len({id(state) for state in states}) == len(states)
        self.on_rest([state.seed for state in states])
        left = [state.rest for state in states if state.rest is not None]
        assert len(left) == len(states)
        for state in states:
            state.rest = None
        return left

    def _piece(self, state: FakeState, tokens: Sequence[int], last: bool) -> NDArray[np.float32]:
        ready = state.held + SAMPLES_PER_TOKEN * len(tokens)
        count = ready if last else max(0, ready - self.holdback)
        sound = self.sound(state.seed, state.made, count)
        state.made += count
        state.held = ready - count
        state.ended = last
        return sound


def fake_ids(text: str) -> TextIds:
    """4 characters make an id; no start, no stop."""
    count = max(1, len(text) // 4)
    return TextIds(text, tuple(range(count)), tuple(range(0, 4 * count, 4)))


def fake_places(ids: int, tokens: int) -> list[float]:
    """A voice that goes through its text at an even pace, from the first token to the last; ids may begin before their end."""
    return [ids * (n + 0.5) / tokens for n in range(tokens)]


def fake_tokens(seed: int, count: int) -> list[int]:
    """`count` codec tokens that depend on the seed alone."""
    source = random.Random(seed)
    return [source.randrange(6561) for _ in range(count)]


def fake_sound(seed: int, start: int, count: int) -> NDArray[np.float32]:
    """Samples [start, start + count) of an utterance: a ramp that starts at a place of its own, exact in 16 bits."""
    place = (np.arange(start, start + count) + 7919 * (seed % 1009)) % (2 * FULL_SCALE)
    return ((place - FULL_SCALE) / FULL_SCALE).astype(np.float32)


@dataclass(eq=False)
class FakeSession:
    """A stream's line to nobody: what it was told is kept, and what comes back is up to the test."""

    voice: Voice
    lead_s: float
    link: FakeLink
    post: Post
    receive: Callable[[Event], None]
    segments: list[Segment] = field(default_factory=list)
    positions: list[float] = field(default_factory=list)
    spoken: int = 0
    closed: bool = False

    def submit(self, segment: Segment) -> None:
        self.segments.append(segment)
        self.link.on_submit(self)

    def report_position(self, seconds: float) -> None:
        self.positions.append(seconds)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._send(Closed())

    def give(self, seconds: float, last: bool = False) -> None:
        """Audio of the segment that is next, a tone of the session's own."""
        self.give_samples(np.full(round(seconds * SAMPLE_RATE), 1000 + self.link.sessions.index(self), np.int16), last)

    def give_samples(self, samples: NDArray[np.int16], last: bool = False) -> None:
        pcm = samples.astype("<i2").tobytes()
        self._send(Audio(self.spoken, pcm, last, Block(8, 2, 0.0, 0.0, 0.0)))
        self.spoken += last

    def speak(self, seconds: float = 0.5) -> None:
        """All that was submitted and not spoken, so long each."""
        while self.spoken < len(self.segments):
            self.give(seconds, last=True)

    def fail(self, error: CfAgentsError) -> None:
        self._send(Failed(error))

    def _send(self, event: Event) -> None:
        self.post(lambda: self.receive(event))


class FakeLink:
    """A link with no scheduler behind it. on_submit: what happens to a session that was given a segment."""

    def __init__(self, on_submit: Callable[[FakeSession], None] = lambda session: None) -> None:
        self.sample_rate = SAMPLE_RATE
        self.sessions: list[FakeSession] = []
        self.on_submit = on_submit

    def open(self, voice: Voice, lead_s: float, receive: Callable[[Event], None]) -> FakeSession:
        self.sessions.append(FakeSession(voice, lead_s, self, loop_post(), receive))
        return self.sessions[-1]

    async def aclose(self) -> None:
        pass


class FakeTTS:
    """What an integration needs of a loaded `TTS`: real streams, over a fake link. error: what `stream` raises."""

    def __init__(self, link: FakeLink | None = None) -> None:
        self.link = link or FakeLink()
        self.config = ModelConfig(name="fake")
        self.sample_rate = self.link.sample_rate
        self.voices = {name: fake_voice(name) for name in ("default", "male")}
        self.error: CfAgentsError | None = None

    def stream(
        self,
        voice: Voice | str = "default",
        *,
        params: DecodeParams | str | None = None,
        seed: int | None = None,
        lead_s: float | None = None,
        sample_rate: int | None = None,
    ) -> Stream:
        if self.error is not None:
            raise self.error
        return Stream(
            self.link,
            self.voices[voice] if isinstance(voice, str) else voice,
            params=DecodeParams.preset(params) if isinstance(params, str) else params or DecodeParams(),
            seed=seed or 0,
            lead_s=math.inf if lead_s is None else lead_s,
            sample_rate=sample_rate,
        )
