"""What is left to play after a cut: from the position on, faded to nothing, and kept no longer than needed."""

from __future__ import annotations

import numpy as np
import pytest

from cf_agents.audio import AudioChunk
from cf_agents.encoding import Encoding, decode, encode
from cf_agents.fade import BEHIND_S, Tail, fade_out

RATE = 8000
SOUND = (0.5 * np.sin(2 * np.pi * 100 * np.arange(5 * RATE) / RATE)).astype(np.float32)


def chunks(encoding: Encoding, seconds: float = 0.1) -> list[AudioChunk]:
    size = round(seconds * RATE)
    return [
        AudioChunk(encode(SOUND[at : at + size], encoding), RATE, 0, (), at / RATE, False, encoding)
        for at in range(0, len(SOUND), size)
    ]


def test_a_fade_is_a_raised_cosine_that_ends_at_nothing() -> None:
    faded = fade_out(np.ones(80, np.float32))
    assert faded.dtype == np.float32
    assert faded[0] > 0.999
    assert faded[39] == pytest.approx(0.5)
    assert faded[-1] == 0.0
    assert (np.diff(faded) < 0.0).all()
    # As smooth as it can be: no step is larger than that of the cosine in its middle.
    assert np.abs(np.diff(faded)).max() < 1.001 * np.pi / 2 / 80
    assert fade_out(np.ones(0, np.float32)).shape == (0,)


@pytest.mark.parametrize(("encoding", "bound"), [("s16le", 3.2e-5), ("f32le", 1e-7), ("mulaw", 0.03), ("alaw", 0.03)])
@pytest.mark.parametrize("position_s", [0.0, 0.05, 0.0999, 0.1, 0.4])
def test_the_tail_goes_on_from_the_position(encoding: Encoding, bound: float, position_s: float) -> None:
    tail = Tail(0.01)
    for chunk in chunks(encoding)[:5]:
        tail.add(chunk, 0.0)
    at = round(position_s * RATE)
    found = decode(tail.cut(position_s), encoding)
    np.testing.assert_allclose(found, fade_out(SOUND[at : at + 80]), atol=bound)
    assert found.shape == (80,)


def test_a_tail_is_as_long_as_what_there_is() -> None:
    for position_s, length in [(0.195, 40), (0.2, 0), (7.0, 0)]:
        tail = Tail(0.01)
        for chunk in chunks("s16le")[:2]:
            tail.add(chunk, 0.0)
        found = decode(tail.cut(position_s), "s16le")
        assert found.shape == (length,)
        assert not length or found[-1] == 0.0
    assert Tail(0.01).cut(0.0) == b""


def test_a_tail_longer_than_a_chunk_takes_several() -> None:
    tail = Tail(0.25)
    for chunk in chunks("f32le"):
        tail.add(chunk, 0.0)
    np.testing.assert_allclose(decode(tail.cut(0.05), "f32le"), fade_out(SOUND[400:2400]), atol=1e-7)


def test_nothing_is_kept_unless_a_fade_is_wanted_and_nothing_that_was_played() -> None:
    none, some = Tail(0.0), Tail(0.01)
    for chunk in chunks("s16le"):
        position_s = max(0.0, chunk.start_s - 0.5)
        none.add(chunk, position_s)
        some.add(chunk, position_s)
        assert not none._kept
        assert len(some._kept) <= round((0.5 + BEHIND_S) / 0.1) + 2
    assert none.cut(4.9) == b""
    assert some.cut(4.9) != b""
    assert not some._kept
