"""An interruption: silence at once, of exactly what it is for, and a context that holds what was heard."""

from __future__ import annotations

import random

import pytest
from bench import Bench, open_bench
from pipecat.frames.frames import (
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSTextFrame,
)
from pipecat_cf_agents import CfAgentsTTSService

from tests.fakes import FakeLink, FakeSession, FakeTTS

pytestmark = pytest.mark.anyio

FIRST = "The first train leaves at nine in the morning and then goes all the way along the coast."


def speak_as_written(session: FakeSession) -> None:
    """A voice of ten characters a second."""
    while session.spoken < len(session.segments):
        session.give(len(session.segments[session.spoken].text) / 10, last=True)


def heard(bench: Bench) -> list[str]:
    """The words whose time has come."""
    return [word for word, at_s in bench.words() if at_s <= bench.clock.now_s]


@pytest.mark.parametrize("at_s", [0.0, 0.3, 2.0, 5.5])
async def test_the_context_holds_what_was_heard_of_a_first_sentence_that_is_not_finished(at_s: float) -> None:
    tts = FakeTTS(FakeLink(speak_as_written))
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(FIRST, end=False)
        await bench.play(at_s)
        await bench.interrupt()
        assert bench.said() == [" ".join(heard(bench))]
        assert abs(len(bench.said()[0].split()) - len(FIRST[: round(10 * at_s)].split())) <= 1
        await bench.play(20.0)
        assert len(bench.said()) == 1


async def test_nothing_comes_after_an_interruption() -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(FIRST)
        await bench.settle()
        [session] = tts.link.sessions
        session.give(0.5)
        await bench.settle()
        session.give(0.5)
        await bench.send(InterruptionFrame())
        session.give(0.5)
        await bench.settle()
        session.give(0.5, last=True)
        await bench.settle()
        assert session.closed
        after = bench.listener.frames[bench.listener.frames.index(bench.frames(InterruptionFrame)[0]) :]
        assert [frame for frame in after if isinstance(frame, TTSAudioRawFrame | TTSTextFrame)] == []
        assert bench.service.get_audio_contexts() == []
    assert bench.service._turns == {}


async def test_the_engine_is_told_before_the_interruption_goes_on() -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        closed: list[bool] = []
        original = bench.listener.process_frame

        async def process_frame(frame: Frame, direction: object) -> None:
            if isinstance(frame, InterruptionFrame):
                closed.append(tts.link.sessions[0].closed)
            await original(frame, direction)  # pyright: ignore[reportArgumentType]

        bench.listener.process_frame = process_frame  # pyright: ignore[reportAttributeAccessIssue]
        await bench.reply(FIRST)
        await bench.settle()
        await bench.interrupt()
        assert closed == [True]


@pytest.mark.timeout(400)
async def test_two_hundred_turns_hold_nothing_of_each_other() -> None:
    source = random.Random(1)
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        for turn in range(200):
            seen = len(bench.listener.frames)
            opened = len(tts.link.sessions)
            await bench.reply(f"Turn{turn} begins here and is a sentence. Turn{turn} goes on with another one.", size=7)
            await bench.settle()
            mine = tts.link.sessions[opened:]
            assert len(mine) == 1
            for _ in range(source.randrange(4)):
                mine[0].give(0.2)
                if source.random() < 0.5:
                    await bench.settle()
            for late in tts.link.sessions[:opened][-3:]:
                late.give(0.2)
            await bench.play(source.random())
            if source.random() < 0.2:
                mine[0].speak(0.1)
                await bench.settle()
            await bench.interrupt()
            new = bench.listener.frames[seen:]
            tones = {frame.audio[:2] for frame in new if isinstance(frame, TTSAudioRawFrame)}
            assert tones <= {(1000 + opened).to_bytes(2, "little")}
            assert all(f"Turn{turn}" in frame.text for frame in new if isinstance(frame, TTSTextFrame) and "Turn" in frame.text)
        assert all(session.closed for session in tts.link.sessions)
        for said in bench.said():
            assert len({word for word in said.split() if word.startswith("Turn")}) <= 1
        assert bench.errors == []


