"""Where an utterance that does not stop is cut: after its last word, and never in front of it."""

from __future__ import annotations

import random

import pytest

from cf_agents.runaway import BACK, LINGER, STALL, text_end, worth_hearing

TEXT = "sure, your appointment is on monday at a quarter to seven."
END = text_end(TEXT)


def said(tokens: int = 70, wavers: float = 0.7, seed: int = 1) -> list[float]:
    """Places of a voice that says the whole text, as attention tells them."""
    source = random.Random(seed)
    return [END * (n + 0.5) / tokens - 0.5 + source.gauss(0.0, wavers) for n in range(tokens)]


def cut(places: list[float], end: int = END, block: int = 16) -> int | None:
    """What the guard says, asked after every block."""
    for at in range(block, len(places) + block, block):
        found = worth_hearing(places[:at], end)
        if found is not None:
            return found
    return None


@pytest.mark.parametrize(("text", "end"), [("Hi!", 2), ("a (b) -- ...", 4), ("...", 0), ("", 0), ("to 7.", 4)])
def test_a_text_ends_with_its_last_letter_or_digit(text: str, end: int) -> None:
    assert text_end(text) == end


@pytest.mark.parametrize("tokens", [45, 70, 140])
@pytest.mark.parametrize("seed", range(10))
def test_whoever_stops_after_the_last_word_is_not_cut(tokens: int, seed: int) -> None:
    assert cut([*said(tokens, seed=seed), *[END - 0.2] * 7]) is None


@pytest.mark.parametrize("block", [1, 5, 16, 400])
@pytest.mark.parametrize("seed", range(10))
def test_what_goes_back_into_the_text_is_cut_where_it_does(block: int, seed: int) -> None:
    source = random.Random(seed)
    again = [source.uniform(0.0, END - BACK - 5) for _ in range(60)]
    found = cut([*said(seed=seed), *[END - 0.5] * 6, *again], block=block)
    assert found is not None
    assert 74 <= found <= 79


@pytest.mark.parametrize("place", [END - 1.0, END, END + 1.0])
def test_what_lingers_at_the_end_is_cut_soon(place: float) -> None:
    found = cut([*said(wavers=0.2), *[place] * 100])
    assert found is not None
    assert 70 + 0.3 * 25 <= found <= 70 + LINGER


def test_a_glance_at_the_end_is_no_end() -> None:
    places = said()
    for glance in (slice(5, 12), slice(30, 32), slice(60, 61)):
        places[glance] = [END] * len(places[glance])
    assert cut(places) is None


def test_a_glance_back_at_the_end_is_no_repetition() -> None:
    places = [*said(), END - 1, END - 12, END - 14, END - 1, END, END]
    assert cut(places) is None


def test_a_phrase_said_twice_before_the_end_is_let_pass() -> None:
    places = said()
    assert cut([*places[:40], *places[20:40], *places[40:]]) is None


def test_a_voice_that_hangs_in_the_middle_is_ended() -> None:
    found = cut([*said()[:30], *[said()[29]] * 200])
    assert found is not None
    assert 30 + STALL <= found <= 30 + 2 * STALL + 16


@pytest.mark.parametrize(("text", "tokens"), [("Hi!", 13), ("A.", 13), ("W.", 15), ("no, no, no.", 27), ("stop it.", 16)])
def test_short_texts_are_said_in_full(text: str, tokens: int) -> None:
    end = text_end(text)
    places = [end * (n + 0.5) / tokens for n in range(tokens)]
    assert cut(places, end) is None
    assert cut([*places, *[float(end)] * 60], end) is not None


def test_nothing_is_known_of_an_utterance_without_tokens() -> None:
    assert worth_hearing([], END) is None
    assert worth_hearing([0.0], 0) is None
