"""What goes wrong is told once and typed, costs no more than its reply, and the context holds what was heard nevertheless."""

from __future__ import annotations

import pytest
from bench import open_bench
from pipecat.frames.frames import (
    LLMFullResponseEndFrame,
    LLMTextFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.metrics.metrics import TTFBMetricsData
from pipecat.utils.errors import ErrorCategory
from pipecat_cf_agents import CfAgentsTTSService, CfAgentsTTSSettings, turn

from cf_agents.errors import Busy, CfAgentsError, StreamClosed, SynthesisFailed, TextError, WorkerDied
from tests.fakes import FakeLink, FakeTTS

pytestmark = pytest.mark.anyio

SENTENCES = "This is the first sentence of them. This is the second sentence of them."


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (SynthesisFailed("It broke."), ErrorCategory.SERVER),
        (WorkerDied("It died."), ErrorCategory.SERVER),
        (TextError("It cannot be said."), ErrorCategory.APPLICATION),
        (StreamClosed("It was closed."), ErrorCategory.UNKNOWN),
    ],
)
async def test_a_reply_that_fails_in_the_middle(error: CfAgentsError, category: ErrorCategory) -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(SENTENCES, end=False)
        await bench.settle()
        [session] = tts.link.sessions
        session.give(1.0, last=True)
        await bench.settle()
        session.fail(error)
        await bench.settle()
        assert [(each.category, str(error) in each.error) for each in bench.errors] == [(category, True)]
        await bench.send(LLMTextFrame(" And more is written."), LLMFullResponseEndFrame())
        await bench.play(10.0)
        assert len(bench.errors) == 1
        assert bench.service.is_usable
        assert len(bench.frames(TTSStartedFrame)) == len(bench.frames(TTSStoppedFrame)) == 1
        assert bench.said() == ["This is the first sentence of them."]
        assert session.closed
        tts.link.on_submit = lambda session: session.speak(1.0)
        await bench.reply("The next reply is fine.")
        await bench.play(10.0)
        assert bench.said()[1:] == ["The next reply is fine."]


async def test_a_reply_waits_for_room_in_a_full_house() -> None:
    tts = FakeTTS(FakeLink(lambda session: session.speak(1.0)))
    tts.error = Busy("All rows are taken.", 0.001)
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(SENTENCES[:40], end=False)
        await bench.settle()
        await bench.send(LLMTextFrame(SENTENCES[40:]), LLMFullResponseEndFrame())
        await bench.settle()
        assert bench.audio() == b""
        tts.error = None
        await bench.until(bench.audio)
        await bench.play(10.0)
        assert bench.said() == [SENTENCES]
        tts.error = Busy("All rows are taken.", 30.0)
        await bench.reply(SENTENCES)
        await bench.settle()
        await bench.interrupt()
        assert not bench.service._tasks
    assert bench.errors == []


async def test_a_reply_that_finds_no_rows_is_said_whole_once_there_are_some() -> None:
    """The engine says so later than a house without places does: when it was given the text."""
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(SENTENCES[:40], end=False)
        await bench.settle()
        tts.link.sessions[0].fail(Busy("No row is free.", 0.001))
        await bench.send(LLMTextFrame(SENTENCES[40:60]))
        await bench.until(lambda: len(tts.link.sessions) == 2)
        tts.link.sessions[1].fail(Busy("No row is free.", 0.001))
        await bench.send(LLMTextFrame(SENTENCES[60:]), LLMFullResponseEndFrame())
        await bench.until(lambda: len(tts.link.sessions) == 3 and tts.link.sessions[2].segments)
        await bench.settle()
        tts.link.sessions[2].speak(1.0)
        await bench.play(10.0)
        assert bench.said() == [SENTENCES]
        assert len(bench.audio()) == 2 * 24_000 * len(tts.link.sessions[2].segments)
        assert all(session.closed for session in tts.link.sessions)
    assert bench.errors == []


async def test_rows_that_stay_taken_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "PATIENCE_S", 0.003)
    tts = FakeTTS(FakeLink(lambda session: session.fail(Busy("No row is free.", 0.001))))
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(SENTENCES)
        await bench.until(lambda: bench.errors)
        await bench.play(10.0)
        assert [each.category for each in bench.errors] == [ErrorCategory.RATE_LIMIT]
        assert bench.service.is_usable
        assert len(tts.link.sessions) == 4
        assert bench.said() == []
        assert bench.service.get_audio_contexts() == []


async def test_what_waits_for_room_is_said_in_order_and_with_the_settings_it_was_written_for() -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        tts.error = Busy("All places are taken.", 0.001)
        await bench.reply("This is said by one voice, and ", end=False)
        await bench.send(TTSUpdateSettingsFrame(delta=CfAgentsTTSSettings(voice="male")))
        await bench.send(LLMTextFrame("this by another."), LLMFullResponseEndFrame())
        await bench.settle()
        tts.error = None
        await bench.until(lambda: len(tts.link.sessions) == 2)
        await bench.settle()
        assert [
            (session.voice.name, " ".join(segment.text.strip() for segment in session.segments))
            for session in tts.link.sessions
        ] == [("default", "This is said by one voice, and"), ("male", "this by another.")]
        for session in tts.link.sessions:
            session.speak(1.0)
        await bench.play(10.0)
        assert bench.said() == ["This is said by one voice, and this by another."]


async def test_a_house_that_stays_full_is_told_and_never_costs_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "PATIENCE_S", 0.0)
    tts = FakeTTS(FakeLink(lambda session: session.speak(1.0)))
    tts.error = Busy("All rows are taken.", 0.5)
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        for _ in range(4):
            await bench.reply(SENTENCES)
            await bench.play(10.0)
        assert [each.category for each in bench.errors] == [ErrorCategory.RATE_LIMIT] * 4
        assert bench.service.is_usable
        assert bench.said() == []
        assert bench.metrics(TTFBMetricsData) == []
        tts.error = None
        await bench.reply(SENTENCES)
        await bench.play(10.0)
        assert bench.said() == [SENTENCES]


async def test_an_error_of_one_context_leaves_the_other_alone() -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply("This is the first reply of two.")
        await bench.reply("This is the second reply of two.")
        await bench.settle()
        first, second = tts.link.sessions
        first.fail(SynthesisFailed("It broke."))
        second.speak(2.0)
        await bench.play(10.0)
        assert bench.said() == ["This is the second reply of two."]
        assert len(bench.errors) == 1


async def test_a_service_that_pipecat_has_given_up_closes_its_contexts_and_claims_nothing() -> None:
    tts = FakeTTS(FakeLink(lambda session: session.speak(1.0)))
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.service.set_usable(False)
        await bench.reply("This is not said.")
        await bench.play(10.0)
        assert tts.link.sessions == []
        assert bench.said() == []
        assert bench.service.get_audio_contexts() == []
        await bench.service.set_usable(True)
        await bench.reply("This is said.")
        await bench.play(10.0)
        assert bench.said() == ["This is said."]


async def test_an_interruption_of_a_reply_that_failed() -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(SENTENCES, end=False)
        await bench.settle()
        tts.link.sessions[0].fail(SynthesisFailed("It broke."))
        await bench.settle()
        await bench.interrupt()
        assert bench.service._turns == {}
        assert bench.said() == []
    assert not bench.service._tasks
