"""A span for each stream: under the caller's, with the times at which things happened, and its error."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from cf_agents.errors import Busy, SynthesisFailed
from cf_agents.links.base import Failed
from cf_agents.tracing import SPAN, Tracing
from tests.fakes import SAMPLE_RATE, FakeClock
from tests.test_observer import stream
from tests.test_stream import TEXT, collect, open_studio, write_in_pieces

pytestmark = pytest.mark.anyio


class Recorder:
    """A provider that keeps the spans that ended."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._spans))

    @property
    def spans(self) -> list[ReadableSpan]:
        return [span for span in self._spans.get_finished_spans() if span.name == SPAN]

    @property
    def span(self) -> ReadableSpan:
        (span,) = self.spans
        return span


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    assert span.attributes is not None
    return span.attributes


async def test_a_span_says_what_became_of_a_stream() -> None:
    recorder = Recorder()
    async with open_studio() as studio, stream(studio, Tracing(recorder.provider)) as spoken:
        write_in_pieces(spoken, TEXT)
        await collect(spoken)
        assert recorder.spans == []
        await spoken.aclose()
    stats, found = spoken.stats, attributes(recorder.span)
    assert found["gen_ai.request.model"] == "small"
    assert {name.removeprefix("cf_agents."): value for name, value in found.items() if "gen_ai" not in name} == {
        "voice": "Anna",
        "sample_rate": SAMPLE_RATE,
        "encoding": "s16le",
        "outcome": "ended",
        "segments": stats.segments,
        "characters": len(TEXT),
        "tokens": stats.tokens,
        "steps": stats.steps,
        "steps_per_block": stats.steps_per_block,
        "ttfa_s": stats.ttfa_s,
        "audible_ttfa_s": stats.audible_ttfa_s,
        "audio_s": stats.audio_s,
        "rtf": stats.rtf,
        "lead_s": stats.lead_s,
        "underrun_s": stats.underrun_s,
    }
    assert recorder.span.status.status_code is StatusCode.UNSET
    assert TEXT[:9] not in recorder.span.to_json()


async def test_it_stands_under_the_span_it_was_asked_for_in() -> None:
    """However far from there it ends."""
    recorder = Recorder()
    tracer = recorder.provider.get_tracer("app")
    async with open_studio() as studio:
        with tracer.start_as_current_span("turn") as turn:
            spoken = stream(studio, Tracing(recorder.provider))
        with tracer.start_as_current_span("later"):
            await spoken.aclose()
        async with stream(studio, Tracing(recorder.provider)):
            pass
    first, second = recorder.spans
    assert first.parent is not None
    assert first.parent.span_id == turn.get_span_context().span_id
    assert second.parent is None


async def test_times_are_those_at_which_things_happened() -> None:
    recorder, clock = Recorder(), FakeClock()
    before_ns = time.time_ns()
    async with open_studio() as studio, stream(studio, Tracing(recorder.provider), clock=clock) as spoken:
        after_ns = time.time_ns()
        clock.now += 2.0
        spoken.write("Hello there, this is a sentence. ")
        clock.now += 0.5
        spoken.end()
        await spoken.__anext__()
        clock.now += 0.125
        await spoken.cancel()
    span = recorder.span
    assert span.start_time is not None
    assert before_ns <= span.start_time <= after_ns
    at_s = {event.name: (event.timestamp - span.start_time) / 1e9 for event in span.events}
    assert list(at_s) == ["first_text", "first_audio", "cancelled"]
    assert at_s["first_text"] == pytest.approx(2.0)
    # What is made is made while the clock stands, before or after `end`.
    assert 2.0 <= at_s["first_audio"] <= 2.625 + 1e-6
    assert at_s["cancelled"] == pytest.approx(2.625)
    assert span.end_time == pytest.approx(span.start_time + 2_625_000_000, abs=1000)
    assert dict(span.events[-1].attributes or {}) == {"cf_agents.heard_s": pytest.approx(0.125)}


async def test_blocks_are_events_if_asked_for() -> None:
    recorder = Recorder()
    async with open_studio() as studio, stream(studio, Tracing(recorder.provider, blocks=True)) as spoken:
        write_in_pieces(spoken, "Hello there, this is a sentence.")
        await collect(spoken)
    blocks = [event for event in recorder.span.events if event.name == "block"]
    found = [dict(event.attributes or {}) for event in blocks]
    assert found == [{"cf_agents.steps": each.steps, "cf_agents.tokens": each.tokens} for each in spoken.stats.blocks]
    apart_s = [(event.timestamp - blocks[0].timestamp) / 1e9 for event in blocks]
    first_s = spoken.stats.blocks[0].sent_s
    assert apart_s == pytest.approx([each.sent_s - first_s for each in spoken.stats.blocks], abs=1e-6)


async def test_an_error_is_on_the_span() -> None:
    recorder = Recorder()
    async with open_studio() as studio:
        async with stream(studio, Tracing(recorder.provider)) as spoken:
            spoken._receive(Failed(SynthesisFailed("cuBLAS is unwell")))
        async with stream(studio, Tracing(recorder.provider)) as refused:
            refused._receive(Failed(Busy("The house is full.", 0.5)))
    for span, kind, message, outcome in zip(
        recorder.spans, ("SynthesisFailed", "Busy"), ("cuBLAS", "full"), ("failed", "busy"), strict=True
    ):
        assert span.status.status_code is StatusCode.ERROR
        assert message in str(span.status.description)
        (event,) = span.events
        assert kind in str((event.attributes or {})["exception.type"])
        assert attributes(span)["cf_agents.outcome"] == outcome


async def test_a_span_that_is_not_sampled_costs_nothing_and_breaks_nothing() -> None:
    recorder = Recorder()
    off = TracerProvider(sampler=ALWAYS_OFF)
    async with open_studio() as studio, stream(studio, Tracing(off), Tracing(recorder.provider)) as spoken:
        write_in_pieces(spoken, TEXT)
        await collect(spoken)
    assert len(recorder.spans) == 1
