"""The scheduler over fakes: order, batching, lead, failures, and the pool left as it was."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from cf_agents.config import DecodeParams
from cf_agents.engines.base import Prefix
from cf_agents.errors import AudioError, Busy, EngineFull, StreamClosed, SynthesisFailed, TextError
from cf_agents.links.base import Audio, Closed, Event, Failed
from cf_agents.runaway import HUSH_S
from cf_agents.scheduler import Scheduler
from cf_agents.utterance import Speech, Status, Utterance
from cf_agents.voice import Voice
from tests.fakes import (
    SAMPLE_RATE,
    SAMPLES_PER_TOKEN,
    FakeClock,
    FakeDecoder,
    FakeDecoding,
    FakeVocoder,
    fake_ids,
    fake_sound,
    fake_voice,
)

PARAMS = DecodeParams(steps=2)
ALONE = DecodeParams(steps=2, guidance=0.0)


class Listener:
    """Keeps the events of a speech; any thread may wait for them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, test: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(test, timeout=10.0), self.events

    def segments_done(self) -> int:
        return sum(isinstance(event, Audio) and event.last for event in self.events)

    def sound(self, segment: int) -> np.ndarray:
        audio = [event for event in self.events if isinstance(event, Audio) and event.segment == segment]
        assert [event.last for event in audio] == [False] * (len(audio) - 1) + [True] * bool(audio)
        return np.frombuffer(b"".join(event.pcm for event in audio), "<i2")

    @property
    def error(self) -> BaseException:
        failed = [event for event in self.events if isinstance(event, Failed)]
        assert len(failed) == 1
        return failed[0].error

    @property
    def closed(self) -> bool:
        return any(isinstance(event, Closed) for event in self.events)


class Bench:
    """A scheduler over fakes, driven turn by turn under a clock that the test moves."""

    def __init__(self, pool: int = 8) -> None:
        self.clock = FakeClock()
        self.decoder = FakeDecoder(pool)
        self.vocoder = FakeVocoder()
        self.scheduler = Scheduler(self.decoder, self.vocoder, SAMPLE_RATE, self.clock)

    def speech(self, lead_s: float = 100.0, voice: Voice | None = None) -> tuple[Speech, Listener]:
        listener = Listener()
        return self.scheduler.open(voice or fake_voice(), lead_s, listener), listener

    def say(self, speech: Speech, seed: int, ids: int = 2, index: int = 0, params: DecodeParams = PARAMS) -> Utterance:
        utterance = Utterance(speech, index, fake_ids("word" * ids), params, seed, self.clock())
        self.scheduler.submit(utterance)
        return utterance

    def turn(self, times: int = 1) -> float | None:
        wait = None
        for _ in range(times):
            self.scheduler.take_commands(0.0)
            wait = self.scheduler.turn()
        return wait

    def finish(self) -> None:
        for _ in range(1000):
            if self.turn() != 0.0:
                return
        raise AssertionError("the scheduler never rests")


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def running() -> Iterator[Bench]:
    """The real clock and the real thread."""
    bench = Bench()
    bench.scheduler = Scheduler(bench.decoder, bench.vocoder, SAMPLE_RATE)
    bench.scheduler.start()
    yield bench
    bench.scheduler.close()


def whole(seed: int, ids: int) -> np.ndarray:
    return np.rint(fake_sound(seed, 0, 3 * ids * SAMPLES_PER_TOKEN).astype(np.float64) * 32767).astype(np.int16)


def test_the_decoder_is_told_which_ids_are_words(bench: Bench) -> None:
    told: list[Sequence[tuple[int, int]]] = []
    opened = bench.decoder.open

    def look(prefix: Prefix, params: DecodeParams, seed: int, words: Sequence[tuple[int, int]]) -> FakeDecoding:
        told.append(words)
        return opened(prefix, params, seed, words)

    bench.decoder.open = look
    speech, _ = bench.speech()
    utterance = bench.say(speech, 1, ids=3)
    bench.finish()
    assert told == [utterance.text.words] != [()]


