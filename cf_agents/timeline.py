"""A stream's life drawn in rows of text: what came in, what was made when, what was heard. Knows nothing of terminals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cf_agents.stats import StreamStats, playback_spans

EMPTY = "·"
TICK = "╿"
SOLID, SHADED = "█", "▓"
PLAYING = "━"


@dataclass(frozen=True)
class Row:
    """label, and one character for each column."""

    label: str
    cells: str


def draw(stats: StreamStats, width: int) -> list[Row]:
    """Rows of `width` columns: text as it came, blocks as they were decoded (alternately shaded), chunks as they were ready,
    playback as a listener in real time hears it (gaps where audio came too late), and the axis in seconds.

    Time 0 is the first text. Empty when nothing was written or nothing was made.
    """
    if not stats.written or not stats.delivered:
        return []
    zero = stats.written[0].at_s
    playing = playback_spans(stats.delivered)
    end = max(playing[-1][1], stats.blocks[-1].sent_s if stats.blocks else zero) - zero
    per_second = width / max(end, 1e-9)

    def column(at_s: float) -> int:
        return min(width - 1, max(0, int((at_s - zero) * per_second)))

    return [
        Row("text", _ticks((column(each.at_s) for each in stats.written), width)),
        Row("decode", _spans([(column(each.began_s), column(each.decoded_s)) for each in stats.blocks], width)),
        Row("audio", _ticks((column(each.at_s) for each in stats.delivered), width)),
        Row("heard", _fill([(column(start), column(stop)) for start, stop in playing], PLAYING, width)),
        Row("", axis(end, width)),
    ]


def axis(seconds: float, width: int) -> str:
    """A scale from 0 to `seconds` with a round number of them between its marks."""
    step = next(
        (each for each in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300) if each / seconds * width >= 8), max(seconds, 600.0)
    )
    cells = [" "] * (width + 8)
    for i in range(int(seconds / step) + 1):
        mark = f"{i * step:g}s"
        at = int(i * step / seconds * width)
        if at + len(mark) <= width:
            cells[at : at + len(mark)] = mark
    return "".join(cells[:width])


def _ticks(columns: Iterable[int], width: int) -> str:
    marked = set(columns)
    return "".join(TICK if i in marked else EMPTY for i in range(width))


def _fill(spans: Iterable[tuple[int, int]], mark: str, width: int) -> str:
    cells = [EMPTY] * width
    for start, stop in spans:
        cells[start : stop + 1] = mark * (stop + 1 - start)
    return "".join(cells)


def _spans(spans: Sequence[tuple[int, int]], width: int) -> str:
    cells = [EMPTY] * width
    for n, (start, stop) in enumerate(spans):
        cells[start : stop + 1] = (SHADED if n % 2 else SOLID) * (stop + 1 - start)
    return "".join(cells)
