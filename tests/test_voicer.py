"""The vocoder's thread: what goes on beside it, in which order it works, and what it leaves after a cancel or an error."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from cf_agents.config import DecodeParams
from cf_agents.errors import StreamClosed, SynthesisFailed
from cf_agents.links.base import Audio, Closed
from cf_agents.scheduler import Scheduler
from cf_agents.utterance import MOST_VOICING, Speech
from cf_agents.voice import Voice
from tests.fakes import SAMPLE_RATE
from tests.test_scheduler import Bench, Listener, whole


class Gate(Bench):
    """Both threads, with a vocoder whose next step can be held up. batches: the seeds of every step it began."""

    def __init__(self, pool: int = 16, voiced_at_once: int = 4) -> None:
        super().__init__(pool)
        self.scheduler = Scheduler(self.decoder, self.vocoder, SAMPLE_RATE, voiced_at_once=voiced_at_once)
        self.batches: list[list[int]] = []
        self.rests: list[list[int]] = []
        self.inside = threading.Event()
        self._open = threading.Event()
        self._open.set()
        self._changed = threading.Condition()
        self.vocoder.on_step = self._vocode
        self.decoder.on_step = self._decode
        self.scheduler.start()

    def shut(self) -> None:
        self._open.clear()
        self.inside.clear()

    def release(self) -> None:
        self._open.set()

    def decoded(self, seed: int) -> int:
        """Denoising steps begun with this utterance."""
        return sum(seed in batch for batch in self.decoder.batches)

    def until_decoded(self, seed: int, steps: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.decoded(seed) >= steps, timeout=10.0)

    def shut_in(self, seed: int, ids: int = 9) -> tuple[Speech, Listener]:
        """A speech whose first block is in the vocoder, and stays there."""
        self.shut()
        speech, listener = self.speech()
        self.say(speech, seed, ids)
        assert self.inside.wait(10.0)
        return speech, listener

    def _vocode(self, seeds: list[int]) -> None:
        self.batches.append(seeds)
        self.inside.set()
        assert self._open.wait(10.0)

    def _decode(self, seeds: list[int]) -> None:
        with self._changed:
            self._changed.notify_all()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.release()
    gate.scheduler.close()
    assert gate.decoder.rows_free == gate.decoder.pool
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("cf-agents")]


def finished(listener: Listener, seed: int, ids: int) -> None:
    listener.wait_for(lambda: listener.segments_done() == 1)
    np.testing.assert_array_equal(listener.sound(0), whole(seed, ids))


def test_decoding_goes_on_while_the_vocoder_works(gate: Gate) -> None:
    _, first = gate.shut_in(1)
    speech, second = gate.speech()
    gate.say(speech, 2, ids=9)
    gate.until_decoded(2, 2)
    assert gate.batches == [[1]]
    gate.release()
    finished(first, 1, 9)
    finished(second, 2, 9)


def test_nothing_keeps_the_machine_from_a_first_audio_of_the_same_speech(gate: Gate) -> None:
    _, first = gate.shut_in(1)
    speech, second = gate.speech()
    gate.say(speech, 2, ids=9)
    gate.until_decoded(2, 2)
    # A first block takes two steps; the third waits until it is heard.
    assert gate.decoded(1) == 2
    gate.release()
    finished(first, 1, 9)
    finished(second, 2, 9)


def test_a_speech_that_plays_is_decoded_beside_its_own_vocoding_as_far_as_the_queue_goes(gate: Gate) -> None:
    speech, listener = gate.speech()
    shut = threading.Event()

    def shut_at_the_second(event: object) -> None:
        listener(event)  # type: ignore[arg-type]
        if not shut.is_set():
            gate.shut()
            shut.set()

    speech.deliver = shut_at_the_second
    gate.say(speech, 1, ids=20)
    assert shut.wait(10.0)
    gate.until_decoded(1, 2 + 2 * MOST_VOICING)
    other, second = gate.speech()
    gate.say(other, 2, ids=2)
    gate.until_decoded(2, 2)
    assert gate.decoded(1) == 2 + 2 * MOST_VOICING
    gate.release()
    finished(listener, 1, 20)
    finished(second, 2, 2)


def test_those_who_wait_in_silence_go_first_and_no_more_go_together_than_is_said() -> None:
    gate = Gate(pool=32, voiced_at_once=2)
    try:
        begun = [gate.speech() for _ in range(3)]
        for n, (speech, listener) in enumerate(begun):
            gate.say(speech, n, ids=1)
            finished(listener, n, 1)
        gate.batches.clear()
        gate.shut_in(9)
        for n, (speech, _) in enumerate(begun):
            gate.say(speech, 20 + n, ids=1, index=1)
            gate.until_decoded(20 + n, 2)
        new = [gate.speech() for _ in range(3)]
        for n, (speech, _) in enumerate(new):
            gate.say(speech, 10 + n, ids=1)
            gate.until_decoded(10 + n, 2)
        gate.decoder.step_s = 0.001
        late = gate.speech()
        gate.say(late[0], 13, params=DecodeParams(steps=1000))
        gate.until_decoded(13, 1)
        gate.release()
        for _, listener in begun:
            listener.wait_for(lambda listener=listener: listener.segments_done() == 2)
        order = [seed for batch in gate.batches[1:] for seed in batch]
        assert max(len(batch) for batch in gate.batches) == 2
        assert order.index(12) < order.index(20)
        first = {10, 11, 12}
        assert all(first.issuperset(batch) or first.isdisjoint(batch) for batch in gate.batches)
        assert [seed for seed in order if seed >= 20] == [20, 21, 22]
    finally:
        gate.release()
        gate.scheduler.close()


def test_a_cancel_silences_what_is_in_the_vocoder_and_drops_what_waits_for_it(gate: Gate) -> None:
    inside, first = gate.shut_in(1)
    waiting, second = gate.speech()
    gate.say(waiting, 2, ids=9)
    gate.until_decoded(2, 2)
    other, third = gate.speech()
    gate.say(other, 3, ids=9)
    gate.until_decoded(3, 2)
    gate.scheduler.cancel(inside)
    gate.scheduler.cancel(waiting)
    # Rows are free while the vocoder is still busy.
    for listener in (first, second):
        listener.wait_for(lambda listener=listener: listener.closed)
    assert gate.decoder.rows_free == gate.decoder.pool - 2
    gate.release()
    finished(third, 3, 9)
    assert first.events == second.events == [Closed()]
    assert not any(2 in batch for batch in gate.batches)


def test_a_cancel_silences_while_the_scheduler_is_in_a_step(gate: Gate) -> None:
    inside, first = gate.shut_in(1)
    entered, leave, said = threading.Event(), threading.Event(), threading.Event()

    def hold(seeds: list[int]) -> None:
        entered.set()
        assert leave.wait(10.0)

    gate.decoder.on_step = hold
    other, second = gate.speech()
    gate.say(other, 2, ids=1)
    assert entered.wait(10.0)
    say = inside.say
    inside.say = lambda audio: (say(audio), said.set())  # type: ignore[method-assign,assignment]
    gate.scheduler.cancel(inside)
    gate.release()
    assert said.wait(10.0)
    assert first.events == []
    leave.set()
    finished(second, 2, 1)
    first.wait_for(lambda: first.closed)
    assert first.events == [Closed()]


def test_two_blocks_of_a_speech_are_voiced_one_after_the_other(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    speech, listener = gate.speech()
    gate.say(speech, 1, ids=1)
    finished(listener, 1, 1)
    gate.shut_in(9)
    gate.say(speech, 2, ids=9, index=1)
    gate.until_decoded(2, 4)
    other, second = gate.speech()
    gate.say(other, 3, ids=1)
    gate.until_decoded(3, 2)
    gate.release()
    finished(second, 3, 1)
    listener.wait_for(lambda: listener.segments_done() == 2)
    np.testing.assert_array_equal(listener.sound(1), whole(2, 9))
    assert "failed" not in caplog.text


def test_an_error_in_the_vocoder_ends_its_speech_only(gate: Gate) -> None:
    vocode = gate.vocoder.on_step

    def fail_on_1(seeds: list[int]) -> None:
        vocode(seeds)
        if 1 in seeds:
            raise RuntimeError("cuFFT is unwell")

    gate.vocoder.on_step = fail_on_1
    _, bad = gate.shut_in(1)
    speech, good = gate.speech()
    gate.say(speech, 2, ids=9)
    gate.until_decoded(2, 2)
    gate.release()
    bad.wait_for(lambda: bool(bad.events))
    assert isinstance(bad.error, SynthesisFailed)
    assert "cuFFT" in str(bad.error)
    finished(good, 2, 9)
    assert not any(isinstance(event, Audio) for event in bad.events)
    assert gate.decoder.rows_free == gate.decoder.pool


def test_a_voice_that_cannot_be_prepared_fails_its_speech(gate: Gate) -> None:
    prepare = gate.vocoder.prepare

    def refuse(voice: Voice) -> str:
        if not gate.batches:
            raise RuntimeError("no memory for this voice")
        return prepare(voice)

    gate.vocoder.prepare = refuse
    speech, listener = gate.speech()
    gate.say(speech, 1)
    listener.wait_for(lambda: bool(listener.events))
    assert "no memory for this voice" in str(listener.error)
    gate.batches.append([])
    speech, listener = gate.speech()
    gate.say(speech, 2)
    finished(listener, 2, 2)


def test_a_vocoder_that_dies_fails_every_speech(gate: Gate) -> None:
    def die(seeds: list[int]) -> None:
        raise SystemExit("out of memory")

    gate.vocoder.on_step = die
    speeches = [gate.speech() for _ in range(2)]
    for n, (speech, _) in enumerate(speeches):
        gate.say(speech, n)
    for _, listener in speeches:
        listener.wait_for(lambda listener=listener: listener.closed)
        assert isinstance(listener.error, SynthesisFailed)
    with pytest.raises(StreamClosed):
        gate.speech()


OPENING = 1000


@pytest.fixture
def parting(gate: Gate) -> Gate:
    """Its vocoder gives out a thousand samples first of who waits, and notes who is given the rest."""
    gate.vocoder.opening = OPENING

    gate.vocoder.on_rest = gate.rests.append
    return gate


def audio(listener: Listener) -> list[Audio]:
    return [event for event in listener.events if isinstance(event, Audio)]


def wait_together(gate: Gate) -> list[Listener]:
    """Those of a speech that keeps the voicer, and of two whose first blocks wait until it is released."""
    _, blocker = gate.shut_in(9)
    listeners = [blocker]
    for seed in (1, 2):
        speech, listener = gate.speech()
        gate.say(speech, seed, ids=9)
        listeners.append(listener)
        gate.until_decoded(seed, 2)
    return listeners


def test_a_first_block_is_heard_in_two_pieces_and_counted_once(parting: Gate) -> None:
    speech, listener = parting.speech()
    parting.say(speech, 1, ids=9)
    finished(listener, 1, 9)
    pieces = audio(listener)
    assert [len(piece.pcm) // 2 for piece in pieces[:2]] == [OPENING, 4 * 960 - 480 - OPENING]
    assert [piece.block is None for piece in pieces] == [False, True] + [False] * (len(pieces) - 2)
    assert sum(piece.block.tokens for piece in pieces if piece.block) == 3 * 9
    assert parting.rests == [[1]], "blocks that play already are not parted"
    listener.wait_for(lambda: speech.voicing == 0 and abs(speech.coming_s) < 1e-9)
    parting.say(speech, 2, ids=9, index=1)
    listener.wait_for(lambda: listener.segments_done() == 2)
    np.testing.assert_array_equal(listener.sound(1), whole(2, 9))
    assert parting.rests == [[1]]


def test_a_speech_is_not_decoded_on_before_its_first_block_is_whole(parting: Gate) -> None:
    stepped = threading.Event()
    early: list[bool] = []
    parting.decoder.on_step = lambda seeds: stepped.set()

    def look(seeds: list[int]) -> None:
        stepped.clear()
        early.append(stepped.wait(0.2))

    parting.vocoder.on_rest = look
    speech, listener = parting.speech()
    parting.say(speech, 1, ids=9)
    finished(listener, 1, 9)
    assert early == [False]


def test_an_utterance_of_one_block_ends_with_the_rest_of_it(parting: Gate) -> None:
    speech, listener = parting.speech()
    parting.say(speech, 1, ids=1)
    finished(listener, 1, 1)
    assert [piece.last for piece in audio(listener)] == [False, True]


def test_all_who_wait_hear_a_beginning_before_anybody_the_rest(parting: Gate) -> None:
    blocker, *listeners = wait_together(parting)
    heard: list[list[int]] = []
    parting.vocoder.on_rest = lambda seeds: heard.append([len(audio(each)) for each in listeners] if 1 in seeds else [])
    parting.release()
    for seed, listener in enumerate(listeners, start=1):
        finished(listener, seed, 9)
    finished(blocker, 9, 9)
    assert [1, 1] in heard


def test_a_cancel_after_the_beginning_leaves_the_rest_unmade(parting: Gate) -> None:
    speech, listener = parting.speech()
    say = speech.say
    speech.say = lambda audio: (say(audio), parting.scheduler.cancel(speech))  # type: ignore[method-assign,assignment]
    parting.say(speech, 1, ids=9)
    listener.wait_for(lambda: listener.closed)
    assert len(audio(listener)) == 1
    other, second = parting.speech()
    parting.say(other, 2, ids=1)
    finished(second, 2, 1)
    assert parting.rests == [[2]]


def test_an_error_in_the_rest_ends_its_speech_only(parting: Gate) -> None:
    def fail_on_1(seeds: list[int]) -> None:
        if 1 in seeds:
            raise RuntimeError("cuFFT is unwell")

    parting.vocoder.on_rest = fail_on_1
    blocker, *listeners = wait_together(parting)
    parting.release()
    bad, good = listeners
    finished(good, 2, 9)
    finished(blocker, 9, 9)
    bad.wait_for(lambda: len(bad.events) > 1)
    assert "cuFFT" in str(bad.error)
    assert len(audio(bad)) == 1


def test_the_end_of_a_block_that_was_cut_is_faded_and_not_its_beginning() -> None:
    bench = Bench()
    bench.vocoder.opening, bench.vocoder.sound = OPENING, lambda seed, start, count: np.full(count, 0.5, np.float32)
    bench.decoder.block_size, bench.decoder.places = 80, lambda ids, tokens: [float(ids)] * tokens
    speech, listener = bench.speech()
    bench.say(speech, 1, ids=40)
    bench.finish()
    pieces = [np.frombuffer(piece.pcm, "<i2") for piece in audio(listener)]
    assert len(pieces) == 2
    assert pieces[0][0] == pieces[0][-1] == round(0.5 * 32767)
    assert pieces[-1][-1] == 0
