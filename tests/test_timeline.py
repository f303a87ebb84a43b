"""The drawing of a stream: every row as wide as asked, things where they happened."""

from __future__ import annotations

import pytest

from cf_agents.links.base import Block
from cf_agents.stats import Delivered, StreamStats, Written, playback_spans
from cf_agents.timeline import EMPTY, PLAYING, SHADED, SOLID, TICK, axis, draw


def stats() -> StreamStats:
    made = StreamStats(segments=1)
    made.written = [Written(100.0, 5), Written(101.0, 5)]
    made.blocks = [Block(16, 10, 100.0, 101.0, 101.0), Block(16, 10, 102.0, 104.0, 104.0)]
    made.delivered = [Delivered(101.0, 1.0), Delivered(104.0, 6.0)]
    return made


def test_rows_show_what_happened_when() -> None:
    rows = {row.label: row.cells for row in draw(stats(), 20)}
    # 10 s in 20 columns: two columns a second.
    assert {len(cells) for cells in rows.values()} == {20}
    assert [i for i, cell in enumerate(rows["text"]) if cell == TICK] == [0, 2]
    assert [i for i, cell in enumerate(rows["audio"]) if cell == TICK] == [2, 8]
    assert rows["decode"] == SOLID * 3 + EMPTY + SHADED * 5 + EMPTY * 11
    assert rows["heard"] == EMPTY * 2 + PLAYING * 3 + EMPTY * 3 + PLAYING * 12
    assert rows[""].split() == ["0s", "5s"]


def test_playback_waits_for_what_comes_late() -> None:
    assert playback_spans(stats().delivered) == [(101.0, 102.0), (104.0, 110.0)]
    assert playback_spans([Delivered(0.0, 2.0), Delivered(1.0, 2.0)]) == [(0.0, 4.0)]


@pytest.mark.parametrize("seconds", [0.05, 1.0, 9.9, 61.0, 5000.0])
@pytest.mark.parametrize("width", [20, 79, 200])
def test_the_axis_fits(seconds: float, width: int) -> None:
    drawn = axis(seconds, width)
    assert len(drawn) == width
    assert drawn.startswith("0s ")


def test_nothing_is_drawn_of_nothing() -> None:
    assert draw(StreamStats(), 40) == []


def test_figures() -> None:
    made = stats()
    assert made.ttfa_s == 1.0
    assert made.audio_s == 7.0
    assert made.rtf == pytest.approx(3.0 / 7.0)
    assert (made.steps, made.tokens) == (20, 32)
    empty = StreamStats()
    assert (empty.ttfa_s, empty.rtf, empty.audio_s) == (None, None, 0.0)


def test_time_that_two_blocks_share_counts_once() -> None:
    """The vocoder works on one while the next is decoded."""
    made = StreamStats(
        blocks=[Block(16, 8, 1.0, 2.0, 3.0), Block(16, 8, 2.0, 3.5, 4.0)], delivered=[Delivered(3.0, 1.0), Delivered(4.0, 1.0)]
    )
    assert made.rtf == pytest.approx(3.0 / 2.0)
