"""A word that no token is on was left out; one that is still to come was not."""

from __future__ import annotations

import pytest

from cf_agents.coverage import PAUSE, Coverage, Gaps

WORDS = ((1, 5), (6, 8), (9, 14))
FIVE_AM_ABOUT = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 13.0]
FIVE_ABOUT = [place for place in FIVE_AM_ABOUT if not 5.5 <= place < 7.5]


class Speaking:
    """An utterance whose tokens are never the same twice."""

    def __init__(self, coverage: Coverage) -> None:
        self.coverage = coverage

    def gaps(self, places: list[float], *, ended: bool) -> Gaps:
        return self.coverage.gaps(range(len(places)), places, ended=ended)


def heard(*blocks: list[float]) -> Speaking:
    coverage = Coverage(WORDS)
    for block in blocks:
        coverage.keep(range(len(block)), block)
    return Speaking(coverage)


def test_a_word_between_two_tokens_is_left_out() -> None:
    assert heard().gaps(FIVE_AM_ABOUT, ended=True) == (0, 0)
    assert heard().gaps(FIVE_ABOUT, ended=True) == heard().gaps(FIVE_ABOUT, ended=False) == (1, 2)
    assert heard().gaps([2.0, 3.0, 12.0, 13.0], ended=True) == (1, 2)


def test_a_word_with_one_token_is_all_but_left_out() -> None:
    assert heard().gaps([1.0, 2.0, 7.0, 12.0], ended=True) == (0, 2)
    assert Speaking(Coverage([(1, 2), (3, 5)])).gaps([1.0, 3.0], ended=True) == (0, 1), "a word of one id takes but one"


@pytest.mark.parametrize("cut", range(1, len(FIVE_ABOUT)))
def test_cuts_into_blocks_make_no_difference(cut: int) -> None:
    """Unless the block ends on the jump itself, and nobody knows yet whether it is one."""
    for places, wanted in ((FIVE_AM_ABOUT, (0, 0)), (FIVE_ABOUT, (1, 2))):
        parts = places[:cut], places[cut:]
        found = [heard().gaps(parts[0], ended=False), heard(parts[0]).gaps(parts[1], ended=True)]
        assert tuple(map(sum, zip(*found, strict=True))) == wanted


def test_a_word_left_out_is_told_once() -> None:
    assert heard(FIVE_ABOUT).gaps([13.0, 13.0], ended=True) == (0, 0)
    assert heard(FIVE_ABOUT, [1.0, 1.0, 1.0]).gaps([13.0, 13.0], ended=True) == (0, 0), "nor again after a look back"


def test_words_that_are_still_to_come_are_left_out_only_where_nothing_comes() -> None:
    assert heard().gaps([1.0, 2.0, 3.0], ended=False) == (0, 0)
    assert heard().gaps([1.0, 2.0, 3.0], ended=True) == (2, 4)
    assert heard().gaps([], ended=True) == (3, 6)
    assert heard().gaps([], ended=False) == (0, 0)


def test_one_token_that_looks_ahead_passes_over_nothing() -> None:
    assert heard().gaps([1.0, 2.0, 3.0, 4.0, 13.9], ended=False) == (0, 0)
    assert heard([1.0, 2.0, 3.0, 13.9]).gaps([4.0, 6.0, 7.0, 8.0], ended=False) == (0, 0)


def test_a_place_is_on_the_id_that_it_is_nearest_to() -> None:
    assert Speaking(Coverage([(3, 4)])).gaps([2.5, 5.0, 5.0, 5.0], ended=False) == (0, 0)
    assert Speaking(Coverage([(3, 4)])).gaps([3.5, 5.0, 5.0, 5.0], ended=False) == (1, 1)
    assert Speaking(Coverage([(3, 4)])).gaps([4.4, 4.4, 4.4], ended=False) == (0, 0), "not passed yet"


def test_a_pause_says_nothing_wherever_it_looks() -> None:
    five, about = [1.0, 2.0, 3.0, 4.0], [9.0, 10.0, 12.0, 13.0]
    for length, wanted in ((PAUSE - 1, (0, 0)), (PAUSE, (1, 2))):
        tokens = [1, 2, 3, 4, *[7] * length, 5, 6, 8, 9]
        places = [*five, *[6.5] * length, *about]
        assert Coverage(WORDS).gaps(tokens, places, ended=True) == wanted
        for cut in range(4, 4 + length):
            coverage = Coverage(WORDS)
            coverage.keep(tokens[:cut], places[:cut])
            assert coverage.gaps(tokens[cut:], places[cut:], ended=True) == wanted, "a pause goes on from block to block"
