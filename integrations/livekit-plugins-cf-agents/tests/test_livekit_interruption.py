"""An interruption is known when it is made, not when LiveKit closes the stream."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from contextlib import suppress

import pytest
from livekit import rtc
from livekit.agents import Agent, ModelSettings, tts
from livekit.agents.voice import SpeechHandle, agent_activity
from livekit.plugins import cf_agents
from livekit_fakes import Script, conversation
from livekit_streams import TEXT

ENOUGH = 3
"""Frames, of the dozen in a block that comes all at once."""


class Impatient(Agent):
    """Interrupts its own reply at one of the plugin's frames, behind which others wait."""

    def __init__(self) -> None:
        super().__init__(instructions="Be brief.")
        self.frames = 0
        self.interrupted: list[Awaitable[None]] = []

    async def tts_node(self, text: AsyncIterable[str], model_settings: ModelSettings) -> AsyncIterator[rtc.AudioFrame]:
        async for frame in Agent.default.tts_node(self, text, model_settings):
            self.frames += 1
            if self.frames == ENOUGH:
                self.interrupted.append(self.session.interrupt())
            yield frame


async def test_no_frame_leaves_the_plugin_after_an_interruption(speech: cf_agents.TTS) -> None:
    agent = Impatient()
    async with conversation(speech, Script([TEXT]), agent=agent) as talk:
        handle = talk.session.generate_reply(user_input="Go on.")
        await handle
        (interrupted,) = agent.interrupted
        await interrupted
        assert agent.frames == ENOUGH
        assert talk.errors == []


def made_for(speech: cf_agents.TTS, handle: SpeechHandle) -> tts.SynthesizeStream:
    """A stream made where LiveKit speaks the reply of `handle`."""
    token = agent_activity._SpeechHandleContextVar.set(handle)
    try:
        return speech.stream()
    finally:
        agent_activity._SpeechHandleContextVar.reset(token)


async def frames_of(stream: tts.SynthesizeStream, handle: SpeechHandle | None = None) -> int:
    """Frames of the whole text; `handle` is interrupted at the third, and the stream closed when it has run dry."""
    frames = 0
    async with stream:
        stream.push_text(TEXT)
        stream.end_input()
        with suppress(StopAsyncIteration):
            while True:
                await anext(stream)
                frames += 1
                if handle is not None and frames == ENOUGH:
                    handle.interrupt()
    return frames


async def test_a_stream_ends_with_the_reply_that_it_was_made_for(speech: cf_agents.TTS) -> None:
    handle, other = SpeechHandle.create(), SpeechHandle.create()
    whole = await frames_of(speech.stream())
    assert whole > 20
    assert await frames_of(made_for(speech, other), handle) == whole
    assert await frames_of(made_for(speech, other), other) == ENOUGH


async def test_who_speaks_in_spite_of_an_interruption_is_heard(speech: cf_agents.TTS) -> None:
    handle = SpeechHandle.create()
    handle.interrupt()
    assert await frames_of(made_for(speech, handle)) > 20


async def test_a_release_of_livekit_without_the_handle_speaks_all_the_same(
    speech: cf_agents.TTS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(agent_activity, "_SpeechHandleContextVar")
    assert await frames_of(speech.stream()) > 20
