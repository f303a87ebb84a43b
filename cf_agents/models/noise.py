"""Gaussian noise indexed by absolute time, so that what is drawn does not depend on how it is asked for.

A value is a hash of (seed, stream, time, channel): any cut of time into pieces gives the same noise, on every device, and
a piece costs only itself. Streams that must not share values (prompt, mel, source) take different stream numbers.
Knows nothing of mel or audio.

Letters: C channels, T time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PROMPT_STREAM = 0
"""Noise under a voice's prompt frames, which must depend on the voice alone."""
MEL_STREAM = 1
SOURCE_STREAM = 2

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_BITS_24 = (1 << 24) - 1


class NoiseSource(Protocol):
    """Standard normal noise that is a function of absolute time."""

    def frames(self, start: int, stop: int) -> Tensor:
        """float32 [C, stop - start]: the noise of times start to stop - 1. Equal calls give equal values."""
        ...


@dataclass(frozen=True)
class SeededNoise:
    """Noise from a seed: a SplitMix64 hash (Steele et al. 2014) of a counter, made normal by Box and Muller (1958).

    seed: any integer, taken modulo 2**64. channels: C. stream: which of the independent noises of that seed.
    """

    seed: int
    channels: int
    stream: int = MEL_STREAM
    device: torch.device | str = "cpu"

    def frames(self, start: int, stop: int) -> Tensor:
        """float32 [C, stop - start], the same values on every device up to the rounding of log and cos."""
        pairs = (self.channels + 1) // 2
        time = torch.arange(start, stop, dtype=torch.int64, device=self.device)
        pair = torch.arange(pairs, dtype=torch.int64, device=self.device)
        counter = pair[:, None] + pairs * time[None, :]  # [pairs, T]
        key = _mix(_mix(self.seed % (1 << 64)) + self.stream + 1)
        bits = _mix_tensor(counter * _signed(_GOLDEN) + _signed(key))
        radius = (bits >> 40).bitwise_and_(_BITS_24).add_(1).float().mul_(2.0**-24).log_().mul_(-2.0).sqrt_()
        angle = (bits >> 8).bitwise_and_(_BITS_24).float().mul_(2.0 * math.pi * 2.0**-24)
        if self.channels == 1:
            return radius.mul_(angle.cos_())
        normal = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)  # [pairs, 2, T]
        return normal.flatten(0, 1)[: self.channels]


@dataclass(frozen=True, eq=False)
class FixedNoise:
    """A given tensor [C, T] as a noise source: what parity tests inject. Times outside of it are an error."""

    values: Tensor

    def frames(self, start: int, stop: int) -> Tensor:
        """[C, stop - start] of the tensor."""
        assert 0 <= start <= stop <= self.values.shape[1], f"noise {start}:{stop} of {self.values.shape[1]}"
        return self.values[:, start:stop]


def key(seed: int, *path: int) -> int:
    """A signed 64-bit key for the numbers under `path` of `seed`; other paths and seeds have independent ones."""
    value = _mix(seed % (1 << 64))
    for part in path:
        value = _mix((value + part) % (1 << 64))
    return _signed(value)


def uniform(keys: Tensor, counters: Tensor) -> Tensor:
    """float32 in (0, 1), 23 bits each, from int64 keys and counters that broadcast; the same on every device."""
    bits = _mix_tensor(counters * _signed(_GOLDEN) + keys)
    return (((bits >> 41) & ((1 << 23) - 1)).float() + 0.5) * 2.0**-23


def _signed(value: int) -> int:
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


def _mix(value: int) -> int:
    z = (value + _GOLDEN) % (1 << 64)
    z = (z ^ (z >> 30)) * _MIX_1 % (1 << 64)
    z = (z ^ (z >> 27)) * _MIX_2 % (1 << 64)
    return z ^ (z >> 31)


def _mix_tensor(z: Tensor) -> Tensor:
    z = _shift_right(z, 30).bitwise_xor_(z).mul_(_signed(_MIX_1))
    z = _shift_right(z, 27).bitwise_xor_(z).mul_(_signed(_MIX_2))
    return _shift_right(z, 31).bitwise_xor_(z)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the hash wants zeros shifted in
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)
