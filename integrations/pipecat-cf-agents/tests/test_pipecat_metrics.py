"""Pipecat's own metrics and traces are filled."""

from __future__ import annotations

import numpy as np
import pytest
from bench import open_bench
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pipecat.metrics.metrics import (
    ProcessingMetricsData,
    TextAggregationMetricsData,
    TTFAMetricsData,
    TTFBMetricsData,
    TTSUsageMetricsData,
)
from pipecat_cf_agents import CfAgentsTTSService, CfAgentsTTSSettings

from tests.fakes import SAMPLE_RATE, FakeLink, FakeSession, FakeTTS

pytestmark = pytest.mark.anyio

TEXT = "The first train leaves at nine."


def speak_after_silence(session: FakeSession) -> None:
    """A quarter of a second of silence, then a tone."""
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = 8000 * np.sin(2 * np.pi * 200 * time) * (time >= 0.25)
    session.give_samples(tone.astype(np.int16), last=True)


async def test_times_and_characters_of_a_reply() -> None:
    tts = FakeTTS(FakeLink(speak_after_silence))
    async with open_bench(CfAgentsTTSService(tts=tts)) as bench:
        await bench.reply(TEXT)
        await bench.play(10.0)
        [ttfb] = [each for each in bench.metrics(TTFBMetricsData) if each.value]
        [ttfa] = bench.metrics(TTFAMetricsData)
        [usage] = bench.metrics(TTSUsageMetricsData)
        assert ttfa.leading_silence == pytest.approx(0.25, abs=0.03)
        assert ttfa.ttfa == pytest.approx(ttfb.value + ttfa.leading_silence)
        assert usage.value == pytest.approx(len(TEXT), abs=1)
        assert {each.model for each in (ttfb, ttfa, usage)} == {"fake"}
        assert [each for each in bench.metrics(ProcessingMetricsData) if each.value] == []
        assert [each for each in bench.metrics(TextAggregationMetricsData) if each.value] == []


async def test_characters_of_a_reply_that_was_interrupted() -> None:
    async with open_bench(CfAgentsTTSService(tts=FakeTTS())) as bench:
        await bench.reply("Hello there, I", end=False)
        await bench.settle()
        await bench.interrupt()
        assert [each.value for each in bench.metrics(TTSUsageMetricsData)] == [len("Hello there, ")]


async def test_each_context_is_a_span(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    tts = FakeTTS()
    async with open_bench(
        CfAgentsTTSService(tts=tts, settings=CfAgentsTTSSettings(voice="male")), enable_tracing=True
    ) as bench:
        await bench.reply(TEXT)
        await bench.settle()
        tts.link.sessions[0].give(0.2)
        await bench.settle()
        tts.link.sessions[0].speak()
        await bench.play(10.0)
        await bench.reply("This one is interrupted.")
        await bench.settle()
        tts.link.sessions[1].give(0.2)
        await bench.settle()
        await bench.interrupt()
    spans = [dict(span.attributes or {}) for span in exporter.get_finished_spans() if span.name == "tts"]
    assert [span["text"] for span in spans] == [TEXT, "This one is interrupted."]
    assert spans[0]["gen_ai.provider.name"] == "cfagents"
    assert spans[0]["gen_ai.request.model"] == "fake"
    assert spans[0]["voice_id"] == "male"
    assert spans[0]["metrics.ttfb"] > 0.0  # pyright: ignore[reportOperatorIssue]
    assert spans[1]["tts.interrupted"] is True
    provider.shutdown()
