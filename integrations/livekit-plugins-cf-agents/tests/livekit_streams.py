"""What tests of the plugin's streams say, and what came of it."""

from __future__ import annotations

from livekit.agents import APIConnectOptions, tts
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT
from livekit.plugins import cf_agents

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
