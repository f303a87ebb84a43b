"""The beginning of the line: text as it was written, until it is cut into what is spoken next. Knows nothing of audio."""

from __future__ import annotations

from collections import deque

from cf_agents.text.segment import Segmenter, SegmentPolicy

SLICE_CHARS = 32
"""Text is judged in slices this long, so that the lead that a segment brings counts for what follows it in the same write."""
_A_LITTLE_S = 0.005
"""Timers are not exact, and a lead that is just not low enough would wait again."""


class Inlet:
    """One stream's text. What was not cut yet waits in slices, each judged with the lead of its time."""

    def __init__(self, policy: SegmentPolicy | None) -> None:
        self.cut = 0
        """Characters of what was written that have been cut."""
        self._segmenter = Segmenter(policy)
        self._written: list[str] = []
        self._waiting: deque[str | None] = deque()
        """Slices of text, and None where it is flushed."""
        self._blank = ""

    @property
    def written(self) -> str:
        """All of it."""
        return "".join(self._written)

    @property
    def policy(self) -> SegmentPolicy:
        """How it is cut."""
        return self._segmenter.policy

    @property
    def untouched(self) -> bool:
        """Whether nothing was ever written."""
        return not self._written

    @property
    def waiting(self) -> bool:
        """Whether there is something to judge."""
        return bool(self._waiting)

    def write(self, text: str) -> None:
        """Take in a text of any size, not empty."""
        self._written.append(text)
        self._waiting += (text[at : at + SLICE_CHARS] for at in range(0, len(text), SLICE_CHARS))

    def flush(self) -> None:
        """All that has come is to be cut, wherever it ends."""
        self._waiting.append(None)

    def judge_again(self) -> None:
        """The lead has changed: what was held because there was time may be wanted now."""
        if not self._waiting:
            self._waiting.append("")

    def next(self, lead_s: float) -> list[str]:
        """Judge what has waited longest, and give the segments that it ends. White space on its own goes with what follows."""
        text = self._waiting.popleft()
        segments = []
        for segment in self._segmenter.flush() if text is None else self._segmenter.push(text, lead_s):
            whole, self._blank = self._blank + segment, ""
            if whole.strip():
                segments.append(whole)
                self.cut += len(whole)
            else:
                self._blank = whole
        return segments

    def held_for_s(self, lead_s: float) -> float | None:
        """Seconds until text is cut earlier than now; None where none is held, or it is cut as early as can be."""
        if self._waiting or not self._segmenter.pending.strip():
            return None
        below = [lead_s - bound for bound in (self.policy.high_lead_s, self.policy.low_lead_s) if lead_s >= bound]
        return below[0] + _A_LITTLE_S if below else None

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
