"""What a scrape shows of streams, in names that another project's dashboards know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cf_agents.errors import Busy, ConfigError
from cf_agents.links.base import Block
from cf_agents.metrics import Metrics
from cf_agents.stats import Delivered, Outcome, StreamStats, Written
from tests.test_observer import stream
from tests.test_stream import TEXT, collect, open_studio, write_in_pieces

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(registry: CollectorRegistry) -> Samples:
    """Values by name and labels, as a server would read them; `model_name` is left out."""
    found: Samples = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for name, labels, value, *_ in family.samples:
            others = tuple((key, of) for key, of in labels.items() if key != "model_name")
            found[name.removeprefix("cf_agents_"), others] = value
    return found


def spoken(outcome: Outcome = "ended", underrun_s: float = 0.0) -> StreamStats:
    """100 characters, first audio after 0.25 s; 1 s and 2 s of audio of which the second came half a second early, or late."""
    late_s = underrun_s or -0.5
    return StreamStats(
        model="small",
        outcome=outcome,
        audible_s=0.125,
        written=[Written(10.0, 60), Written(10.1, 40)],
        blocks=[Block(16, 10, 10.0, 10.2, 10.25), Block(16, 5, 10.3, 10.7, 10.8)],
        delivered=[Delivered(10.25, 1.0, 10.0), Delivered(11.25 + late_s, 2.0, 10.0)],
    )


def observed(*each: StreamStats) -> Samples:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for stats in each:
        metrics.opened(stats)()
    return scrape(registry)


def test_figures_of_a_stream() -> None:
    found = observed(spoken())
    for name, value in {
        "audio_ttfp_s_sum": 0.25,
        "audio_audible_ttfp_s_sum": 0.375,
        "audio_duration_s_sum": 3.0,
        "audio_rtf_sum": 0.25,
        "audio_lead_s_sum": 0.5,
        "audio_underrun_s_sum": 0.0,
        "steps_per_block_sum": 7.5,
        "audio_s_total": 3.0,
        "denoise_steps_total": 15.0,
        "generation_tokens_total": 32.0,
        "prompt_characters_total": 100.0,
        "num_streams_running": 0.0,
    }.items():
        assert found[name, ()] == pytest.approx(value), name
        if name.endswith("_sum"):
            assert found[name.replace("_sum", "_count"), ()] == 1.0, name
    assert found["streams_total", (("outcome", "ended"),)] == 1.0
    assert found["audio_continuity_ok_total", (("threshold_ms", "100"),)] == 1.0


def test_buckets_separate_what_matters() -> None:
    found = observed(spoken(), spoken(), spoken(underrun_s=0.0625), spoken(underrun_s=0.25))
    # Never dry; dry.
    assert found["audio_underrun_s_bucket", (("le", "0.0"),)] == 2.0
    assert found["audio_underrun_s_bucket", (("le", "0.1"),)] == 3.0
    assert found["audio_lead_s_bucket", (("le", "0.0"),)] == 2.0
    # A deficit is no negative lead: a histogram's sum would fall.
    assert found["audio_lead_s_sum", ()] == 1.0
    assert found["audio_continuity_ok_total", (("threshold_ms", "100"),)] == 3.0
    assert found["audio_rtf_bucket", (("le", "0.2"),)] == 0.0
    assert found["audio_rtf_bucket", (("le", "0.3"),)] == 4.0


def test_outcomes_and_open_streams() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    over = [metrics.opened(spoken(outcome)) for outcome in ("ended", "cancelled", "cancelled", "failed")]
    assert scrape(registry)["num_streams_running", ()] == 4.0
    for tell in over:
        tell()
    # No room: nothing was heard, so there are no figures of it.
    metrics.opened(StreamStats(model="small", outcome="busy", error=Busy("full", 1.0)))()
    found = scrape(registry)
    assert found["num_streams_running", ()] == 0.0
    counts = {labels[0][1]: value for (name, labels), value in found.items() if name == "streams_total"}
    assert counts == {"ended": 1.0, "cancelled": 2.0, "failed": 1.0, "busy": 1.0}
    for name in ("audio_ttfp_s", "audio_rtf", "audio_underrun_s", "audio_lead_s", "audio_duration_s", "steps_per_block"):
        assert found[f"{name}_count", ()] == 4.0, name


def test_models_are_told_apart() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for model in ("small", "large", "large"):
        metrics.opened(StreamStats(model=model, outcome="ended"))()
    value = registry.get_sample_value
    assert value("cf_agents_streams_total", {"model_name": "large", "outcome": "ended"}) == 2.0
    assert value("cf_agents_streams_total", {"model_name": "small", "outcome": "ended"}) == 1.0


def test_a_registry_has_them_once() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    with pytest.raises(ConfigError, match="give one Metrics to every TTS"):
        Metrics(registry)
    Metrics(CollectorRegistry())


@pytest.mark.anyio
async def test_a_stream_is_counted() -> None:
    registry = CollectorRegistry()
    async with open_studio() as studio, stream(studio, Metrics(registry)) as live:
        write_in_pieces(live, TEXT)
        assert scrape(registry)["num_streams_running", ()] == 1.0
        await collect(live)
        await live.aclose()
        found = scrape(registry)
    assert found["streams_total", (("outcome", "ended"),)] == 1.0
    assert found["prompt_characters_total", ()] == len(TEXT)
    assert found["audio_s_total", ()] == pytest.approx(live.stats.audio_s)
    assert found["audio_ttfp_s_sum", ()] == pytest.approx(live.stats.ttfa_s)


def test_the_page_lists_what_is_exported() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    exported = {family.name + "_total" * (family.type == "counter") for family in registry.collect()}
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text("utf-8")
    assert {line.split("`")[1] for line in page.splitlines() if line.startswith("| `cf_agents_")} == exported


@pytest.mark.parametrize(
    ("module", "made", "package"),
    [("metrics", "Metrics()", "prometheus_client"), ("tracing", "Tracing()", "opentelemetry")],
)
def test_without_the_package_it_imports_and_says_what_to_install(module: str, made: str, package: str) -> None:
    code = f"""
import sys
from cf_agents.{module} import {made[:-2]}
assert {package!r} not in sys.modules
sys.modules[{package!r}] = None
from cf_agents.errors import ConfigError
try:
    {made}
except ConfigError as error:
    assert "cf-agents[{module}]" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
