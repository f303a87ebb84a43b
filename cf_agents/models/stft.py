"""Short-time Fourier transform and its inverse as convolutions with a Hann window.

The transforms of HiFT are 16 points long: as convolutions they run on every device without complex tensors. Equal to
`torch.stft` and `torch.istft` with `center=True` (Griffin and Lim 1984 for the least-squares inverse). Knows nothing of audio.

Shapes: N rows, T samples, K = n_fft / 2 + 1 bins, F = T / hop + 1 frames.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor


def centre(signal: Tensor, n_fft: int) -> Tensor:
    """`signal` [T] with n_fft / 2 samples mirrored at both ends, so that frame f is centred on sample f hop."""
    return F.pad(signal[None], (n_fft // 2, n_fft // 2), mode="reflect")[0]


def stft(centred: Tensor, n_fft: int, hop: int) -> Tensor:
    """Real parts then imaginary parts, [N, 2 K, F], of signals that `centre` has extended, [N, T + n_fft]."""
    basis = _analysis(n_fft, centred.device, centred.dtype)
    return F.conv1d(centred[:, None], basis, stride=hop)


def istft(magnitude: Tensor, phase: Tensor, n_fft: int, hop: int, mask: Tensor | None = None) -> Tensor:
    """Signals [N, T] whose spectrum is nearest to `magnitude` and `phase` (radians), both [N, K, F].

    Frames where `mask` [N, 1, F] is 0 do not exist: a row of a padded batch ends as it would alone.
    """
    if mask is not None:
        magnitude = magnitude * mask
    spectrum = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], 1)
    basis, power = _synthesis(n_fft, magnitude.device, magnitude.dtype)
    there = magnitude.new_ones(1, 1, magnitude.shape[2]) if mask is None else mask
    half = n_fft // 2
    signal = F.conv_transpose1d(spectrum, basis, stride=hop)[:, 0, half:-half]
    # Past a row's end no frame is there: the floor turns 0 / 0 into 0.
    weight = F.conv_transpose1d(there, power, stride=hop)[:, 0, half:-half].clamp_min(1e-11)
    return signal / weight


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept tensors are used by training too
def _analysis(n_fft: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    cos, sin, window = _waves(n_fft)
    basis = torch.cat([cos * window, -sin * window])[:, None]  # [2 K, 1, n_fft]
    return basis.to(device=device, dtype=dtype)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept tensors are used by training too
def _synthesis(n_fft: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    cos, sin, window = _waves(n_fft)
    # Inner bins stand for two of a real signal's bins; the first and the last are their own mirror.
    count = torch.full((n_fft // 2 + 1, 1), 2.0, dtype=torch.float64, device="cpu")
    count[0] = count[-1] = 1.0
    basis = torch.cat([cos * count, -sin * count])[:, None] * window / n_fft  # [2 K, 1, n_fft]
    power = window.square()[None, None]
    return basis.to(device=device, dtype=dtype), power.to(device=device, dtype=dtype)


def _waves(n_fft: int) -> tuple[Tensor, Tensor, Tensor]:
    time = torch.arange(n_fft, dtype=torch.float64, device="cpu")
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64, device="cpu")
    angle = (2 * math.pi / n_fft) * bins[:, None] * time  # [K, n_fft]
    return angle.cos(), angle.sin(), 0.5 - 0.5 * (2 * math.pi / n_fft * time).cos()
