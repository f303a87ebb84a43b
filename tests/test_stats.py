"""Figures of a stream, from times alone: what the listener waited for, and what counts as an underrun."""

from __future__ import annotations

import pytest

from cf_agents.links.base import Block
from cf_agents.stats import Delivered, StreamStats, Written


def listened(*chunks: tuple[float, float, float]) -> StreamStats:
    """Chunks of (when it came, how long, when its text was asked for); text came at 10."""
    return StreamStats(written=[Written(10.0, 5)], delivered=[Delivered(*chunk) for chunk in chunks])


def test_the_lead_is_the_least_and_below_nothing_where_the_listener_waited() -> None:
    assert listened().lead_s is None
    assert listened((11.0, 1.0, 10.0)).lead_s is None
    early = listened((11.0, 1.0, 10.0), (11.25, 1.0, 10.0), (12.875, 1.0, 10.0))
    assert (early.lead_s, early.underrun_s, early.underruns) == (0.125, 0.0, 0)
    # Dry at 12 and, having waited until 12.5, at 13.5.
    late = listened((11.0, 1.0, 10.0), (12.5, 1.0, 10.0), (13.75, 1.0, 10.0), (14.0, 1.0, 10.0))
    assert (late.lead_s, late.underrun_s, late.underruns) == (-0.5, 0.75, 2)


def test_waiting_for_text_is_no_underrun() -> None:
    paused = listened((11.0, 1.0, 10.0), (20.5, 1.0, 20.0), (21.0, 1.0, 20.0))
    assert (paused.lead_s, paused.underrun_s, paused.underruns) == (0.5, 0.0, 0)
    # Asked for before the listener ran dry, come after.
    owed = listened((11.0, 1.0, 10.0), (12.25, 1.0, 11.75))
    assert (owed.lead_s, owed.underrun_s, owed.underruns) == (-0.25, 0.25, 1)


def test_a_chunk_without_sound_fills_no_gap() -> None:
    stats = listened((11.0, 1.0, 10.0), (12.25, 0.0, 10.0), (12.5, 1.0, 10.0))
    assert (stats.underrun_s, stats.underruns) == (0.5, 1)


@pytest.mark.parametrize(("place_s", "wanted_s"), [(0.0, 1.0), (0.25, 1.25), (1.25, 2.75), (None, None), (9.0, None)])
def test_audible_is_when_the_first_loud_sample_is_heard(place_s: float | None, wanted_s: float | None) -> None:
    """The listener runs dry at 12 and goes on at 12.5."""
    stats = listened((11.0, 1.0, 10.0), (12.5, 1.0, 10.0))
    stats.audible_s = place_s
    assert stats.audible_ttfa_s == wanted_s


def test_steps_and_characters() -> None:
    stats = listened()
    assert (stats.steps_per_block, stats.characters, stats.cancelled) == (None, 5, False)
    stats.blocks = [Block(16, 10, 0.0, 0.0, 0.0), Block(16, 5, 0.0, 0.0, 0.0)]
    stats.outcome = "cancelled"
    assert (stats.steps_per_block, stats.cancelled) == (7.5, True)
