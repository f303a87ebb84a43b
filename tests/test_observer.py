"""Observers hear of every stream once as it begins and once as it is over, with what became of it, and do speech no harm."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from cf_agents.config import DecodeParams
from cf_agents.errors import Busy, SynthesisFailed
from cf_agents.links.base import Event, Failed, Session
from cf_agents.stats import StreamStats
from cf_agents.stream import Stream
from cf_agents.tts import TTS
from cf_agents.voice import Voice
from tests.fakes import SAMPLE_RATE, FakeClock, fake_sound, fake_voice
from tests.test_stream import TEXT, Studio, collect, drop, open_studio, write_in_pieces

pytestmark = pytest.mark.anyio


class Notes:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.opened_with: list[StreamStats] = []
        self.over: list[StreamStats] = []
        self.outcomes: list[str] = []

    def opened(self, stats: StreamStats) -> Callable[[], None]:
        assert stats.outcome == "open"
        self.opened_with.append(stats)

        def over() -> None:
            assert stats.closed_s is not None
            self.over.append(stats)
            self.outcomes.append(stats.outcome)

        return over


def stream(studio: Studio, *observers: object, clock: Callable[[], float] | None = None) -> Stream:
    params, clocked = DecodeParams(steps=2), {} if clock is None else {"clock": clock}
    return Stream(
        studio.link, fake_voice("Anna"), params=params, seed=7, lead_s=1e9, model="small", observers=observers, **clocked
    )  # pyright: ignore[reportArgumentType]


async def test_a_stream_that_said_all_has_ended() -> None:
    notes = Notes()
    async with open_studio() as studio:
        async with stream(studio, notes) as spoken:
            write_in_pieces(spoken, TEXT)
            await collect(spoken)
            assert (len(notes.opened_with), notes.outcomes) == (1, [])
        assert notes.outcomes == ["ended"]
        await spoken.aclose()
        await spoken.cancel()
    assert notes.outcomes == ["ended"]
    (stats,) = notes.over
    assert stats is spoken.stats is notes.opened_with[0]
    assert (stats.model, stats.voice, stats.sample_rate, stats.encoding) == ("small", "Anna", SAMPLE_RATE, "s16le")
    assert stats.characters == len(TEXT)
    assert stats.closed_s is not None
    assert stats.opened_s <= stats.written[0].at_s <= stats.closed_s
    assert (stats.error, stats.cancelled) == (None, False)


async def test_leaving_early_or_cancelling_is_cancelled() -> None:
    notes, clock = Notes(), FakeClock()
    async with open_studio() as studio:
        async with stream(studio, notes) as left:
            write_in_pieces(left, TEXT)
            await left.__anext__()
        async with stream(studio, notes, clock=clock) as stopped:
            write_in_pieces(stopped, TEXT)
            await collect(stopped)
            clock.now += 0.25
            # All was taken and not all was heard.
            await stopped.cancel()
            assert notes.outcomes == ["cancelled", "cancelled"]
        async with stream(studio, notes, clock=clock) as heard:
            write_in_pieces(heard, TEXT)
            await collect(heard)
            clock.now += 1e6
            await heard.cancel()
        async with stream(studio, notes):
            pass
    assert notes.outcomes == ["cancelled", "cancelled", "ended", "ended"]
    assert notes.over[1].heard_s == pytest.approx(0.25)
    assert notes.over[1].cancelled


async def test_a_cancel_stops_the_decoder_before_it_tells_anybody() -> None:
    done: list[str] = []

    class Slow:
        def opened(self, stats: StreamStats) -> Callable[[], None]:
            return lambda: done.append("told")

    async with open_studio() as studio, stream(studio, Slow()) as spoken:
        close = spoken._session.close
        spoken._session.close = lambda: (done.append("stopped"), close())[0]
        write_in_pieces(spoken, TEXT)
        await spoken.__anext__()
        spoken.cancel_nowait()
    assert done == ["stopped", "told"]


async def test_an_error_is_told_at_once_and_once() -> None:
    notes = Notes()
    async with open_studio() as studio:

        def fail(seeds: list[int]) -> None:
            raise RuntimeError("cuBLAS is unwell")

        studio.decoder.on_step = fail
        async with stream(studio, notes) as bad:
            write_in_pieces(bad, TEXT)
            with pytest.raises(SynthesisFailed):
                await collect(bad)
            assert notes.outcomes == ["failed"]
    assert notes.outcomes == ["failed"]
    assert isinstance(notes.over[0].error, SynthesisFailed)


async def test_a_full_house_is_told_whether_it_refuses_before_or_after() -> None:
    notes = Notes()
    busy = Busy("Come back later.", 0.5)
    async with open_studio() as studio:
        open_session = studio.link.open

        def refuse(voice: Voice, lead_s: float, receive: Callable[[Event], None]) -> Session:
            raise busy

        studio.link.open = refuse
        with pytest.raises(Busy):
            stream(studio, notes)
        assert notes.outcomes == ["busy"]

        studio.link.open = open_session
        async with stream(studio, notes) as late:
            late._receive(Failed(busy))
            with pytest.raises(Busy):
                await collect(late)
    assert notes.outcomes == ["busy", "busy"]
    assert [stats.error for stats in notes.over] == [busy, busy]


async def test_a_dropped_stream_is_over_too() -> None:
    notes = Notes()
    async with open_studio() as studio:
        spoken = stream(studio, notes)
        write_in_pieces(spoken, TEXT)
        await collect(spoken)
        del spoken
        gc.collect()
        assert notes.outcomes == ["ended"]
        kept = [stream(studio, notes)]
        write_in_pieces(kept[0], TEXT * 50)
        await kept[0].__anext__()
        with pytest.warns(ResourceWarning, match="never closed"):
            drop(kept)
        assert notes.outcomes == ["ended", "cancelled"]


async def test_an_observer_that_fails_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def opened(self, stats: StreamStats) -> Callable[[], None]:
            raise RuntimeError("no disk")

    class BrokenLater(Notes):
        def opened(self, stats: StreamStats) -> Callable[[], None]:
            def over() -> None:
                raise RuntimeError("no network")

            return over

    notes = Notes()
    async with open_studio() as studio, stream(studio, Broken(), BrokenLater(), notes) as spoken:
        write_in_pieces(spoken, TEXT)
        chunks = await collect(spoken)
    assert "".join(word.text for chunk in chunks for word in chunk.words) == TEXT
    assert notes.outcomes == ["ended"]
    told = [record for record in caplog.records if record.name == "cf_agents.observer"]
    assert [record.levelno for record in told] == [logging.ERROR] * 2
    assert all(record.exc_info for record in told)


async def test_when_it_became_audible() -> None:
    async with open_studio() as studio, stream(studio) as spoken:
        # Half a second of what is 1/32768 below the bound, and then what is over it.
        studio.vocoder.sound = lambda seed, start, count: (
            fake_sound(seed, start, count) * 0
            + [0.05 if at >= SAMPLE_RATE // 2 else -32 / 32767 for at in range(start, start + count)]
        )
        write_in_pieces(spoken, TEXT)
        await collect(spoken)
        assert spoken.stats.audible_s == pytest.approx(0.5, abs=1e-9)
        assert spoken.stats.audible_ttfa_s is not None
        assert spoken.stats.ttfa_s is not None
        assert spoken.stats.audible_ttfa_s >= spoken.stats.ttfa_s + 0.5 - 1e-9


async def test_a_pause_of_the_writer_is_no_underrun() -> None:
    clock = FakeClock()
    async with open_studio() as studio, stream(studio, clock=clock) as spoken:
        for _ in range(2):
            spoken.write("One whole sentence. ")
            spoken.flush()
            while not (await spoken.__anext__()).last:
                pass
            clock.now += 60.0
        assert (spoken.stats.underrun_s, spoken.stats.underruns) == (0.0, 0)


async def test_tts_tells_its_observers(tiny_folder: Path) -> None:
    notes = Notes()
    quick = DecodeParams(steps=2, max_tokens=16)
    async with TTS.load(tiny_folder, link="thread", params=quick, observers=[notes]) as tts:
        # Nobody listens to the warming up.
        assert notes.opened_with == []
        await tts.say("Hello there.", sample_rate=8000, encoding="alaw")
        async with tts.stream(lead_s=math.inf) as left:
            left.write("Hello there.")
    assert notes.outcomes == ["ended", "cancelled"]
    stats = notes.over[0]
    assert (stats.voice, stats.sample_rate, stats.encoding, stats.tokens) == ("default", 8000, "alaw", 16)
    assert stats.model == "tiny-random"