def test_segments_come_whole_and_in_order(bench: Bench) -> None:
    speech, listener = bench.speech()
    for index, (seed, ids) in enumerate([(11, 3), (12, 1), (13, 5)]):
        bench.say(speech, seed, ids, index)
    bench.finish()
    order = [event.segment for event in listener.events if isinstance(event, Audio)]
    assert order == sorted(order)
    for index, (seed, ids) in enumerate([(11, 3), (12, 1), (13, 5)]):
        np.testing.assert_array_equal(listener.sound(index), whole(seed, ids))
    assert bench.decoder.rows_free == bench.decoder.pool


def test_every_live_utterance_is_in_one_batch_whatever_its_step(bench: Bench) -> None:
    first, _ = bench.speech()
    bench.say(first, 1, ids=9)
    bench.turn(3)
    second, _ = bench.speech()
    third, _ = bench.speech()
    bench.say(second, 2, ids=9, params=DecodeParams(steps=3))
    bench.say(third, 3, ids=9, params=ALONE)
    bench.turn(4)
    assert bench.decoder.batches == [[1]] * 3 + [[1, 2, 3]] * 4


def test_a_batch_gives_what_each_gets_alone(bench: Bench) -> None:
    listeners = []
    for n in range(4):
        speech, listener = bench.speech()
        bench.say(speech, 20 + n, ids=n + 1)
        listeners.append(listener)
        bench.turn()
    bench.finish()
    for n, listener in enumerate(listeners):
        np.testing.assert_array_equal(listener.sound(0), whole(20 + n, n + 1))


def test_a_speech_that_begins_without_rows_is_told_at_once_and_one_that_has_begun_waits() -> None:
    bench = Bench(pool=4)
    begun, heard = bench.speech()
    bench.say(begun, 1)
    bench.finish()
    others = [bench.speech()[0] for _ in range(2)]
    for n, speech in enumerate(others):
        bench.say(speech, 2 + n, ids=9)
    bench.say(begun, 4, index=1)
    late, told = bench.speech()
    bench.turn()
    assert bench.decoder.opened == [1, 2, 3]
    bench.say(late, 5)
    bench.turn()
    assert isinstance(told.error, Busy)
    assert told.error.retry_after_s > 0.0
    bench.finish()
    assert bench.decoder.opened == [1, 2, 3, 4]
    np.testing.assert_array_equal(heard.sound(1), whole(4, 2))


def test_the_nearest_playback_deadline_opens_first_when_rows_are_scarce() -> None:
    bench = Bench(pool=2)
    rich, _ = bench.speech()
    poor, _ = bench.speech()
    bench.say(rich, 1, ids=20)
    bench.finish()
    bench.say(poor, 2, ids=4)
    bench.finish()
    bench.clock.now += 0.1
    blocker, _ = bench.speech()
    bench.say(blocker, 9, ids=2)
    bench.turn()
    bench.say(rich, 3, index=1)
    bench.say(poor, 4, index=1)
    bench.finish()
    assert bench.decoder.opened == [1, 2, 9, 4, 3]


def test_a_pool_too_small_for_one_utterance_is_an_error() -> None:
    bench = Bench(pool=1)
    speech, listener = bench.speech()
    other, heard = bench.speech()
    bench.say(speech, 1)
    bench.say(other, 2, params=ALONE)
    bench.finish()
    assert isinstance(listener.error, EngineFull)
    np.testing.assert_array_equal(heard.sound(0), whole(2, 2))


