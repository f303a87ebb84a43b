"""Samples as bytes: G.711 against the Recommendation's own points and two other implementations, and what rounding does."""

from __future__ import annotations

import importlib.util
import io
import warnings

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from cf_agents.encoding import SAMPLE_BYTES, Encoding, check_encoding, decode, decode_s16, encode, encode_s16
from cf_agents.errors import ConfigError

EVERY = np.arange(-32768, 32768).astype(np.int16)
LAWS = pytest.mark.parametrize(("law", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
ALL = pytest.mark.parametrize("encoding", list(SAMPLE_BYTES))

# ITU-T G.711, tables 1a and 2a: decision values at the ends of the segments, the code that begins there, and quantized values.
A_DECISIONS = {0: 0xD5, 64: 0xF5, 128: 0xE5, 256: 0x95, 512: 0x85, 1024: 0xB5, 2048: 0xA5, 3968: 0xAA}
A_LEVELS = {0xD5: 1, 0xAA: 4032, 0x2A: -4032}
MU_DECISIONS = {0: 0xFF, 1: 0xFE, 31: 0xEF, 95: 0xDF, 223: 0xCF, 479: 0xBF, 991: 0xAF, 2015: 0x9F, 4063: 0x8F, 7903: 0x80}
MU_LEVELS = {0xFF: 0, 0xFE: 2, 0x80: 8031, 0x00: -8031}


def sndfile_encode(samples: NDArray[np.int16], subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, format="RAW", subtype=subtype)
    return file.getvalue()


@LAWS
def test_every_sample_is_companded_as_libsndfile_does(law: Encoding, subtype: str) -> None:
    assert encode_s16(EVERY, law) == sndfile_encode(EVERY, subtype)


@LAWS
def test_every_code_is_expanded_as_libsndfile_does(law: Encoding, subtype: str) -> None:
    codes = bytes(range(256))
    wanted, _ = soundfile.read(io.BytesIO(codes), dtype="int16", format="RAW", subtype=subtype, channels=1, samplerate=8000)
    np.testing.assert_array_equal(decode_s16(codes, law), wanted)


@pytest.mark.skipif(importlib.util.find_spec("audioop") is None, reason="Python 3.13 has no audioop")
@LAWS
def test_companding_agrees_with_audioop(law: Encoding, subtype: str) -> None:
    """For negative samples that fall on a decision value, audioop rounds to the other side: it shifts them as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import audioop

    to_law = {"mulaw": audioop.lin2ulaw, "alaw": audioop.lin2alaw}[law]
    from_law = {"mulaw": audioop.ulaw2lin, "alaw": audioop.alaw2lin}[law]
    positive = EVERY[32768:]
    assert encode_s16(positive, law) == to_law(positive.tobytes(), 2)
    assert decode_s16(bytes(range(256)), law).tobytes() == from_law(bytes(range(256)), 2)


@pytest.mark.parametrize(
    ("law", "unit", "decisions", "levels"), [("alaw", 8, A_DECISIONS, A_LEVELS), ("mulaw", 4, MU_DECISIONS, MU_LEVELS)]
)
def test_the_points_of_the_recommendation(law: Encoding, unit: int, decisions: dict[int, int], levels: dict[int, int]) -> None:
    at = np.array([unit * value for value in decisions], np.int16)
    codes = list(decisions.values())
    assert list(encode_s16(at, law)) == codes
    # A step below is the code before; the other sign differs in the sign bit only.
    assert all(below != code for below, code in zip(encode_s16(at[1:] - 1, law), codes[1:], strict=True))
    assert [code ^ 0x80 for code in encode_s16(-at[1:], law)] == codes[1:]
    assert [decode_s16(bytes([code]), law)[0] for code in levels] == [unit * level for level in levels.values()]


@LAWS
def test_what_was_expanded_is_companded_back(law: Encoding, subtype: str) -> None:
    codes = bytes(range(256))
    back = encode(decode(codes, law), law)
    # mu-law has two zeros, and a sample has one.
    assert [a for a, b in zip(codes, back, strict=True) if a != b] == ([0x7F] if law == "mulaw" else [])


@ALL
def test_sixteen_bits_and_floats_agree(encoding: Encoding) -> None:
    packed = encode_s16(EVERY, encoding)
    assert len(packed) == SAMPLE_BYTES[encoding] * len(EVERY)
    assert encode(EVERY.astype(np.float32) / 32768, encoding) == packed
    np.testing.assert_array_equal(decode(packed, encoding), decode_s16(packed, encoding) / np.float32(32768))
    if encoding in ("s16le", "f32le"):
        np.testing.assert_array_equal(decode_s16(packed, encoding), EVERY)


@ALL
def test_silence_stays_silence(encoding: Encoding) -> None:
    assert len(set(encode(np.zeros(100, np.float32), encoding))) == 1
    # A-law has no zero: its quietest level is 8.
    assert np.abs(decode_s16(encode(np.zeros(9, np.float32), encoding), encoding)).max() == (8 if encoding == "alaw" else 0)
    assert encode(np.zeros(0, np.float32), encoding) == b""
    assert decode(b"", encoding).shape == (0,)


@ALL
def test_what_is_too_loud_is_clipped_and_never_wraps(encoding: Encoding) -> None:
    found = decode(encode(np.array([1.0, 1.7, -1.0, -1.7], np.float32), encoding), encoding)
    assert found[0] == found[1] > 0.98
    assert found[2] == found[3] < -0.98
    assert np.abs(found).max() <= 1.0


def test_samples_are_rounded_to_the_nearest() -> None:
    steps = np.array([0.4, 0.6, -0.6, 1.4, 1.5, 2.5], np.float32) / 32768
    assert decode_s16(encode(steps, "s16le"), "s16le").tolist() == [0, 1, -1, 1, 2, 2]


def test_an_encoding_that_means_nothing_is_named() -> None:
    with pytest.raises(ConfigError, match="'opus'; choose one of s16le, f32le, mulaw, alaw"):
        check_encoding("opus")  # pyright: ignore[reportArgumentType]
