"""OpenTelemetry spans of streams, as an observer (`pip install 'cf-agents[tracing]'`). Knows nothing of how speech is made.

A span is the child of whatever is current where the stream was asked for. It holds figures and times, never text.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import cf_agents
from cf_agents.errors import ConfigError
from cf_agents.stats import StreamStats

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

SPAN = "cf_agents.stream"


class Tracing:
    """One span for each stream of every `TTS` it is given to, from `TTS.stream` until the stream is over.

        async with TTS.load(observers=[Tracing()]) as tts: ...

    Its events are first_text, first_audio, cancelled and, if asked for, each block. They are written when the stream is over,
    with the times at which they happened; while it speaks this costs nothing.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None, *, blocks: bool = False) -> None:
        """tracer_provider: None is the one that OpenTelemetry was set up with. blocks: an event for each diffusion block too.

        Raises `ConfigError` where the package is missing.
        """
        try:
            from opentelemetry import trace
        except ImportError as error:
            raise ConfigError(
                "Tracing needs the package opentelemetry-api: pip install 'cf-agents[tracing]', or leave this observer out."
            ) from error
        self._failed = trace.StatusCode.ERROR
        self._tracer = trace.get_tracer("cf_agents", cf_agents.__version__, tracer_provider)
        self._blocks = blocks

    def opened(self, stats: StreamStats) -> Callable[[], None]:
        """See `StreamObserver`."""
        # A stream counts on a clock that never jumps, a span by the wall clock.
        began_ns = time.time_ns()
        span = self._tracer.start_span(SPAN, start_time=began_ns, attributes=_asked(stats))
        return partial(self._over, stats, span, began_ns - _ns(stats.opened_s))

    def _over(self, stats: StreamStats, span: Span, offset_ns: int) -> None:
        closed_ns = offset_ns + _ns(stats.opened_s if stats.closed_s is None else stats.closed_s)
        if span.is_recording():
            if stats.written:
                span.add_event("first_text", timestamp=offset_ns + _ns(stats.written[0].at_s))
            if stats.delivered:
                span.add_event("first_audio", timestamp=offset_ns + _ns(stats.delivered[0].at_s))
            for block in stats.blocks if self._blocks else ():
                attributes = {"cf_agents.steps": block.steps, "cf_agents.tokens": block.tokens}
                span.add_event("block", attributes, offset_ns + _ns(block.sent_s))
            if stats.cancelled:
                heard = {} if stats.heard_s is None else {"cf_agents.heard_s": stats.heard_s}
                span.add_event("cancelled", heard, closed_ns)
            if stats.error is not None:
                span.record_exception(stats.error, timestamp=closed_ns)
                span.set_status(self._failed, str(stats.error))
            span.set_attributes(_came(stats))
        span.end(closed_ns)


def _asked(stats: StreamStats) -> dict[str, str | int]:
    return {
        "gen_ai.request.model": stats.model,
        "cf_agents.voice": stats.voice,
        "cf_agents.sample_rate": stats.sample_rate,
        "cf_agents.encoding": stats.encoding,
    }


def _came(stats: StreamStats) -> dict[str, str | int | float]:
    figures = {
        "outcome": stats.outcome,
        "segments": stats.segments,
        "characters": stats.characters,
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
    return {f"cf_agents.{name}": value for name, value in figures.items() if value is not None}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