async def test_an_interruption_spares_what_may_not_be_interrupted() -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        notice = TTSSpeakFrame("This call is recorded for your safety.")
        notice.interruptible = False
        await bench.send(notice)
        await bench.reply(FIRST)
        await bench.settle()
        kept, dropped = tts.link.sessions
        kept.give(0.5)
        await bench.interrupt()
        assert (kept.closed, dropped.closed) == (False, True)
        kept.speak(2.0)
        await bench.play(10.0)
        assert " ".join(word for word, _ in bench.words()) == "This call is recorded for your safety."
        assert len(bench.audio()) == 2 * 24_000 * 2.5


async def test_text_that_the_interruption_overtook_is_not_spoken_with_the_next_reply() -> None:
    tts = FakeTTS(FakeLink(speak_as_written))
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.send(
            LLMFullResponseStartFrame(), LLMTextFrame("Old words that nobody "), LLMTextFrame("wants. "), InterruptionFrame()
        )
        await bench.settle()
        await bench.reply("New words.")
        await bench.play(10.0)
        assert bench.said() == ["New words."]
        assert [segment.text for session in tts.link.sessions for segment in session.segments] == ["New words."]


async def test_text_of_a_processor_without_response_frames_is_spoken_after_an_interruption() -> None:
    tts = FakeTTS(FakeLink(speak_as_written))
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.interrupt()
        await bench.send(LLMTextFrame("A first sentence of mine. "), LLMTextFrame("And the second."), LLMFullResponseEndFrame())
        await bench.play(10.0)
        assert [segment.text.strip() for session in tts.link.sessions for segment in session.segments] == [
            "A first sentence of mine.",
            "And the second.",
        ]


async def test_a_word_cut_by_the_interruption_does_not_stick_to_the_next_reply() -> None:
    tts = FakeTTS(FakeLink(speak_as_written))
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply("Hello unfin", end=False)
        await bench.settle()
        await bench.interrupt()
        await bench.reply("New words.")
        await bench.play(10.0)
        assert bench.said() == ["New words."]


async def test_an_interruption_before_anything_was_said() -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.interrupt()
        await bench.send(LLMFullResponseStartFrame())
        await bench.interrupt()
        await bench.reply("Hi", end=False)
        await bench.interrupt()
        assert tts.link.sessions == []
        assert bench.said() == []
    assert bench.errors == []


async def test_the_core_counts_its_lead_from_when_the_listener_hears() -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.send(TTSSpeakFrame("This one is first."), TTSSpeakFrame("This one waits."))
        await bench.settle()
        first, second = tts.link.sessions
        second.give(1.0)
        await bench.settle()
        assert second.positions == []
        first.speak(2.0)
        await bench.settle()
        assert second.positions == [0.0]
        second.speak(1.0)
        await bench.play(10.0)


async def test_words_after_an_interruption_do_not_wait_for_audio_that_nobody_hears() -> None:
    tts = FakeTTS(FakeLink(speak_as_written))
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(FIRST)
        await bench.play(1.0)
        assert bench.service.get_audio_contexts() == []
        await bench.interrupt()
        await bench.reply("New words.")
        await bench.settle()
        assert dict(bench.words())["New"] == pytest.approx(101.0)
        await bench.play(10.0)
        notice = TTSSpeakFrame("This call is recorded.")
        notice.interruptible = False
        await bench.send(notice)
        await bench.play(1.0)
        assert bench.service.get_audio_contexts() == []
        await bench.interrupt()
        await bench.reply("Last words.")
        await bench.settle()
        assert dict(bench.words())["Last"] == pytest.approx(111.0 + len("This call is recorded.") / 10)
        await bench.play(10.0)
