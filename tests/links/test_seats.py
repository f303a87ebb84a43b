"""Who is let in, who is told to come back, and when."""

from __future__ import annotations

import pytest

from cf_agents.errors import Busy
from cf_agents.links.base import Audio, Block, Closed
from cf_agents.links.seats import HINT_S, IDLE_S, Seats
from cf_agents.timing import speaking_time_s
from tests.fakes import SAMPLE_RATE, FakeClock

TEXT = "one two three four five six seven eight nine ten"
TEXT_S = sum(speaking_time_s(word) for word in TEXT.split())


def audio(seconds: float) -> Audio:
    return Audio(0, bytes(2 * round(seconds * SAMPLE_RATE)), False, Block(16, 8, 0.0, 0.0, 0.0))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def hint(seats: Seats) -> float:
    with pytest.raises(Busy, match=r"All \d streams") as caught:
        seats.take()
    return caught.value.retry_after_s


def test_a_place_is_free_once_when_it_is_left(clock: FakeClock) -> None:
    seats = Seats(2, SAMPLE_RATE, clock)
    first, second = seats.take(), seats.take()
    hint(seats)
    first.leave()
    first.leave()
    first.heed(Closed())
    seats.take()
    hint(seats)
    second.heed(Closed())
    seats.take()


def test_the_hint_is_when_the_first_of_them_is_likely_to_be_done(clock: FakeClock) -> None:
    seats = Seats(2, SAMPLE_RATE, clock)
    short, long = seats.take(), seats.take()
    assert hint(seats) == IDLE_S
    short.expect(TEXT, clock())
    long.expect(TEXT * 8, clock())
    assert hint(seats) == pytest.approx(TEXT_S)
    # Half of it was made at four times real time.
    clock.now += TEXT_S / 8
    short.heed(audio(TEXT_S / 2))
    assert hint(seats) == pytest.approx(TEXT_S / 8, rel=0.01)
    short.heed(audio(TEXT_S))
    assert hint(seats) == IDLE_S
    short.expect(TEXT, clock())
    assert hint(seats) == pytest.approx(TEXT_S * (TEXT_S / 8) / (1.5 * TEXT_S), rel=0.01)


def test_the_hint_has_bounds(clock: FakeClock) -> None:
    seats = Seats(1, SAMPLE_RATE, clock)
    seat = seats.take()
    seat.expect(TEXT * 100, clock())
    assert hint(seats) == HINT_S[1]
    clock.now += 1e-6
    seat.heed(audio(50 * TEXT_S))
    assert hint(seats) == HINT_S[0]
