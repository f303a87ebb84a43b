"""The picture shows what was counted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cf_agents.errors import ConfigError
from cf_agents.links.base import Block
from cf_agents.picture import COLOURS, ROWS, draw_picture, save_picture
from cf_agents.stats import Delivered, StreamStats, Written


def stream(at_s: float) -> StreamStats:
    stats = StreamStats()
    stats.written = [Written(at_s + 0.1 * i, 5) for i in range(3)]
    stats.blocks = [Block(16, 4, at_s + 0.3, at_s + 0.4, at_s + 0.5), Block(16, 4, at_s + 0.5, at_s + 0.6, at_s + 0.7)]
    stats.delivered = [Delivered(at_s + 0.5, 0.64), Delivered(at_s + 0.7, 0.64)]
    return stats


def test_what_is_drawn_is_what_was_counted() -> None:
    axes = draw_picture([stream(100.0), stream(103.0)], interrupted_s=101.0, told=["heard: One two", "x" * 300]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ROWS)
    bars = [path.get_extents() for each in axes.collections for path in each.get_paths()]
    heard = sorted((box.x0, box.x1) for box in bars if round((box.y0 + box.y1) / 2) == 3 and box.width > 1e-9)
    # The first stream is heard from 0.5 s to the interruption at 1 s, the rest of it is hollow; the second is heard whole.
    assert heard == [pytest.approx(each) for each in [(0.5, 1.0), (1.0, 1.78), (3.5, 4.78)]]
    blocks = sorted((box.x0, box.x1) for box in bars if round((box.y0 + box.y1) / 2) == 1)
    assert blocks == [pytest.approx(each) for each in [(0.3, 0.4), (0.5, 0.6), (3.3, 3.4), (3.5, 3.6)]]
    ticks = sorted(box.x0 for box in bars if round((box.y0 + box.y1) / 2) == 0)
    assert ticks == pytest.approx([0.0, 0.1, 0.2, 3.0, 3.1, 3.2])
    assert "heard: One two" in axes.get_xlabel()
    assert len(COLOURS) == len(ROWS)


def test_a_picture_is_saved(tmp_path: Path) -> None:
    save_picture(tmp_path / "timeline.png", [stream(100.0)])
    assert (tmp_path / "timeline.png").read_bytes()[:4] == b"\x89PNG"


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ConfigError, match="nothing to draw"):
        draw_picture([StreamStats()])


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="pip install matplotlib"):
        draw_picture([stream(0.0)])
