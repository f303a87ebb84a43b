"""The plugin's streams by themselves, on a clock that jumps: frames, words and ends."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from pathlib import Path

import pytest
from livekit.agents import APIError
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT
from livekit.plugins import cf_agents
from livekit_fakes import FakeEngine, loaded
from livekit_streams import ONCE, TEXT, push, seconds, spoken, told, words

from cf_agents import Voice
from cf_agents.errors import (
    ConfigError,
    SynthesisFailed,
)
from tests.fakes import fake_voice


async def test_a_stream_is_one_segment_with_one_last_frame(speech: cf_agents.TTS) -> None:
    async with speech.stream() as stream:
        push(stream, TEXT)
        stream.end_input()
        events = await spoken(stream)
    assert [event.is_final for event in events] == [False] * (len(events) - 1) + [True]
    assert len({event.segment_id for event in events}) == 1
    assert events[0].segment_id
    assert {event.request_id for event in events} == {events[0].request_id}
    assert {(event.frame.sample_rate, event.frame.num_channels) for event in events} == {(24_000, 1)}
    assert "".join(words(events)) == TEXT


async def test_every_word_comes_with_the_frame_it_begins_in_or_before(speech: cf_agents.TTS) -> None:
    async with speech.stream() as stream:
        push(stream, TEXT)
        stream.end_input()
        at_s, last_s = 0.0, 0.0
        async for event in stream:
            for word in event.frame.userdata[USERDATA_TIMED_TRANSCRIPT]:
                assert word.start_time >= at_s - 0.011  # the framework keeps 10 ms back
                assert last_s <= word.start_time <= word.end_time
                last_s = word.start_time
            at_s += event.frame.duration
    assert last_s > 4.0


async def test_the_first_frame_leaves_with_the_first_block(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    async with speech.stream() as stream:
        push(stream, TEXT)
        began = time.monotonic()
        await anext(stream)
        assert time.monotonic() - began == pytest.approx(engine.block_s, abs=1e-3)


async def test_frames_are_short_enough_for_blocks_that_come_just_in_time(speech: cf_agents.TTS) -> None:
    async with speech.stream() as stream:
        push(stream, TEXT)
        stream.end_input()
        assert max(event.frame.duration for event in await spoken(stream)) <= 0.0601


async def test_flush_ends_the_segment_without_an_end_of_input(speech: cf_agents.TTS) -> None:
    async with speech.stream() as stream:
        stream.push_text("Well")
        stream.flush()
        stream.push_text("this is dropped by the framework")
        events = await spoken(stream)
    assert words(events) == ["Well"]
    assert events[-1].is_final


async def test_a_flush_in_front_of_the_text_is_nothing(speech: cf_agents.TTS) -> None:
    async with speech.stream() as stream:
        stream.flush()
        push(stream, TEXT)
        stream.end_input()
        assert "".join(words(await spoken(stream))) == TEXT


@pytest.mark.parametrize("text", ["", " ", "\n \n"])
async def test_without_text_there_is_no_segment_and_no_error(speech: cf_agents.TTS, engine: FakeEngine, text: str) -> None:
    errors = told(speech)
    async with speech.stream() as stream:
        stream.push_text(text)
        stream.end_input()
        assert await spoken(stream) == []
    async with speech.synthesize(text) as whole:
        assert await spoken(whole) == []
    assert errors == []
    assert engine.sessions == []


async def test_white_space_in_front_of_the_text_is_kept(speech: cf_agents.TTS) -> None:
    async with speech.stream() as stream:
        for piece in (" ", "\n", "Hello ", "there, ", "how ", "are ", "you?"):
            stream.push_text(piece)
        stream.end_input()
        assert "".join(words(await spoken(stream))) == " \nHello there, how are you?"


async def test_white_space_comes_with_the_word_behind_it(speech: cf_agents.TTS) -> None:
    async with speech.stream() as stream:
        stream.push_text("One two  three.\nFour ")
        stream.end_input()
        assert words(await spoken(stream)) == ["One", " two", "  three.", "\nFour", " "]


async def test_a_stream_that_waits_for_text_takes_no_place(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    async with speech.stream():
        await asyncio.sleep(5.0)
        assert engine.sessions == []


async def test_closing_does_not_wait_for_the_engine(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    engine.silent = True
    stream = speech.stream()
    push(stream, TEXT)
    await anext(stream)
    began = time.monotonic()
    await asyncio.wait_for(stream.aclose(), 5.0)
    assert time.monotonic() - began < 1e-3
    assert engine.open_sessions == 0
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_what_is_said_to_its_end_is_not_counted_as_cancelled(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    async with speech.stream() as stream:
        push(stream, TEXT)
        stream.end_input()
        await spoken(stream)
    async with speech.stream() as stream:
        push(stream, TEXT)
        await anext(stream)
    engine.error = SynthesisFailed("A step failed.")
    async with speech.stream(conn_options=ONCE) as stream:
        push(stream, TEXT)
        with pytest.raises(APIError):
            await spoken(stream)
    assert [stats.outcome for stats in engine.stats] == ["ended", "cancelled", "failed"]


async def test_closing_the_tts_closes_its_streams(engine: FakeEngine) -> None:
    speech = cf_agents.TTS(model=lambda: engine)
    await loaded(speech)
    streams = [speech.stream() for _ in range(3)]
    whole = speech.synthesize(TEXT)
    for stream in streams:
        push(stream, TEXT)
        await anext(stream)
    await anext(whole)
    assert engine.open_sessions == 4
    await speech.aclose()
    await speech.aclose()
    assert engine.open_sessions == 0
    assert engine.closed == 1


async def test_a_closed_tts_speaks_no_more(engine: FakeEngine) -> None:
    speech = cf_agents.TTS(model=lambda: engine)
    await speech.aclose()
    speech.prewarm()
    async with speech.stream(conn_options=ONCE) as stream:
        push(stream, TEXT)
        stream.end_input()
        with pytest.raises(APIError, match="closed"):
            await spoken(stream)


async def test_a_whole_text_is_made_as_fast_as_it_goes(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    async with speech.synthesize(TEXT) as whole:
        events = await spoken(whole)
    assert engine.asked[0]["lead_s"] == math.inf
    assert "".join(words(events)) == TEXT
    assert [event.is_final for event in events].count(True) == 1
    assert seconds(events) == pytest.approx(len(TEXT) / 15, abs=0.1)


async def test_the_sample_rate_is_the_one_asked_for(engine: FakeEngine) -> None:
    speech = cf_agents.TTS(model=lambda: engine, sample_rate=8_000)
    await loaded(speech)
    async with speech.stream() as stream:
        push(stream, TEXT)
        stream.end_input()
        events = await spoken(stream)
    assert {event.frame.sample_rate for event in events} == {8_000}
    assert seconds(events) == pytest.approx(len(TEXT) / 15, abs=0.1)
    await speech.aclose()


async def test_options_that_mean_nothing_are_refused_at_once(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    with pytest.raises(ConfigError, match="preset"):
        cf_agents.TTS(params="fast")
    with pytest.raises(ConfigError, match="lead_s"):
        cf_agents.TTS(lead_s=0.0)
    with pytest.raises(ConfigError, match="preset"):
        speech.update_options(params="fast")
    async with speech.synthesize(TEXT) as whole:
        await spoken(whole)
    assert engine.asked[0]["params"] is None


async def test_a_voice_file_is_read_beside_the_event_loop(
    speech: cf_agents.TTS, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[threading.Thread] = []

    def load(path: str | Path) -> Voice:
        readers.append(threading.current_thread())
        return fake_voice(str(path))

    monkeypatch.setattr(Voice, "load", load)
    speech.update_options(voice=tmp_path / "me.safetensors")
    async with speech.synthesize(TEXT) as whole:
        await spoken(whole)
    assert readers
    assert threading.main_thread() not in readers
    assert isinstance(engine.asked[0]["voice"], Voice)
