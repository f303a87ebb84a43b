"""Where a listener is in a stream's audio, from times alone.

Playback starts with the first piece, runs in real time, and waits where it runs dry. A caller who knows the true position
reports it. Knows no clock of its own (every call is given the time) and nothing of audio but its length.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Playback:
    """A position that moves with the wall clock between what was made and what was reported. Times in seconds."""

    made_s: float = 0.0
    """Length of the audio given to the listener so far."""
    _position_s: float = 0.0
    _at: float | None = None

    def add(self, seconds: float, now: float) -> None:
        """`seconds` of audio reach the listener at `now`. A listener who had run dry goes on from here."""
        if self._at is None or self.lead_s(now) <= 0.0:
            self._position_s, self._at = self.position_s(now), now
        self.made_s += seconds

    def report(self, position_s: float, now: float) -> None:
        """The listener is known to be `position_s` into the audio at `now`; from there the clock runs on."""
        self._position_s, self._at = min(max(position_s, 0.0), self.made_s), now

    def position_s(self, now: float) -> float:
        """Seconds of audio heard by `now`, never more than was made."""
        if self._at is None:
            return 0.0
        return min(self.made_s, self._position_s + max(0.0, now - self._at))

    def lead_s(self, now: float) -> float:
        """Seconds of audio made and not heard yet."""
        return self.made_s - self.position_s(now)

    def dry_at(self) -> float | None:
        """The time at which the listener runs, or ran, out of audio; None before the first piece."""
        if self._at is None:
            return None
        return self._at + self.made_s - self._position_s
