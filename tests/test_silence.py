"""Silence waits for sound, pauses stay as they are, and the end is not drawn out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cf_agents.silence import FLOOR, KEPT_S, SilenceGate, sound_end

RATE = 1000


def made(*parts: float) -> NDArray[np.float32]:
    """So many seconds of sound, of silence, of sound and so on; silence is a faint noise, each sample unlike the next."""
    noise = np.random.default_rng(1)
    pieces = [noise.uniform(-1, 1, round(seconds * RATE)) * (0.002 if n % 2 else 0.5) for n, seconds in enumerate(parts)]
    return np.concatenate(pieces).astype(np.float32)


def through(pcm: NDArray[np.float32], piece_s: float) -> list[NDArray[np.float32]]:
    gate, step = SilenceGate(RATE), round(piece_s * RATE)
    return [gate.feed(pcm[at : at + step], at + step >= len(pcm)) for at in range(0, len(pcm), step)]


@pytest.mark.parametrize("piece_s", [0.16, 0.64, 100.0, 0.013])
def test_all_is_given_but_the_end_of_the_last_silence(piece_s: float) -> None:
    pcm = made(0.4, 1.0, 0.5, 2.0)
    given = np.concatenate(through(pcm, piece_s))
    assert len(given) == pytest.approx((0.4 + 1.0 + 0.5 + KEPT_S) * RATE, abs=20)
    np.testing.assert_array_equal(given, pcm[: len(given)])


def test_sound_is_never_late() -> None:
    pcm = made(0.4, 1.0, 0.5, 0.1)
    gate, at, given = SilenceGate(RATE), 0, 0
    for end in (160, 640, 1200, 1500, 1900):
        given += len(gate.feed(pcm[at:end], False))
        at = end
        last_sound = end if end <= 400 or end > 1400 else 400
        assert given >= last_sound
        assert given == min(end, last_sound + KEPT_S * RATE) or end == 1500


def test_a_beginning_in_silence_is_kept() -> None:
    pcm = made(0.0, 0.8, 0.4)
    parts = through(pcm, 0.3)
    assert [len(part) for part in parts][:2] == [300, 0]
    np.testing.assert_array_equal(np.concatenate(parts), pcm)


def test_nothing_but_silence_is_a_short_one() -> None:
    assert sum(map(len, through(made(0.0, 5.0), 0.64))) == KEPT_S * RATE


def test_silence_is_counted_from_the_last_sound() -> None:
    gate = SilenceGate(RATE)
    gate.feed(made(0.0, 0.5), False)
    assert gate.silent_s == 0.0, "before the first sound nobody knows whether one comes"
    for pcm, wanted in ((made(0.2, 0.4), 0.4), (made(0.0, 0.6), 1.0), (made(0.0, 0.2, 0.1), 0.0)):
        gate.feed(pcm, False)
        assert gate.silent_s == pytest.approx(wanted, abs=0.021)


def test_what_is_not_finite_is_no_silence() -> None:
    pcm = made(0.1, 0.1)
    pcm[-1] = np.nan
    assert sound_end(pcm, 20) == len(pcm)


def test_the_floor_is_of_a_frame_not_of_a_sample() -> None:
    click = np.zeros(200, np.float32)
    click[50] = 3 * FLOOR
    assert sound_end(click, 20) == 0
    click[50] = 5 * FLOOR
    assert sound_end(click, 20) == 60
    assert sound_end(click[:0], 20) == 0
