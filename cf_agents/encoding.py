"""How samples become bytes: 16-bit and float PCM, and the two companding laws of telephony. Knows nothing of chunks or streams.

No dither anywhere: the nearest value is taken, so that silence stays silence and the same samples give the same bytes.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cf_agents.errors import ConfigError

Encoding = Literal["s16le", "f32le", "mulaw", "alaw"]
"""Signed 16-bit or 32-bit float little-endian; ITU-T G.711 mu-law or A-law, one byte a sample."""
SAMPLE_BYTES: dict[Encoding, int] = {"s16le": 2, "f32le": 4, "mulaw": 1, "alaw": 1}

_FULL_SCALE = 32768.0
_CODES = np.arange(128, dtype=np.int64)
_SIGN = 0x80


def check_encoding(encoding: Encoding) -> Encoding:
    """The name as it is. Raises `ConfigError` for one that means nothing."""
    if encoding not in get_args(Encoding):
        raise ConfigError(f"There is no encoding {encoding!r}; choose one of {', '.join(get_args(Encoding))}.")
    return encoding


def encode(samples: NDArray[np.float32], encoding: Encoding) -> bytes:
    """Samples [T], where -1..1 is full scale; what is louder is clipped.

    A 16-bit sample is the nearest multiple of 1/32768, ties to even, so that `decode` and `encode` give back the same bytes.
    G.711 companding goes through it.
    """
    if encoding == "f32le":
        return np.clip(samples, -1.0, 1.0).astype("<f4").tobytes()
    return _pack(_to_s16(samples), encoding)


def encode_s16(samples: NDArray[np.int16], encoding: Encoding) -> bytes:
    """`encode` of samples [T] that are 16-bit already."""
    return encode(_to_float(samples), encoding) if encoding == "f32le" else _pack(samples, encoding)


def decode(data: bytes, encoding: Encoding) -> NDArray[np.float32]:
    """The samples, float32 [T] in -1..1."""
    return np.frombuffer(data, "<f4") if encoding == "f32le" else _to_float(decode_s16(data, encoding))


def decode_s16(data: bytes, encoding: Encoding) -> NDArray[np.int16]:
    """The samples, int16 [T]; a read-only view where they are stored so."""
    match encoding:
        case "s16le":
            return np.frombuffer(data, "<i2")
        case "f32le":
            return _to_s16(np.frombuffer(data, "<f4"))
        case _:
            return _expand_table(encoding)[np.frombuffer(data, np.uint8)]


def _to_s16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.clip(np.rint(samples * _FULL_SCALE), -32768, 32767).astype(np.int16)


def _to_float(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    return samples.astype(np.float32) / np.float32(_FULL_SCALE)


def _pack(samples: NDArray[np.int16], encoding: Encoding) -> bytes:
    if encoding == "s16le":
        return samples.astype("<i2", copy=False).tobytes()
    return _compress_table(encoding)[samples.view(np.uint16)].tobytes()


@cache
def _compress_table(encoding: Encoding) -> NDArray[np.uint8]:
    """The code of every 16-bit sample, by its bits read as unsigned. A sample on a decision value takes the louder code."""
    decisions, _, flips = _law(encoding)
    every = np.arange(1 << 16).astype(np.uint16).view(np.int16).astype(np.int32)
    code = np.searchsorted(decisions, np.abs(every), side="right") - 1
    return ((code | np.where(every < 0, 0, _SIGN)) ^ flips).astype(np.uint8)


@cache
def _expand_table(encoding: Encoding) -> NDArray[np.int16]:
    _, levels, flips = _law(encoding)
    code = np.arange(256) ^ flips
    return np.where(code & _SIGN, levels[code & 0x7F], -levels[code & 0x7F]).astype(np.int16)


def _law(encoding: Encoding) -> tuple[NDArray[np.integer], NDArray[np.integer], int]:
    """Of the 128 codes of a sign: the smallest magnitude that takes each, the magnitude it stands for, and the bits the line
    inverts. 16-bit units: 4 of them are one of mu-law's 14 bits, 8 are one of A-law's 13.

    ITU-T G.711 (11/88), tables 1 and 2: 8 segments of 16 steps, each segment twice as coarse as the one before.
    """
    segment, step = _CODES >> 4, _CODES & 15
    if encoding == "mulaw":
        decisions = 4 * (((16 + step) << (segment + 1)) - 33)
        return np.maximum(decisions, 0), 4 * (((33 + 2 * step) << segment) - 33), 0x7F
    begins, coarser = np.where(segment > 0, 16 + step, step), np.maximum(segment - 1, 0)
    return 16 * (begins << coarser), 8 * ((2 * begins + 1) << coarser), 0x55
