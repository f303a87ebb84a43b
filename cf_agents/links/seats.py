"""How many streams may be open at once, and when the next of them is likely to end. Knows nothing of models or links."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cf_agents.errors import Busy
from cf_agents.links.base import Audio, Closed, Event
from cf_agents.timing import speaking_time_s

IDLE_S = 1.0
"""A stream that has nothing to say may end at any time, or never: whoever waits for it looks again after so long."""
HINT_S = (0.05, 30.0)


class Seat:
    """What one open stream takes up, and how much of its speech is still to be made. Any thread may call."""

    def __init__(self, house: Seats, sample_rate: int) -> None:
        self._house = house
        self._sample_rate = sample_rate
        self._expected_s = 0.0
        self._made_s = 0.0
        self._began: float | None = None

    def expect(self, text: str, now: float) -> None:
        """A segment in spoken form was submitted."""
        if self._began is None:
            self._began = now
        self._expected_s = max(self._expected_s, self._made_s) + sum(speaking_time_s(word) for word in text.split())

    def heed(self, event: Event) -> None:
        """An event of the stream came back. After `Closed` the seat is free."""
        match event:
            case Audio():
                self._made_s += len(event.pcm) / (2 * self._sample_rate)
            case Closed():
                self.leave()

    def leave(self) -> None:
        """Make room for another. Leaving twice is fine."""
        self._house.leave(self)

    def over_in_s(self, now: float) -> float:
        """Seconds until what was submitted is made, at the pace so far; `IDLE_S` where nothing is under way."""
        left_s = self._expected_s - self._made_s
        if self._began is None or left_s <= 0.0:
            return IDLE_S
        return left_s * (now - self._began) / self._made_s if self._made_s else left_s


class Seats:
    """So many streams at once and no more. Any thread may call."""

    def __init__(self, most: int, sample_rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        assert most >= 1
        self.most = most
        self._sample_rate = sample_rate
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: set[Seat] = set()

    def take(self) -> Seat:
        """Let one more in. Raises `Busy` when all seats are taken, with the time after which to ask again."""
        with self._lock:
            if len(self._taken) < self.most:
                seat = Seat(self, self._sample_rate)
                self._taken.add(seat)
                return seat
            now = self._clock()
            soonest_s = min(seat.over_in_s(now) for seat in self._taken)
        least_s, longest_s = HINT_S
        hint_s = min(max(soonest_s, least_s), longest_s)
        raise Busy(
            f"All {self.most} streams are in use. Try again in {hint_s:.1f} s, close one, or load with a larger max_streams.",
            hint_s,
        )

    def leave(self, seat: Seat) -> None:
        """See `Seat.leave`."""
        with self._lock:
            self._taken.discard(seat)
