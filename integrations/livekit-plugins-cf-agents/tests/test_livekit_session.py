"""The plugin in a real `AgentSession`, on a clock that jumps: what is heard, when it ends, and what the history says of it."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator

import numpy as np
import pytest
from livekit.agents import Agent, APIStatusError, FlushSentinel, metrics, tts
from livekit.plugins import cf_agents
from livekit_fakes import PACE, FakeEngine, Script, conversation, loaded

from cf_agents.errors import Busy, SynthesisFailed

REPLY = (
    "The first train to the coast leaves at nine in the morning. It stops in every village on the way, so bring a book, "
    "or take the express at half past ten, which is there before it. Shall I book a seat for you?"
)


def words_apart(one: str, other: str) -> int:
    """By how many words one text is longer than another that begins with it, or shorter."""
    ours, theirs = one.split(), other.split()
    both = min(len(ours), len(theirs))
    assert ours[:both] == theirs[:both], (one, other)
    return abs(len(ours) - len(theirs))


async def test_the_first_sound_comes_before_the_language_model_has_ended(speech: cf_agents.TTS) -> None:
    script = Script([REPLY])
    async with conversation(speech, script) as talk:
        await talk.reply()
        assert talk.last.started_at < script.ended_at[0] - 0.5


async def test_a_reply_that_is_heard_out_is_in_the_history_word_for_word(speech: cf_agents.TTS) -> None:
    async with conversation(speech, Script([REPLY])) as talk:
        await talk.reply()
        assert talk.said() == [REPLY]
        assert talk.transcript.text == REPLY + "\n"
        assert not talk.last.interrupted
        assert talk.last.gaps_s == 0.0
        assert talk.errors == []


async def test_the_history_holds_what_was_heard_before_an_interruption(speech: cf_agents.TTS) -> None:
    """To a word, where LiveKit's pace of the transcript is not slower than the voice: see the README."""
    times = random.Random(1)
    async with conversation(speech, Script([REPLY]), pace=PACE) as talk:
        for turn in range(40):
            await talk.reply(times.uniform(0.5, 11.0))
            assert talk.last.interrupted
            assert words_apart(talk.said()[turn], talk.last.text) <= 1


async def test_livekits_own_pace_falls_behind_a_long_word_though_the_next_ones_came_in_time(speech: cf_agents.TTS) -> None:
    """Why the README names a pace. A word is counted once the time is over that its syllables take at 3.83 a second; a voice
    that is faster is two words on by then. When this fails, LiveKit paces by the times of the words, and the advice can go."""
    async with conversation(speech, Script([REPLY])) as talk:
        await talk.reply(6.22)
    assert talk.last.text.endswith("in every village on the")
    assert talk.said()[0].endswith("in every village")


