"""Prometheus metrics of streams, as an observer (`pip install 'cf-agents[metrics]'`). Knows nothing of how speech is made.

Names, units and the continuity threshold follow vLLM-Omni's audio metrics (`vllm_omni/metrics/definitions.py` there): seconds
end in `_s`, a time to first packet is `ttfp`, counters end in `_total`. `docs/metrics.md` says what each means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cf_agents.errors import ConfigError
from cf_agents.stats import StreamStats

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PREFIX = "cf_agents_"
CONTINUITY_THRESHOLD_MS = 100
"""A stream whose listener waited less than this in all sounded without a gap."""

FIRST_AUDIO_BUCKETS_S = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)
RTF_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0, 5.0)
"""Past 1 speech is made more slowly than it is heard."""
LEAD_BUCKETS_S = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0, 10.0)
"""The first holds the streams that ran dry."""
UNDERRUN_BUCKETS_S = (0.0, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""The first holds the streams that never ran dry."""
DURATION_BUCKETS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
STEPS_BUCKETS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 16.0)


class Metrics:
    """Counts the streams of every `TTS` it is given to, in a registry of yours.

        registry = CollectorRegistry()
        async with TTS.load(observers=[Metrics(registry)]) as tts: ...

    A stream is counted once, when it is over; while it speaks this costs nothing.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """registry: None is prometheus_client's own.

        Raises `ConfigError` where the package is missing, or the registry has these metrics already.
        """
        try:
            import prometheus_client
        except ImportError as error:
            raise ConfigError(
                "Metrics need the package prometheus-client: pip install 'cf-agents[metrics]', or leave this observer out."
            ) from error
        registry = prometheus_client.REGISTRY if registry is None else registry

        def counter(name: str, meaning: str, *labels: str) -> prometheus_client.Counter:
            return prometheus_client.Counter(PREFIX + name, meaning, ("model_name", *labels), registry=registry)

        def histogram(name: str, meaning: str, buckets: Sequence[float]) -> prometheus_client.Histogram:
            return prometheus_client.Histogram(PREFIX + name, meaning, ("model_name",), registry=registry, buckets=buckets)

        try:
            self._running = prometheus_client.Gauge(
                f"{PREFIX}num_streams_running", "Streams that are open.", ("model_name",), registry=registry
            )
        except ValueError as error:
            raise ConfigError(
                "This registry has the metrics of cf_agents already: give one Metrics to every TTS, or another registry."
            ) from error
        self._streams = counter("streams", "Streams that are over, by what became of them.", "outcome")
        self._first_audio = histogram("audio_ttfp_s", "First text to first audio, in seconds.", FIRST_AUDIO_BUCKETS_S)
        self._audible = histogram(
            "audio_audible_ttfp_s", "First text to the first sample over -60 dBFS, in seconds.", FIRST_AUDIO_BUCKETS_S
        )
        self._rtf = histogram("audio_rtf", "Time in work over seconds of audio.", RTF_BUCKETS)
        self._duration = histogram("audio_duration_s", "Audio of a stream, in seconds.", DURATION_BUCKETS_S)
        self._lead = histogram("audio_lead_s", "Least time by which audio came early, in seconds.", LEAD_BUCKETS_S)
        self._underrun = histogram(
            "audio_underrun_s", "How long the listener waited in the middle of speech, in seconds.", UNDERRUN_BUCKETS_S
        )
        self._continuous = counter(
            "audio_continuity_ok", "Streams whose listener waited less than the threshold in all.", "threshold_ms"
        )
        self._steps_per_block = histogram("steps_per_block", "Denoising steps of a block, mean of a stream.", STEPS_BUCKETS)
        self._audio = counter("audio_s", "Seconds of audio made.")
        self._steps = counter("denoise_steps", "Denoising steps taken.")
        self._tokens = counter("generation_tokens", "Speech tokens made.")
        self._characters = counter("prompt_characters", "Characters written.")

    def opened(self, stats: StreamStats) -> Callable[[], None]:
        """See `StreamObserver`."""
        self._running.labels(stats.model).inc()
        return partial(self._over, stats)

    def _over(self, stats: StreamStats) -> None:
        model = stats.model
        self._running.labels(model).dec()
        self._streams.labels(model, stats.outcome).inc()
        self._steps.labels(model).inc(stats.steps)
        self._tokens.labels(model).inc(stats.tokens)
        self._characters.labels(model).inc(stats.characters)
        for histogram, value in (
            (self._first_audio, stats.ttfa_s),
            (self._audible, stats.audible_ttfa_s),
            (self._rtf, stats.rtf),
            (self._lead, None if stats.lead_s is None else max(0.0, stats.lead_s)),
            (self._steps_per_block, stats.steps_per_block),
        ):
            if value is not None:
                histogram.labels(model).observe(value)
        if stats.delivered:
            self._audio.labels(model).inc(stats.audio_s)
            self._duration.labels(model).observe(stats.audio_s)
            self._underrun.labels(model).observe(stats.underrun_s)
            # Without a stream that was continuous the counter is 0 and not missing.
            continuous = self._continuous.labels(model, CONTINUITY_THRESHOLD_MS)
            continuous.inc(1000.0 * stats.underrun_s < CONTINUITY_THRESHOLD_MS)