def test_work_stops_at_the_lead_and_sleeps_until_it_is_due(bench: Bench) -> None:
    speech, listener = bench.speech(lead_s=0.5)
    bench.say(speech, 1, ids=40)
    bench.turn()
    while (wait := bench.turn()) == 0.0:
        pass
    steps = len(bench.decoder.batches)
    made = speech.playback.made_s
    # Blocks of 0.16 s, the first 0.02 s short: the fourth is the first to pass 0.5 s.
    assert made == pytest.approx(0.62)
    # What the vocoder holds back counts as made.
    assert wait == pytest.approx(made + 0.02 - 0.5)
    assert bench.turn() == pytest.approx(wait)
    assert len(bench.decoder.batches) == steps
    assert wait is not None
    bench.clock.now += wait
    assert bench.turn() == 0.0
    assert len(bench.decoder.batches) == steps + 1
    bench.scheduler.cancel(speech)
    assert bench.turn() is None
    assert listener.closed


def test_a_reported_position_moves_the_lead(bench: Bench) -> None:
    speech, _ = bench.speech(lead_s=0.5)
    bench.say(speech, 1, ids=40)
    bench.finish()
    bench.clock.now += 10.0
    bench.scheduler.report_position(speech, 0.0)
    wait = bench.turn()
    assert wait == pytest.approx(speech.playback.made_s + 0.02 - 0.5)
    bench.scheduler.report_position(speech, speech.playback.made_s)
    assert bench.turn() == 0.0


def test_cancel_frees_the_rows_before_the_next_step(bench: Bench) -> None:
    speech, listener = bench.speech()
    other, heard = bench.speech()
    bench.say(speech, 1, ids=9)
    queued = bench.say(speech, 3, index=1)
    bench.say(other, 2, ids=9)
    bench.turn(3)
    bench.scheduler.cancel(speech)
    events = len(listener.events)
    bench.turn()
    assert bench.decoder.batches[-1] == [2]
    assert bench.decoder.rows_free == bench.decoder.pool - 2
    assert listener.events[events:] == [Closed()]
    assert queued.status is Status.DROPPED
    bench.scheduler.cancel(speech)
    bench.say(speech, 4)
    bench.finish()
    assert listener.events[events:] == [Closed()]
    np.testing.assert_array_equal(heard.sound(0), whole(2, 9))
    assert bench.decoder.rows_free == bench.decoder.pool


def test_a_cancel_between_two_prefills_spares_the_second(bench: Bench) -> None:
    first, _ = bench.speech()
    second, listener = bench.speech()
    bench.decoder.on_open = lambda prefix, seed: bench.scheduler.cancel(second)
    bench.say(first, 1)
    bench.say(second, 2)
    bench.turn()
    assert bench.decoder.opened == [1]
    assert listener.events == [Closed()]


def test_a_failing_open_fails_its_speech_only(bench: Bench) -> None:
    def refuse(prefix: object, seed: int) -> None:
        if seed == 2:
            raise TextError("too long")
        if seed == 3:
            raise ZeroDivisionError("ours")

    bench.decoder.on_open = refuse
    outcomes = [bench.speech() for _ in range(3)]
    for n, (speech, _) in enumerate(outcomes, start=1):
        bench.say(speech, n)
    bench.finish()
    np.testing.assert_array_equal(outcomes[0][1].sound(0), whole(1, 2))
    assert isinstance(outcomes[1][1].error, TextError)
    assert isinstance(outcomes[2][1].error, SynthesisFailed)
    assert isinstance(outcomes[2][1].error.__cause__, ZeroDivisionError)
    assert bench.decoder.rows_free == bench.decoder.pool


@pytest.mark.parametrize("part", ["step", "vocoder", "vocoder open", "sound"])
def test_the_culprit_of_a_batch_fails_alone(bench: Bench, part: str) -> None:
    def fail_on_2(seeds: list[int]) -> None:
        if 2 in seeds:
            raise RuntimeError("device-side assert")

    if part == "step":
        bench.decoder.on_step = fail_on_2
    elif part == "vocoder":
        bench.vocoder.on_step = fail_on_2
    elif part == "vocoder open":
        bench.vocoder.on_open = lambda seed: fail_on_2([seed])
    else:
        bench.vocoder.sound = lambda seed, start, count: (
            fake_sound(seed, start, count) * np.float32(np.nan if seed == 2 else 1.0)
        )
    outcomes = [bench.speech() for _ in range(3)]
    for n, (speech, _) in enumerate(outcomes, start=1):
        bench.say(speech, n)
    bench.finish()
    for n in (1, 3):
        np.testing.assert_array_equal(outcomes[n - 1][1].sound(0), whole(n, 2))
    error = outcomes[1][1].error
    if part == "sound":
        assert isinstance(error, AudioError)
    else:
        assert isinstance(error, SynthesisFailed)
        assert "device-side assert" in str(error)
    assert bench.decoder.rows_free == bench.decoder.pool


