"""How each failure of a stream is told, what is tried again, and that nothing is said twice; on a clock that jumps."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
from livekit.agents import APIConnectionError, APIConnectOptions, APIError, APIStatusError, APITimeoutError, tts
from livekit.plugins import cf_agents
from livekit_fakes import FakeEngine, loaded
from livekit_streams import ONCE, TEXT, push, seconds, spoken, told, words

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