async def test_after_an_interruption_nothing_comes_and_nothing_is_made(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    async with conversation(speech, Script([REPLY * 3], token_s=0.2, size=20)) as talk:
        handle = talk.session.generate_reply(user_input="Go on.")
        await asyncio.sleep(3.0)
        frames = len(talk.last.frames)
        assert frames
        assert engine.open_sessions == 1
        assert engine.sessions[0].made_s < 3.0 + speech_ahead_s(engine)
        talk.session.interrupt()
        await handle
        assert engine.open_sessions == 0
        assert talk.session.agent_state == "listening"
        blocks = engine.sessions[0].blocks
        await asyncio.sleep(20.0)
        assert len(talk.loudspeaker.heard) == 1
        assert len(talk.last.frames) == frames
        assert engine.sessions[0].blocks == blocks


def speech_ahead_s(engine: FakeEngine) -> float:
    """The lead that is asked for, and a block."""
    return 2.0 + engine.audio_s


async def test_no_turn_hears_another(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    times = random.Random(7)
    async with conversation(speech, Script([REPLY[:60]])) as talk:
        for turn in range(200):
            await talk.reply(times.uniform(0.05, 1.5))
            assert len(engine.sessions) == len(talk.loudspeaker.heard) == turn + 1
        for turn, heard in enumerate(talk.loudspeaker.heard):
            assert np.unique(heard.samples).tolist() == [turn + 1]
        assert talk.errors == []


async def test_sessions_that_share_one_tts_hear_their_own_reply(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    replies = [f"This is the reply number {n}, and nobody else gets it. {REPLY}" for n in range(12)]

    async def talk_through(reply: str) -> None:
        async with conversation(speech, Script([reply])) as talk:
            await talk.reply()
            assert talk.said() == [reply]
            assert talk.errors == []
            assert np.unique(talk.last.samples).size == 1
            assert talk.last.gaps_s == 0.0

    async with asyncio.TaskGroup() as group:
        for reply in replies:
            group.create_task(talk_through(reply))
    assert len(engine.sessions) == 12
    assert engine.entered == 1


async def test_the_metrics_of_the_framework_are_filled(speech: cf_agents.TTS) -> None:
    reported: list[metrics.TTSMetrics] = []
    speech.on("metrics_collected", reported.append)
    async with conversation(speech, Script([REPLY])) as talk:
        await talk.reply()
        (message,) = talk.messages()
        assert message.metrics["tts_node_ttfb"] == pytest.approx(reported[0].ttfb, abs=1e-3)
        assert message.metrics["tts_metadata"] == {"model_name": "custom", "model_provider": "cf_agents"}
        (report,) = reported
        assert report.audio_duration == pytest.approx(talk.last.seconds)
        assert report.characters_count == len(REPLY)
        assert report.output_tokens > 0
        assert report.segment_id
        assert not report.cancelled


async def test_the_time_to_first_audio_leaves_out_the_language_model(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    reported: list[metrics.TTSMetrics] = []
    speech.on("metrics_collected", reported.append)
    async with conversation(speech, Script([REPLY], token_s=0.5)) as talk:
        await talk.reply()
    assert reported[0].ttfb == pytest.approx(engine.block_s, abs=0.02)


async def test_a_pause_of_the_language_model_keeps_the_reply_in_one_piece(speech: cf_agents.TTS) -> None:
    half = len(REPLY) // 2
    async with conversation(speech, Script([REPLY], token_s=12.0, size=half)) as talk:
        await talk.reply()
        assert talk.said() == [REPLY]
        assert len(talk.loudspeaker.heard) == 1
        assert talk.errors == []


class TwoParts(Agent):
    """A model's node that says where one part of the reply ends."""

    async def llm_node(self, *_: object) -> AsyncIterator[str | FlushSentinel]:
        yield "One moment, "
        yield "please. "
        yield FlushSentinel()
        yield "Here it is."


async def test_each_part_of_a_reply_in_parts_is_a_stream_of_its_own(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    async with conversation(speech, Script([""]), agent=TwoParts(instructions="")) as talk:
        await talk.reply()
        assert talk.said() == ["One moment, please. Here it is."]
        assert len(engine.sessions) == 2
        assert talk.errors == []


@pytest.mark.parametrize("text", ["...", "🙂", "- -", "*"])
async def test_a_text_with_nothing_to_say_is_a_short_silence_and_no_error(speech: cf_agents.TTS, text: str) -> None:
    async with conversation(speech, Script([text, REPLY]), tts_text_transforms=None) as talk:
        for _ in range(5):
            await talk.reply()
        assert talk.errors == []
        assert 0.0 < talk.loudspeaker.heard[0].seconds < 0.5
        assert REPLY in talk.said()


async def test_a_full_house_is_tried_again_until_there_is_room(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    tries = 0

    def turn_away() -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise Busy("All 8 places are taken; try again in 0.4 s.", 0.4)

    engine.on_open = turn_away
    async with conversation(speech, Script([REPLY])) as talk:
        await talk.reply()
        assert talk.said() == [REPLY]
        assert [event.error.recoverable for event in talk.errors] == [True]
        error = talk.errors[0].error.error
        assert isinstance(error, APIStatusError)
        assert (error.status_code, error.body) == (429, {"retry_after_s": 0.4})


async def test_a_failure_in_the_middle_is_told_and_what_was_heard_is_kept(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    engine.error, engine.fail_after = SynthesisFailed("The step failed."), 4
    async with conversation(speech, Script([REPLY])) as talk:
        await talk.reply()
        assert [event.error.recoverable for event in talk.errors] == [False]
        assert words_apart(talk.said()[0], talk.last.text) <= 1
        engine.error = None
        await talk.reply()
        assert talk.said()[1] == REPLY


async def test_new_options_are_those_of_the_next_reply(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    async with conversation(speech, Script([REPLY])) as talk:
        first = asyncio.create_task(talk.reply())
        await asyncio.sleep(2.0)
        speech.update_options(voice="male", params="paper", lead_s=0.5)
        await first
        await talk.reply()
        await talk.reply()
    assert [(asked["voice"], asked["params"], asked["lead_s"]) for asked in engine.asked] == [
        ("default", None, 2.0),
        ("male", "paper", 0.5),
        ("male", "paper", 0.5),
    ]


async def test_a_session_that_has_ended_leaves_nothing(engine: FakeEngine) -> None:
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    speech = cf_agents.TTS(model=lambda: engine)
    await loaded(speech)
    async with conversation(speech, Script([REPLY])) as talk:
        await talk.reply(1.0)
        talk.session.generate_reply(user_input="And then?")
        await asyncio.sleep(1.0)
    await speech.aclose()
    await asyncio.sleep(1.0)
    assert engine.open_sessions == 0
    assert engine.closed == 1
    assert asyncio.all_tasks() == tasks
    assert [thread for thread in set(threading.enumerate()) - threads if thread.name.startswith("cf-agents")] == []


async def test_a_session_prewarms_the_model(engine: FakeEngine) -> None:
    speech = cf_agents.TTS(model=lambda: engine)
    async with conversation(speech, Script([REPLY])):
        await loaded(speech)
        assert engine.entered == 1
    await speech.aclose()


async def test_blocks_that_come_just_in_time_leave_no_gap(speech: cf_agents.TTS, engine: FakeEngine) -> None:
    engine.audio_s, engine.block_s = 0.08, 0.075
    async with conversation(speech, Script([REPLY])) as talk:
        await talk.reply()
        assert talk.last.gaps_s == 0.0
        assert talk.last.started_at > 0


async def test_it_is_a_tts_of_the_framework(speech: cf_agents.TTS) -> None:
    assert isinstance(speech, tts.TTS)
    assert speech.capabilities == tts.TTSCapabilities(streaming=True, aligned_transcript=True)
    assert (speech.provider, speech.model, speech.label) == ("cf_agents", "custom", "livekit.plugins.cf_agents.tts.TTS")