def test_a_voice_is_prepared_once(bench: Bench) -> None:
    voice = fake_voice()
    for n in range(3):
        speech, _ = bench.speech(voice=voice)
        bench.say(speech, n)
    bench.finish()
    assert bench.vocoder.prepared == ["fake"]


def test_blocks_say_how_they_were_made(bench: Bench) -> None:
    speech, listener = bench.speech()
    bench.say(speech, 1, ids=2)
    bench.finish()
    blocks = [event.block for event in listener.events if isinstance(event, Audio)]
    assert [(block.tokens, block.steps) for block in blocks] == [(4, 2), (2, 2)]


def test_closing_ends_every_speech_and_the_thread(running: Bench) -> None:
    running.decoder.step_s = 0.001
    speech, listener = running.speech()
    running.say(speech, 1, ids=500)
    listener.wait_for(lambda: len(listener.events) > 2)
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("cf-agents-scheduler") == 1
    running.scheduler.close()
    running.scheduler.close()
    assert "cf-agents-scheduler" not in [thread.name for thread in threading.enumerate()]
    assert isinstance(listener.error, StreamClosed)
    assert isinstance(listener.events[-1], Closed)
    assert running.decoder.rows_free == running.decoder.pool
    with pytest.raises(StreamClosed):
        running.say(speech, 2)


def test_a_thread_that_dies_fails_every_speech(running: Bench) -> None:
    def die(seeds: list[int]) -> None:
        raise SystemExit("out of memory")

    running.decoder.on_step = die
    speech, listener = running.speech()
    running.say(speech, 1)
    listener.wait_for(lambda: listener.closed)
    assert isinstance(listener.error, SynthesisFailed)
    with pytest.raises(StreamClosed):
        running.scheduler.open(fake_voice(), 1.0, listener)


def test_an_idle_or_paused_thread_sleeps(running: Bench) -> None:
    speech, listener = running.speech(lead_s=0.2)
    running.say(speech, 1, ids=500)
    listener.wait_for(lambda: len(listener.events) > 3)
    turns = 0
    turn = running.scheduler.turn

    def counted() -> float | None:
        nonlocal turns
        turns += 1
        return turn()

    running.scheduler.turn = counted
    made = len(listener.events)
    listener.wait_for(lambda: len(listener.events) >= made + 2)
    # Each block is two steps, one sleep before and perhaps one that ends a hair early.
    assert turns <= 10


