"""A path through a text that wavers and errs, like attention, gives times that do not."""

from __future__ import annotations

import random

import pytest

from cf_agents.alignment import Alignment, median_of_three, rising


def heard(places: list[float], size: int = 1000) -> Alignment:
    alignment = Alignment()
    for at in range(0, len(places), size):
        alignment.hear(places[at : at + size])
    return alignment


def test_a_place_is_spoken_where_the_path_comes_by() -> None:
    alignment = heard([0.0, 1.0, 2.0, 4.0, 4.0, 4.0, 5.0])
    assert alignment.until_s == pytest.approx(0.28)
    assert alignment.when(0.0) == 0.0
    assert alignment.when(1.0) == pytest.approx(0.06), "a token's place is that of its middle"
    assert alignment.when(3.0) == pytest.approx(0.12)
    assert alignment.when(4.5) == pytest.approx(0.24)
    assert alignment.when(5.1) is None


def test_nothing_is_known_before_the_first_token() -> None:
    assert Alignment().when(0.0) is None
    assert Alignment().until_s == 0.0


@pytest.mark.parametrize("far", [-40.0, 40.0])
def test_one_place_that_is_far_off_moves_nothing(far: float) -> None:
    straight = [0.5 * n for n in range(60)]
    wrong = [place + (far if n == 30 else 0.0) for n, place in enumerate(straight)]
    for character in (5.0, 14.0, 16.0, 25.0):
        assert heard(wrong).when(character) == pytest.approx(heard(straight).when(character), abs=0.041)


def test_wavering_places_make_times_that_rise_and_stay_near() -> None:
    source = random.Random(3)
    alignment = heard([0.4 * n + source.gauss(0.0, 1.2) for n in range(200)], 16)
    times = [alignment.when(character) for character in range(2, 78)]
    assert all(time is not None for time in times)
    known = [time for time in times if time is not None]
    assert known == sorted(known)
    late = [time - 0.04 * (character / 0.4 + 0.5) for character, time in zip(range(2, 78), known, strict=True)]
    assert max(map(abs, late)) < 0.2


def test_pieces_make_the_path_of_the_whole() -> None:
    source = random.Random(5)
    places = [0.3 * n + source.gauss(0.0, 2.0) for n in range(100)]
    assert [heard(places, 7).when(n) for n in range(30)] == [heard(places).when(n) for n in range(30)]


def test_the_nearest_that_never_falls() -> None:
    assert rising([1.0, 3.0, 2.0, 2.5, 4.0]) == [1.0, 2.5, 2.5, 2.5, 4.0]
    assert rising([3.0, 2.0, 1.0]) == [2.0, 2.0, 2.0]
    assert rising([]) == []


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([], []), ([1.0], [1.0]), ([2.0, 1.0], [2.0, 1.0]), ([1.0, 9.0, 2.0, 3.0], [1.0, 2.0, 3.0, 3.0])],
)
def test_a_median_over_three(values: list[float], wanted: list[float]) -> None:
    assert median_of_three(values) == wanted
