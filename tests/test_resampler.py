"""A stream at another rate: joined it is the whole, sample for sample on one time scale, and what it holds back is constant."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from cf_agents.resampler import REACH_SAMPLES, StreamResampler

MODEL_RATE = 24_000
USUAL = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000]
ODD = [8_001, 12_347, 23_999, 47_999]
RATES = pytest.mark.parametrize("rate", USUAL + ODD)


def noise(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0.0, 0.2, samples).astype(np.float32)


def cut(sound: NDArray[np.float32], seed: int = 1, most: int = 9000) -> list[NDArray[np.float32]]:
    """Pieces of random length, among them empty ones and single samples."""
    source = np.random.default_rng(seed)
    pieces = [sound[:0], sound[:1]]
    at = 1
    while at < len(sound):
        size = int(source.integers(0, most))
        pieces.append(sound[at : at + size])
        at += size
    return pieces


def resampled(resampler: StreamResampler, pieces: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([resampler.feed(piece, n == len(pieces) - 1) for n, piece in enumerate(pieces)])


@RATES
def test_joined_it_is_the_whole(rate: int) -> None:
    sound = noise(50_017)
    found = resampled(StreamResampler(MODEL_RATE, rate), cut(sound))
    assert len(found) == -(-len(sound) * rate // MODEL_RATE)
    whole = soxr.resample(sound, MODEL_RATE, rate, quality="HQ")
    assert abs(len(whole) - len(found)) <= 1
    both = min(len(whole), len(found))
    # Half a step of 16 bits is 1.5e-5.
    np.testing.assert_allclose(found[:both], whole[:both], atol=1.2e-5)


@RATES
def test_what_is_held_back_is_constant(rate: int) -> None:
    resampler = StreamResampler(MODEL_RATE, rate)
    fed = made = 0
    for piece in cut(noise(40_000), seed=2):
        made += len(resampler.feed(piece, False))
        fed += len(piece)
        held_s = fed / MODEL_RATE - made / rate
        if made:
            assert resampler.latency_s - 1.0 / rate < held_s <= resampler.latency_s + 1e-9
        else:
            assert held_s <= resampler.latency_s + 1e-9
    assert made


def test_its_latency_is_the_one_that_the_page_states() -> None:
    page = (Path(__file__).parents[1] / "docs" / "audio.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if re.match(r"\| \d", line)]
    assert [int(rate) for rate, _, _ in rows] == USUAL
    for rate, samples, latency_ms in rows:
        latency_s = StreamResampler(MODEL_RATE, int(rate)).latency_s
        assert int(samples) == round(latency_s * int(rate))
        assert float(latency_ms) == round(1e3 * latency_s, 1)


@RATES
def test_the_filter_sees_no_further_than_is_held_back(rate: int) -> None:
    impulse = np.zeros(2 * MODEL_RATE, np.float32)
    impulse[MODEL_RATE] = 1.0
    heard = soxr.resample(impulse, MODEL_RATE, rate, quality="HQ")
    reach = REACH_SAMPLES * rate // min(MODEL_RATE, rate) + 1
    heard[rate - reach : rate + reach + 1] = 0.0
    assert np.abs(heard).max() < 1e-6


@RATES
def test_segments_lie_on_one_time_scale(rate: int) -> None:
    """A second of silence, then a tone: it begins where it should however many odd segments came before."""
    resampler = StreamResampler(MODEL_RATE, rate)
    fed = made = 0
    for n in range(40):
        segment = np.zeros(601 + n, np.float32)
        made += len(resampler.feed(segment, True))
        fed += len(segment)
        assert made == -(-fed * rate // MODEL_RATE)
    tone = np.sin(2 * np.pi * 440 * np.arange(4800) / MODEL_RATE).astype(np.float32)
    found = resampler.feed(tone, True)
    times = (made + np.arange(len(found))) / rate - fed / MODEL_RATE
    inside = slice(200, -200)
    np.testing.assert_allclose(found[inside], np.sin(2 * np.pi * 440 * times)[inside], atol=2e-3)


@RATES
def test_no_seam_between_segments(rate: int) -> None:
    """Where the next segment begins quietly, as speech does, all segments joined are the stream resampled at once."""
    lengths = [5_003, 7_777, 12_000]
    sound = noise(sum(lengths))
    starts = np.cumsum([0, *lengths])
    resampler = StreamResampler(MODEL_RATE, rate)
    found: list[NDArray[np.float32]] = []
    for start, end in pairwise(starts):
        sound[start : start + 700] *= np.linspace(0.0, 1.0, 700, dtype=np.float32) ** 4
        found.append(resampled(resampler, cut(sound[start:end], most=3000)))
    joined = np.concatenate(found)
    whole = soxr.resample(sound, MODEL_RATE, rate, quality="HQ")
    both = min(len(whole), len(joined))
    # A resampler for each segment would be off by some 0.1 after each end.
    np.testing.assert_allclose(joined[:both], whole[:both], atol=3e-4)


def test_an_end_flushes_all_and_may_be_empty() -> None:
    resampler = StreamResampler(MODEL_RATE, 8_000)
    assert len(resampler.feed(noise(240), False)) == 0
    assert len(resampler.feed(noise(0), True)) == 80
    assert len(resampler.feed(noise(0), True)) == 0
    assert len(resampler.feed(noise(3), True)) == 1


def test_what_is_kept_does_not_grow() -> None:
    resampler = StreamResampler(MODEL_RATE, 8_000)
    for _ in range(50):
        resampler.feed(noise(5_000), False)
    assert len(resampler._kept) < 3 * resampler._reach
