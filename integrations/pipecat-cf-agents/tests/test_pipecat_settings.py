"""What can be changed while a bot talks."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from bench import open_bench
from pipecat.frames.frames import (
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.services.settings import TTSSettings
from pipecat.transcriptions.language import Language
from pipecat.utils.errors import ErrorCategory
from pipecat_cf_agents import CfAgentsTTSService, CfAgentsTTSSettings

from cf_agents import Voice
from cf_agents.builtin import random_voice
from cf_agents.config import DecodeParams
from cf_agents.synthetic import TINY
from tests.fakes import FakeLink, FakeTTS

pytestmark = pytest.mark.anyio


def speaking() -> FakeTTS:
    return FakeTTS(FakeLink(lambda session: session.speak(1.0)))


def update(**changes: object) -> TTSUpdateSettingsFrame:
    return TTSUpdateSettingsFrame(delta=CfAgentsTTSSettings(**changes))  # pyright: ignore[reportArgumentType]


async def test_they_reach_the_core() -> None:
    tts = FakeTTS()
    settings = CfAgentsTTSSettings(voice="male", params="paper", lead_s=1.5)
    async with open_bench(CfAgentsTTSService(tts=tts, settings=settings)) as bench:
        assert bench.service.settings.given_fields() == {
            "model": "fake", "voice": "male", "language": "en", "params": "paper", "lead_s": 1.5,
        }  # fmt: skip
        await bench.reply("This is a sentence. ")
        await bench.settle()
        [session] = tts.link.sessions
        assert (session.voice.name, session.lead_s) == ("male", 1.5)
        assert session.segments[0].params.steps == DecodeParams.preset("paper").steps
        await bench.interrupt()


async def test_a_change_in_the_middle_of_a_reply_counts_for_the_text_after_it() -> None:
    tts = speaking()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.send(
            LLMFullResponseStartFrame(),
            LLMTextFrame("This is said by one voice, and "),
            update(voice="male", params=DecodeParams(steps=3), lead_s=0.7),
            LLMTextFrame("this by another."),
            LLMFullResponseEndFrame(),
        )
        await bench.play(0.0)
        assert [
            (each.voice.name, each.lead_s, " ".join(s.text.strip() for s in each.segments)) for each in tts.link.sessions
        ] == [
            ("default", float("inf"), "This is said by one voice, and"),
            ("male", 0.7, "this by another."),
        ]
        assert {segment.params.steps for segment in tts.link.sessions[1].segments} == {3}
        # One context: the listener hears one reply, and its words go on in time.
        assert len(bench.frames(TTSStartedFrame)) == len(bench.frames(TTSStoppedFrame)) == 1
        said_s = dict(bench.words())["this"] - 100
        assert said_s == pytest.approx(sum(1.0 for _ in tts.link.sessions[0].segments))
        await bench.play(10.0)
        assert bench.said() == ["This is said by one voice, and this by another."]


async def test_a_change_between_replies_counts_for_the_next() -> None:
    tts = speaking()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply("This is the first.")
        await bench.send(TTSUpdateSettingsFrame(delta=TTSSettings(voice="male")))
        await bench.reply("This is the second.")
        await bench.play(10.0)
        assert [session.voice.name for session in tts.link.sessions] == ["default", "male"]


async def test_an_update_survives_an_interruption() -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply("This is the first.")
        await bench.send(update(voice="male"))
        await bench.interrupt()
        await bench.reply("This is the second.")
        await bench.settle()
        assert tts.link.sessions[-1].voice.name == "male"
        await bench.interrupt()


@pytest.mark.parametrize(
    "change", [{"voice": "nobody"}, {"voice": "absent.safetensors"}, {"params": "no such preset"}, {"lead_s": 0.0}]
)
async def test_a_change_that_cannot_be_used_is_told_and_changes_nothing(change: dict[str, object]) -> None:
    tts = speaking()
    async with open_bench(CfAgentsTTSService(tts=tts, settings=CfAgentsTTSSettings(voice="male"))) as bench:
        before = bench.service.settings.given_fields()
        await bench.send(update(**change))
        await bench.until(lambda: bench.errors)
        assert bench.service.settings.given_fields() == before
        assert bench.errors[0].category is ErrorCategory.APPLICATION
        assert "Settings stay as they were" in bench.errors[0].error
        assert bench.service.is_usable
        await bench.reply("This is the second.")
        await bench.play(10.0)
        assert tts.link.sessions[-1].voice.name == "male"
        assert bench.said() == ["This is the second."]


async def test_a_voice_that_is_not_there_at_the_start_is_told_and_can_be_put_right() -> None:
    tts = speaking()
    async with open_bench(CfAgentsTTSService(tts=tts, settings=CfAgentsTTSSettings(voice="nobody"))) as bench:
        assert not bench.service.is_usable
        assert "no voice 'nobody'" in bench.errors[0].error
        await bench.reply("This is not said.")
        await bench.play(10.0)
        assert bench.said() == []
        await bench.send(update(voice="still nobody"))
        await bench.settle()
        assert not bench.service.is_usable
        await bench.send(update(voice="male"))
        await bench.reply("This is said.")
        await bench.play(10.0)
        assert bench.said() == ["This is said."]


async def test_a_voice_file_is_read_beside_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tts = FakeTTS()
    tts.config = TINY
    random_voice(TINY, "anna").save(tmp_path / "anna.safetensors")
    load, readers = Voice.load, list[threading.Thread]()

    def watched(path: str | Path) -> Voice:
        readers.append(threading.current_thread())
        return load(path)

    monkeypatch.setattr(Voice, "load", watched)
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.send(update(voice=str(tmp_path / "anna.safetensors")))
        await bench.until(lambda: bench.service._manner.voice.name == "anna")
        await bench.reply("This is said.")
        await bench.settle()
        assert tts.link.sessions[0].voice.name == "anna"
        await bench.interrupt()
    assert readers
    assert threading.main_thread() not in readers


async def test_what_cannot_change_is_said() -> None:
    from loguru import logger

    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING", format="{message}")
    try:
        async with open_bench(CfAgentsTTSService(tts=speaking())) as bench:
            await bench.send(update(model="another"))
            await bench.settle()
    finally:
        logger.remove(handler)
    assert any("[model] is not currently supported" in line for line in lines)


def test_english_in_all_its_forms() -> None:
    service = CfAgentsTTSService(tts=FakeTTS(), settings=CfAgentsTTSSettings(language=Language.EN_GB))
    assert service.settings.given_fields()["language"] == "en"