def test_a_forgotten_close_does_not_hang_the_exit() -> None:
    code = (
        "from tests.fakes import *\nfrom cf_agents.scheduler import Scheduler\n"
        "Scheduler(FakeDecoder(), FakeVocoder(), SAMPLE_RATE).start()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True, timeout=20)


def paused(bench: Bench, speech: Speech) -> None:
    """Turn until `speech` has reached its lead."""
    bench.finish()
    assert speech.playback.lead_s(bench.clock()) > speech.lead_s


def test_the_next_segment_is_prepared_while_the_one_before_it_plays(bench: Bench) -> None:
    speech, listener = bench.speech(lead_s=0.5)
    for index in range(3):
        bench.say(speech, 1 + index, ids=8, index=index)
    paused(bench, speech)
    assert bench.decoder.opened == [1, 2]
    assert {seed for batch in bench.decoder.batches for seed in batch} == {1}
    while bench.turn() is not None:
        bench.clock.now += 0.05
    for index in range(3):
        np.testing.assert_array_equal(listener.sound(index), whole(1 + index, 8))
    assert bench.decoder.opened == [1, 2, 3]
    assert bench.decoder.rows_free == bench.decoder.pool


def test_the_earliest_deadline_is_prepared_first() -> None:
    bench = Bench(pool=6)
    late, soon = bench.speech(lead_s=0.9)[0], bench.speech(lead_s=0.3)[0]
    for n, speech in enumerate((late, soon)):
        bench.say(speech, n, ids=20)
        bench.say(speech, 10 + n, index=1)
    bench.finish()
    assert bench.decoder.opened == [0, 1, 11]


def test_what_is_prepared_makes_way_for_a_speech_that_begins_and_is_said_later() -> None:
    bench = Bench(pool=4)
    speech, listener = bench.speech(lead_s=0.5)
    bench.say(speech, 1, ids=8)
    bench.say(speech, 2, ids=8, index=1)
    bench.say(speech, 3, ids=8, index=2)
    paused(bench, speech)
    assert bench.decoder.rows_free == 0
    other, heard = bench.speech()
    bench.say(other, 4)
    bench.turn()
    assert bench.decoder.batches[-1] == [4]
    while bench.turn() is not None:
        bench.clock.now += 0.05
    np.testing.assert_array_equal(heard.sound(0), whole(4, 2))
    for index in range(3):
        np.testing.assert_array_equal(listener.sound(index), whole(1 + index, 8))
    assert bench.decoder.opened == [1, 2, 4, 2, 3]
    assert bench.decoder.rows_free == bench.decoder.pool


def test_a_segment_that_cannot_be_prepared_is_an_error_in_its_turn(bench: Bench) -> None:
    def refuse(prefix: object, seed: int) -> None:
        if seed == 2:
            raise TextError("too long")

    bench.decoder.on_open = refuse
    speech, listener = bench.speech(lead_s=0.5)
    bench.say(speech, 1, ids=8)
    bench.say(speech, 2, index=1)
    paused(bench, speech)
    assert not any(isinstance(event, Failed) for event in listener.events)
    while bench.turn() is not None:
        bench.clock.now += 0.05
    np.testing.assert_array_equal(listener.sound(0), whole(1, 8))
    assert isinstance(listener.error, TextError)


@pytest.mark.parametrize("lead_s", [0.1, 0.5, 2.0])
def test_made_audio_is_never_more_than_the_lead_and_a_block_ahead_of_the_clock(bench: Bench, lead_s: float) -> None:
    """With a reader that never waits; a block is 0.16 s."""
    source = np.random.default_rng(3)
    ahead: list[float] = []

    def measure(speech: Speech) -> None:
        made_s, began = 0.0, None

        def deliver(event: Event) -> None:
            nonlocal made_s, began
            assert isinstance(event, Audio)
            began = bench.clock() if began is None else began
            made_s += len(event.pcm) / (2 * SAMPLE_RATE)
            ahead.append(made_s - (bench.clock() - began))

        speech.deliver = deliver

    for n in range(3):
        speech, _ = bench.speech(lead_s)
        measure(speech)
        for index in range(4):
            bench.say(speech, 10 * n + index, ids=int(source.integers(5, 16)), index=index)
    while (wait := bench.turn()) is not None:
        bench.clock.now += wait or float(source.uniform(0.0, 0.01))
    assert len(ahead) > 60
    assert lead_s < max(ahead) <= lead_s + 0.16 + 1e-9


def test_blocks_in_the_vocoder_count_as_made(bench: Bench) -> None:
    speech, _ = bench.speech(lead_s=0.2)
    bench.say(speech, 1, ids=40)
    bench.turn(3)
    assert 0.0 < speech.playback.made_s < 0.2
    # From here on nobody hears that a block was voiced.
    for _ in range(20):
        bench.scheduler.turn()
    assert speech.voicing == 1
    bench.turn()
    assert speech.playback.made_s == pytest.approx(0.3)


def says_it_twice(ids: int, tokens: int) -> list[float]:
    """The whole text and 4 tokens of silence in four of five tokens, and then the beginning of it again."""
    said = 4 * tokens // 5
    return [min(ids, ids * (n + 0.5) / (said - 4)) for n in range(said)] + [0.25 * n for n in range(tokens - said)]


def test_what_is_said_again_is_cut_and_the_next_segment_is_said(bench: Bench) -> None:
    bench.decoder.places = says_it_twice
    speech, listener = bench.speech()
    bench.say(speech, 11, ids=40)
    bench.say(speech, 12, ids=10, index=1)
    bench.finish()
    sound = listener.sound(0)
    assert 96 <= len(sound) / SAMPLES_PER_TOKEN <= 98
    faded = round(0.02 * SAMPLE_RATE)
    np.testing.assert_array_equal(sound[:-faded], whole(11, 40)[: len(sound) - faded])
    assert abs(int(sound[-1])) <= 1, "it ends without a click"
    events = [event for event in listener.events if isinstance(event, Audio) and event.segment == 0]
    assert sum(event.block.tokens for event in events) * SAMPLES_PER_TOKEN == len(sound)
    assert sum(len(event.places or ()) for event in events) * SAMPLES_PER_TOKEN == len(sound)
    assert sum(11 in batch for batch in bench.decoder.batches) <= 2 * 26
    assert 23 <= len(listener.sound(1)) / SAMPLES_PER_TOKEN <= 26
    assert speech.coming_s == pytest.approx(0.0)
    assert bench.decoder.rows_free == bench.decoder.pool


def test_an_utterance_that_only_adds_silence_is_ended(bench: Bench) -> None:
    bench.vocoder.sound = lambda seed, start, count: fake_sound(seed, start, count) * (np.arange(start, start + count) < 30_000)
    speech, listener = bench.speech()
    bench.say(speech, 11, ids=100)
    bench.say(speech, 12, ids=2, index=1)
    bench.finish()
    assert len(listener.sound(0)) == pytest.approx(30_000 + 0.3 * SAMPLE_RATE, abs=480)
    assert sum(11 in batch for batch in bench.decoder.batches) * 4 / 2 * 0.04 < 1.25 + HUSH_S + 0.5
    np.testing.assert_array_equal(listener.sound(1), whole(12, 2))
    assert speech.coming_s == pytest.approx(0.0)
    assert bench.decoder.rows_free == bench.decoder.pool


def test_a_pause_is_no_end_and_is_as_long_as_it_was_made(bench: Bench) -> None:
    def pausing(seed: int, start: int, count: int) -> np.ndarray:
        at = np.arange(start, start + count)
        return fake_sound(seed, start, count) * ((at < 20_000) | (at > 50_000))

    bench.vocoder.sound = pausing
    speech, listener = bench.speech()
    bench.say(speech, 11, ids=30)
    bench.finish()
    sound = listener.sound(0)
    wanted = np.rint(pausing(11, 0, 90 * SAMPLES_PER_TOKEN).astype(np.float64) * 32767)
    np.testing.assert_array_equal(sound, wanted)
    assert speech.coming_s == pytest.approx(0.0)


def test_the_end_of_a_long_silence_is_not_the_end_of_a_text_whose_place_is_known(bench: Bench) -> None:
    bench.decoder.places = lambda ids, tokens: [ids * (n + 0.5) / tokens for n in range(tokens)]

    def pausing(seed: int, start: int, count: int) -> np.ndarray:
        at = np.arange(start, start + count)
        return fake_sound(seed, start, count) * ((at < 12_000) | (at > 84_000))

    bench.vocoder.sound = pausing
    speech, listener = bench.speech()
    bench.say(speech, 11, ids=40)
    bench.finish()
    assert len(listener.sound(0)) == 120 * SAMPLES_PER_TOKEN
