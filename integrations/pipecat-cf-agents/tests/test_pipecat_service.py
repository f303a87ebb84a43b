"""The service in a pipeline, over a link that speaks when told to: text in, audio and words out, contexts opened and closed."""

from __future__ import annotations

import random

import numpy as np
import pytest
from bench import open_bench
from pipecat.frames.frames import (
    AggregatedTextFrame,
    EndFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.services.tts_service import TextAggregationMode
from pipecat.utils.context.audio_context_manager import AudioContextManager
from pipecat_cf_agents import CfAgentsTTSService, LoadOptions

from cf_agents.errors import ConfigError
from tests.fakes import FakeLink, FakeSession, FakeTTS

pytestmark = pytest.mark.anyio

TEXT = "The first train leaves at nine in the morning. The next one goes an hour later, from platform two."
SPOKEN = (TTSStartedFrame, TTSTextFrame, TTSAudioRawFrame, TTSStoppedFrame, LLMFullResponseStartFrame, LLMFullResponseEndFrame)


def speaking(seconds: float = 2.0) -> FakeTTS:
    """A model that says each segment in so many seconds, at once."""
    return FakeTTS(FakeLink(lambda session: session.speak(seconds)))


def spoken(session: FakeSession) -> str:
    return " ".join(segment.text.strip() for segment in session.segments)


async def test_a_reply_is_spoken_in_one_context_by_one_stream() -> None:
    tts = speaking()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(TEXT)
        await bench.play(30)
        assert bench.said() == [TEXT]
        assert len(tts.link.sessions) == 1
        assert len(bench.audio()) == 2 * 24_000 * 4
        frames = [frame for frame in bench.listener.frames if isinstance(frame, SPOKEN)]
        assert [type(frame) for frame in frames[:2]] == [LLMFullResponseStartFrame, TTSStartedFrame]
        assert [type(frame) for frame in frames[-2:]] == [TTSStoppedFrame, LLMFullResponseEndFrame]
        assert len({getattr(frame, "context_id", None) for frame in frames[1:-1]}) == 1
    assert bench.errors == []


async def test_words_have_the_times_of_the_core_and_come_before_their_audio() -> None:
    tts = speaking()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(TEXT)
        await bench.play(30)
    async with tts.stream() as stream:
        stream.write(TEXT)
        stream.end()
        expected = [word async for chunk in stream for word in chunk.words]
    assert [word for word, _ in bench.words()] == [word.text.strip() for word in expected]
    assert [at_s for _, at_s in bench.words()] == pytest.approx([100 + word.start_s for word in expected], abs=1e-6)
    played_s = 100.0
    for frame in bench.listener.frames:
        if isinstance(frame, TTSAudioRawFrame):
            played_s += frame.num_frames / frame.sample_rate
        elif isinstance(frame, TTSTextFrame):
            assert (frame.pts or 0) / 1e9 >= played_s - 1e-6


async def test_tokens_reach_the_core_as_they_come() -> None:
    text = "Sure, I can do that for you. It costs $12.50 (plus tax), e.g. for Dr. Smith; shall I book it? Fine - then I will."
    tokens = [text[:1], *(text[at : at + 3] for at in range(1, len(text), 3))]
    direct, tts = FakeTTS(), FakeTTS()
    written: list[int] = []
    async with direct.stream() as stream:
        for token in tokens:
            stream.write(token)
            written.append(len(direct.link.sessions[0].segments))
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.send(LLMFullResponseStartFrame())
        late = 0
        for token, segments in zip(tokens, written, strict=True):
            await bench.send(LLMTextFrame(token))
            await bench.settle()
            late += segments - (len(tts.link.sessions[0].segments) if tts.link.sessions else 0)
        await bench.interrupt()
    # What a place to cut at waits for is the next letter; here it waits for the next word.
    assert written[-1] >= 2
    assert late <= 2
    assert [each.text for each in tts.link.sessions[0].segments] == [each.text for each in direct.link.sessions[0].segments]


async def test_audio_comes_before_the_text_ends() -> None:
    async with open_bench(CfAgentsTTSService(tts=speaking())) as bench:
        await bench.reply(TEXT, end=False)
        await bench.settle()
        assert bench.audio()
        await bench.interrupt()


async def test_text_is_handed_on_and_nothing_waits_for_its_audio() -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(TEXT)
        await bench.send(TTSUpdateSettingsFrame(delta=CfAgentsTTSService.Settings(voice="male")))
        await bench.settle()
        assert bench.audio() == b""
        assert bench.service.settings.given_fields()["voice"] == "male"
        await bench.interrupt()


@pytest.mark.parametrize("seed", range(6))
async def test_the_context_holds_the_text_whatever_is_in_it(seed: int) -> None:
    source = random.Random(seed)
    words = (
        "Hello world. — - ... 😀 **bold** $5 3.14 e.g. 'quoted' (so to) naïve speak, <3 50% A. B! ? don’t “yes” co-op #1 & "
        "U.S. café, * _x_ end;"
    )
    pieces = [*words.split(" "), "\n\n", "\n- one", "\t", "  "]
    text = " ".join(source.choice(pieces) for _ in range(60))
    async with open_bench(CfAgentsTTSService(tts=speaking(0.5))) as bench:
        await bench.reply(text, size=source.randint(1, 9))
        await bench.until(lambda: bench.frames(LLMFullResponseEndFrame))
        await bench.play(100)
        assert [" ".join(said.split()) for said in bench.said()] == [" ".join(text.split())]
        times = [at_s for _, at_s in bench.words()]
        assert times == sorted(times)


async def test_line_breaks_reach_the_core() -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply("apples\npears\n\nplums", size=1)
        await bench.settle()
        [stream] = [turn._opened[0] for turn in bench.service._turns.values()]
        assert stream._inlet.written.split(" ") == ["apples\npears\nplums", ""]
        await bench.interrupt()


async def test_a_slow_model_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    original = AudioContextManager.get

    async def get(self: AudioContextManager, context_id: str, timeout: float) -> object:  # noqa: ASYNC109
        waits.append(timeout)
        return await original(self, context_id, timeout)

    monkeypatch.setattr(AudioContextManager, "get", get)
    async with open_bench(CfAgentsTTSService(tts=speaking())) as bench:
        await bench.reply(TEXT)
        await bench.play(30)
    assert min(waits) >= 15.0


async def test_words_after_a_pause_of_the_language_model_are_as_late_as_their_audio() -> None:
    tts = speaking(2.0)
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply("One moment please while I look that up. ", end=False)
        await bench.play(2.0)
        await bench.play(7.0)
        await bench.send(LLMTextFrame("Here it is, on time, and the train is late."), LLMFullResponseEndFrame())
        await bench.play(0.0)
        words = dict(bench.words())
        assert words["up."] < 102.0
        assert words["Here"] == pytest.approx(109.0)
        await bench.interrupt()
        assert bench.said() == ["One moment please while I look that up. Here"]


async def test_a_context_that_pipecat_gave_up_goes_on_with_words_in_time() -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply("One moment please while I look that up. ", end=False)
        await bench.settle()
        tts.link.sessions[0].give(2.0, last=True)
        await bench.settle()
        # What Pipecat does when nothing has come for a while.
        await bench.service.remove_audio_context(bench.service.get_audio_contexts()[0])
        await bench.until(lambda: not bench.service.get_audio_contexts())
        await bench.play(10.0)
        await bench.send(LLMTextFrame("Here it is, on time, and the train is late."), LLMFullResponseEndFrame())
        await bench.until(lambda: len(tts.link.sessions[0].segments) > 1)
        tts.link.sessions[0].speak(2.0)
        await bench.until(lambda: len(bench.words()) == 18)
        assert dict(bench.words())["Here"] == pytest.approx(110.0)
        assert len(bench.audio()) == 2 * 24_000 * 4
        await bench.play(10.0)


async def test_the_next_context_counts_from_when_it_is_heard() -> None:
    async with open_bench(CfAgentsTTSService(tts=speaking(4.0))) as bench:
        await bench.send(TTSSpeakFrame("Let me see."), TTSSpeakFrame("Here it is."))
        await bench.play(0.0)
        assert dict(bench.words())["Here"] == pytest.approx(104.0)
        assert bench.listener.ends_s == pytest.approx(108.0)
        await bench.play(10.0)
        assert bench.said() == ["Let me see.", "Here it is."]


async def test_text_with_nothing_to_say_is_a_short_silence_and_no_strike() -> None:
    async with open_bench(CfAgentsTTSService(tts=speaking())) as bench:
        for _ in range(4):
            await bench.reply("...")
            await bench.play(1.0)
        assert bench.errors == []
        assert bench.service.is_usable
        assert set(bench.audio()) == {0}
        assert len(bench.frames(TTSStoppedFrame)) == 4
        await bench.reply(TEXT)
        await bench.play(10.0)
        assert bench.said() == ["...", "...", "...", "...", TEXT]


async def test_white_space_alone_opens_nothing() -> None:
    tts = speaking()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(" \n ")
        await bench.play(1.0)
        assert tts.link.sessions == []
        assert bench.frames(TTSStartedFrame) == []
        assert bench.errors == []


async def test_a_text_that_came_outside_of_a_reply_is_spoken_and_ended() -> None:
    tts = speaking()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.send(TextFrame("This is a first one. "), TextFrame("And a second. "))
        await bench.play(10.0)
        assert [spoken(session) for session in tts.link.sessions] == ["This is a first one."]
        assert len(bench.frames(TTSStoppedFrame)) == 1
        await bench.reply(TEXT)
        await bench.play(10.0)
        assert len(bench.frames(TTSStoppedFrame)) == 2
        # Pipecat holds a text outside of replies until more comes; it is not lost.
        assert bench.said() == [f"This is a first one. And a second. {TEXT}"]


async def test_a_speak_frame_inside_a_reply_has_a_context_of_its_own() -> None:
    tts = speaking(1.0)
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply("Let me look that up for you, ple", end=False)
        await bench.send(TTSSpeakFrame("One moment."), LLMTextFrame("ase wait."), LLMFullResponseEndFrame())
        await bench.play(30.0)
        assert [spoken(session) for session in tts.link.sessions] == [
            "Let me look that up for you, please wait.",
            "One moment.",
        ]
        assert bench.said() == ["Let me look that up for you, please wait. One moment."]
        assert len(bench.frames(TTSStoppedFrame)) == 2


async def test_every_sample_rate_of_a_pipeline() -> None:
    for rate in (8000, 16_000, 48_000):
        async with open_bench(CfAgentsTTSService(tts=speaking()), sample_rate=rate) as bench:
            await bench.reply(TEXT)
            await bench.play(10.0)
        assert {frame.sample_rate for frame in bench.frames(TTSAudioRawFrame)} == {rate}
        assert len(bench.audio()) == 2 * rate * 4
        assert np.frombuffer(bench.audio(), "<i2")[rate] == 1000


async def test_a_sample_rate_of_the_service_alone() -> None:
    async with open_bench(CfAgentsTTSService(tts=speaking(), sample_rate=16_000)) as bench:
        await bench.reply(TEXT)
        await bench.play(10.0)
    assert {frame.sample_rate for frame in bench.frames(TTSAudioRawFrame)} == {16_000}


async def test_the_end_of_the_pipeline_waits_for_what_was_written() -> None:
    tts = FakeTTS()
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(TEXT, end=False)
        await bench.worker.queue_frame(EndFrame())
        await bench.until(lambda: tts.link.sessions and all(turn.ended.is_set() for turn in bench.service._turns.values()))
        tts.link.sessions[0].speak(2.0)
        tts.link.on_submit = lambda session: session.speak(2.0)
    assert len(bench.audio()) == 2 * 24_000 * 4
    assert tts.link.sessions[0].closed


@pytest.mark.parametrize("mode", list(TextAggregationMode))
async def test_pipecats_own_aggregation_can_be_chosen(mode: TextAggregationMode) -> None:
    tts = speaking()
    async with open_bench(CfAgentsTTSService(tts=tts, text_aggregation_mode=mode)) as bench:
        await bench.reply(TEXT)
        await bench.play(30.0)
        assert spoken(tts.link.sessions[0]) == TEXT
        assert bench.said() == [TEXT]
        assert len(tts.link.sessions) == 1


async def test_what_a_transform_makes_of_the_text_is_spoken_and_the_context_keeps_what_was_written() -> None:
    async def spell(text: str, kind: str) -> str:
        return text.replace("ACME", "a c m e")

    tts = speaking()
    async with open_bench(CfAgentsTTSService(tts=tts, text_transforms=[("*", spell)])) as bench:
        await bench.reply("Welcome to ACME, the only shop.")
        await bench.play(10.0)
        assert "a c m e" in spoken(tts.link.sessions[0])
        assert bench.said() == ["Welcome to ACME, the only shop."]


async def test_clients_are_told_of_each_word_before_it_is_spoken() -> None:
    async with open_bench(CfAgentsTTSService(tts=speaking())) as bench:
        await bench.reply("One two three.")
        await bench.play(10.0)
        announced = [frame for frame in bench.frames(AggregatedTextFrame) if not isinstance(frame, TTSTextFrame)]
        assert [(frame.text, frame.text_type, frame.will_be_spoken) for frame in announced] == [
            ("One", "sentence", True), ("two", "sentence", True), ("three.", "sentence", True),
        ]  # fmt: skip


async def test_a_given_model_and_an_asked_one_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="not both"):
        CfAgentsTTSService(tts=FakeTTS(), load=LoadOptions(device="cpu"))
    with pytest.raises(ConfigError, match="not both"):
        CfAgentsTTSService(tts=FakeTTS(), settings=CfAgentsTTSService.Settings(model="tiny"))
