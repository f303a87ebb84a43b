"""The plugin's streams by themselves, on a clock that jumps: frames, words, ends, and how each failure is told."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from livekit.agents import APIConnectionError, APIConnectOptions, APIError, APIStatusError, APITimeoutError, tts
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT
from livekit.plugins import cf_agents
from livekit_fakes import FakeEngine, loaded

from cf_agents import Voice
from cf_agents.errors import (
    BackendUnavailable,
    Busy,
    CfAgentsError,
    CheckpointNotFound,
    ConfigError,
    DownloadError,
    EngineFull,
    StreamClosed,
    SynthesisFailed,
    TextError,
    VoiceError,
    WorkerDied,
)
from tests.fakes import fake_voice

TEXT = "The first train to the coast leaves at nine in the morning. It stops in every village on the way, so bring a book."
ONCE = APIConnectOptions(max_retry=0)


def push(stream: tts.SynthesizeStream, text: str) -> None:
    """As a language model writes it."""
    for at in range(0, len(text), 4):
        stream.push_text(text[at : at + 4])


async def spoken(stream: tts.SynthesizeStream | tts.ChunkedStream) -> list[tts.SynthesizedAudio]:
    return [event async for event in stream]


def seconds(events: list[tts.SynthesizedAudio]) -> float:
    return sum(event.frame.duration for event in events)


def words(events: list[tts.SynthesizedAudio]) -> list[str]:
    return [word for event in events for word in event.frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, [])]


def told(speech: cf_agents.TTS) -> list[tts.TTSError]:
    errors: list[tts.TTSError] = []
    speech.on("error", errors.append)
    return errors


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


FAILURES = [
    (Busy("All places are taken.", 0.4), APIStatusError, 429, True),
    (EngineFull("No row is free."), APIStatusError, 429, True),
    (ConfigError("No such preset."), APIStatusError, 400, False),
    (VoiceError("No such voice."), APIStatusError, 400, False),
    (TextError("Too long."), APIStatusError, 400, False),
    (SynthesisFailed("A step failed."), APIStatusError, 500, True),
    (WorkerDied("It was killed."), APIConnectionError, None, True),
    (StreamClosed("The link was closed."), APIConnectionError, None, True),
    (DownloadError("The hub cannot be reached."), APIConnectionError, None, True),
    (CheckpointNotFound("No such folder."), APIError, None, False),
    (BackendUnavailable("No GPU."), APIError, None, False),
    (CfAgentsError("Something else."), APIError, None, False),
]


@pytest.mark.parametrize(("cause", "kind", "status", "again"), FAILURES, ids=[type(row[0]).__name__ for row in FAILURES])
async def test_what_fails_before_the_first_sound_is_tried_again_where_that_may_help(
    speech: cf_agents.TTS, engine: FakeEngine, cause: CfAgentsError, kind: type[APIError], status: int | None, again: bool
) -> None:
    engine.error = cause
    errors = told(speech)
    stream = speech.stream(conn_options=APIConnectOptions(max_retry=2))
    push(stream, TEXT)
    stream.end_input()
    with pytest.raises(kind, match=str(cause)) as caught:
        await spoken(stream)
    await stream.aclose()
    assert type(caught.value) is kind
    assert getattr(caught.value, "status_code", None) == status
    assert caught.value.__cause__ is cause
    assert [error.recoverable for error in errors] == ([True, True, False] if again else [False])
    tries = 2 if isinstance(cause, Busy) else 1  # of ours for each of the framework's
    assert [[segment.text for segment in session.segments] for session in engine.sessions] == [
        [segment.text for segment in engine.sessions[0].segments]
    ] * (tries * len(errors))
    assert engine.open_sessions == 0


@pytest.mark.parametrize("cause", [RuntimeError("a bug"), OSError("no such file"), ConnectionResetError("gone")])
async def test_errors_of_any_kind_are_told_as_the_frameworks_own(
    speech: cf_agents.TTS, engine: FakeEngine, cause: Exception
) -> None:
    def fail() -> None:
        raise cause

    engine.on_open = fail
    errors = told(speech)
    async with speech.stream(conn_options=ONCE) as stream:
        push(stream, TEXT)
        with pytest.raises(APIError, match=str(cause)):
            await spoken(stream)
    async with speech.synthesize(TEXT, conn_options=ONCE) as whole:
        with pytest.raises(APIError, match=str(cause)):
            await spoken(whole)
    assert len(errors) == 2


async def test_another_try_says_the_whole_text_once(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    engine.error = WorkerDied("It was killed.")
    errors = told(speech)
    async with speech.stream() as stream:
        push(stream, TEXT)
        stream.end_input()
        asyncio.get_running_loop().call_later(0.1, lambda: setattr(engine, "error", None))
        events = await spoken(stream)
    assert [error.recoverable for error in errors] == [True]
    assert "".join(words(events)) == TEXT
    assert np.unique(np.concatenate([event.frame.data for event in events])).tolist() == [2]


@pytest.mark.parametrize("flushed", [True, False])
@pytest.mark.parametrize("ended_s", [0.02, 0.5])
async def test_a_house_that_has_room_soon_is_asked_again_then_and_nobody_is_told(
    speech: cf_agents.TTS, engine: FakeEngine, flushed: bool, ended_s: float
) -> None:
    """It says that it is full once it was given text that it finds no rows for; the text ends before that, or after."""
    asked_at: list[float] = []

    def first_at_the_door() -> None:
        asked_at.append(time.monotonic())
        if len(asked_at) == 1:
            engine.error = Busy("No row is free.", 1.25)

    engine.on_open = first_at_the_door
    errors = told(speech)
    async with speech.stream(conn_options=ONCE) as stream:
        push(stream, TEXT[:90])
        asyncio.get_running_loop().call_later(ended_s, push, stream, TEXT[90:])
        asyncio.get_running_loop().call_later(ended_s, stream.flush if flushed else stream.end_input)
        asyncio.get_running_loop().call_later(1.0, setattr, engine, "error", None)
        events = await spoken(stream)
    assert errors == []
    assert np.diff(asked_at).tolist() == pytest.approx([engine.block_s + 1.25], abs=1e-3)
    assert "".join(words(events)) == TEXT
    assert np.unique(np.concatenate([event.frame.data for event in events])).tolist() == [2]
    assert engine.open_sessions == 0


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_full_house_is_told_at_once_when_it_stays_full_for_long(
    speech: cf_agents.TTS, engine: FakeEngine, streamed: bool
) -> None:
    def turn_away() -> None:
        raise Busy("All places are taken.", 2.5)

    engine.on_open = turn_away
    began = time.monotonic()
    stream = speech.stream(conn_options=ONCE) if streamed else speech.synthesize(TEXT, conn_options=ONCE)
    if isinstance(stream, tts.SynthesizeStream):
        push(stream, TEXT)
    with pytest.raises(APIStatusError) as caught:
        await spoken(stream)
    await stream.aclose()
    assert caught.value.body == {"retry_after_s": 2.5}
    assert time.monotonic() - began < 1e-3


async def test_closing_does_not_wait_for_room(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    engine.error = Busy("No row is free.", 2.0)
    stream = speech.stream()
    push(stream, TEXT)
    await asyncio.sleep(1.0)
    began = time.monotonic()
    await stream.aclose()
    assert time.monotonic() - began < 1e-3
    await asyncio.sleep(5.0)
    assert len(engine.sessions) == 1


@pytest.mark.parametrize("streamed", [True, False])
async def test_what_fails_after_the_first_sound_is_not_said_again(
    speech: cf_agents.TTS, engine: FakeEngine, streamed: bool
) -> None:
    engine.error, engine.fail_after = WorkerDied("It was killed."), 2
    errors = told(speech)
    stream = speech.stream() if streamed else speech.synthesize(TEXT)
    if isinstance(stream, tts.SynthesizeStream):
        push(stream, TEXT)
        stream.end_input()
    events = []
    try:
        async for event in stream:
            events.append(event)
    except APIConnectionError:
        pass
    else:
        pytest.fail("nobody was told")
    await stream.aclose()
    assert [error.recoverable for error in errors] == [False]
    assert len(engine.sessions) == 1
    assert 0.0 < seconds(events) <= 2 * engine.audio_s + 0.01


async def test_a_model_that_is_still_loading_is_waited_for_as_long_as_the_framework_says(engine: FakeEngine) -> None:
    go_on = threading.Event()

    def slow() -> FakeEngine:
        go_on.wait()
        return engine

    speech = cf_agents.TTS(model=slow)
    errors = told(speech)
    async with speech.stream(conn_options=APIConnectOptions(max_retry=1, timeout=4.0)) as stream:
        push(stream, TEXT)
        stream.end_input()
        began = time.monotonic()
        with pytest.raises(APITimeoutError, match="goes on loading"):
            await spoken(stream)
        assert time.monotonic() - began == pytest.approx(8.1, abs=0.1)
    assert [error.recoverable for error in errors] == [True, False]
    go_on.set()
    await loaded(speech)
    async with speech.stream() as stream:
        push(stream, TEXT)
        stream.end_input()
        assert "".join(words(await spoken(stream))) == TEXT
    assert engine.entered == 1
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
