"""Where a listener is: real time, never past what was made, waiting where it runs dry."""

from __future__ import annotations

import pytest

from cf_agents.playback import Playback


def test_playback_begins_with_the_first_piece_and_keeps_real_time() -> None:
    playback = Playback()
    assert (playback.position_s(5.0), playback.lead_s(5.0), playback.dry_at()) == (0.0, 0.0, None)
    playback.add(1.0, now=10.0)
    playback.add(0.5, now=10.2)
    assert playback.position_s(10.4) == pytest.approx(0.4)
    assert playback.lead_s(10.4) == pytest.approx(1.1)
    assert playback.dry_at() == pytest.approx(11.5)


def test_a_listener_who_ran_dry_goes_on_from_there() -> None:
    playback = Playback()
    playback.add(1.0, now=10.0)
    assert playback.position_s(20.0) == 1.0
    playback.add(1.0, now=20.0)
    assert playback.position_s(20.5) == pytest.approx(1.5)
    assert playback.dry_at() == pytest.approx(21.0)


def test_a_report_is_believed_and_runs_on() -> None:
    playback = Playback()
    playback.add(2.0, now=10.0)
    playback.report(0.2, now=11.0)
    assert playback.position_s(11.5) == pytest.approx(0.7)
    playback.report(99.0, now=11.5)
    assert playback.position_s(11.5) == 2.0
    playback.report(-1.0, now=11.6)
    assert playback.position_s(11.6) == 0.0
