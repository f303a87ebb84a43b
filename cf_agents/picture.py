"""A conversation's streams as a picture: text in, blocks, audio out, what was heard, and where the listener broke in.

Draws with matplotlib, which is imported when a picture is asked for. Knows nothing of models.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from cf_agents.errors import ConfigError
from cf_agents.stats import StreamStats, playback_spans

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = ("text in", "blocks", "audio out", "heard")
COLOURS = ("#4477aa", "#aa3377", "#ccbb44", "#228833")
CUT_COLOUR = "#cc3311"
BAR = 0.6
"""Height of a row's bars, the rows being 1 apart."""


def draw_picture(streams: Sequence[StreamStats], *, interrupted_s: float | None = None, told: Sequence[str] = ()) -> Figure:
    """One row each for the text as it came, blocks as they were decoded, chunks as they were ready, and what was heard of them.

    interrupted_s: `time.monotonic()` of an interruption; what would have played later of streams begun before is drawn hollow.
    told: lines under the picture, such as the text that was heard. Time 0 is the first text.

    Raises `ConfigError` without matplotlib, or when nothing was written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("A picture needs matplotlib: pip install matplotlib.") from error
    written = [each.at_s for stats in streams for each in stats.written]
    if not written:
        raise ConfigError("There is nothing to draw: give streams that were written to.")
    zero = min(written)
    lines = [line for text in told for line in textwrap.wrap(text, 130)]
    figure = Figure(figsize=(12, 3.2 + 0.22 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    for stats in streams:
        _draw_stream(axes, stats, zero, interrupted_s)
    if interrupted_s is not None:
        axes.axvline(interrupted_s - zero, color=CUT_COLOUR, linewidth=1.5)
        axes.annotate(
            f"interruption, {interrupted_s - zero:.2f} s",
            (interrupted_s - zero, -0.5),
            xytext=(4, 2),
            textcoords="offset points",
            color=CUT_COLOUR,
        )
    axes.set_yticks(range(len(ROWS)), ROWS)
    axes.set_ylim(len(ROWS) - 0.4, -0.9)
    axes.set_xlim(left=0.0)
    axes.set_xlabel("\n".join(["seconds since the first text", *lines]), loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def save_picture(
    path: str | PathLike[str],
    streams: Sequence[StreamStats],
    *,
    interrupted_s: float | None = None,
    told: Sequence[str] = (),
) -> None:
    """`draw_picture` into a file; its suffix says the format. Raises as it does."""
    draw_picture(streams, interrupted_s=interrupted_s, told=told).savefig(path, dpi=120)


def _draw_stream(axes: Axes, stats: StreamStats, zero: float, interrupted_s: float | None) -> None:
    low, high = -BAR / 2, BAR / 2
    text, blocks, audio, heard = COLOURS
    axes.vlines([each.at_s - zero for each in stats.written], low, high, color=text, linewidth=1)
    spans = [(block.began_s - zero, block.decoded_s - block.began_s) for block in stats.blocks]
    for shade, some in ((0.9, spans[::2]), (0.5, spans[1::2])):
        axes.broken_barh(some, (1 + low, BAR), color=blocks, alpha=shade)
    axes.vlines([each.at_s - zero for each in stats.delivered if each.seconds], 2 + low, 2 + high, color=audio, linewidth=2)
    began_before = bool(stats.written) and interrupted_s is not None and stats.written[0].at_s < interrupted_s
    for start_s, end_s in playback_spans(stats.delivered):
        cut_s = min(max(start_s, interrupted_s), end_s) if began_before and interrupted_s is not None else end_s
        axes.broken_barh([(start_s - zero, cut_s - start_s)], (3 + low, BAR), color=heard)
        axes.broken_barh([(cut_s - zero, end_s - cut_s)], (3 + low, BAR), facecolor="none", edgecolor=heard, linestyle=":")
