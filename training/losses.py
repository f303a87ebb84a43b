"""Distances between waveforms that do not hear phase: what a vocoder without a discriminator is trained with.

Knows nothing of networks or files.

Shapes: N rows, S samples at 24 kHz, T mel frames, M mel bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cf_agents.models.reference.features import flow_mel

RESOLUTIONS = (256, 512, 1024, 2048)
"""FFT sizes, a quarter of each being its hop: from single pulses to single harmonics."""
_POWER_FLOOR = 1e-8
_LOG_FLOOR = 3e-4
"""About 70 dB under a loud bin: below it nothing is worth learning."""
_NORM_FLOOR = 1e-3
MEL_FLOOR = math.log(1e-5)
"""Of `flow_mel`."""


def spectral_distance(made: Tensor, truth: Tensor) -> Tensor:
    """Mean over `RESOLUTIONS` of half the spectral convergence plus the L1 distance of log magnitudes, of waves [N, S].

    Multi-resolution STFT loss (Yamamoto et al. 2020, arXiv:1910.11480, eqs. 4 to 6).
    """
    total = made.new_zeros(())
    for size in RESOLUTIONS:
        window = torch.hann_window(size, device=made.device)
        ours, theirs = (_magnitude(wave, size, window) for wave in (made, truth))
        convergence = (theirs - ours).norm() / theirs.norm().clamp(min=_NORM_FLOOR)
        log_distance = (torch.log(ours + _LOG_FLOOR) - torch.log(theirs + _LOG_FLOOR)).abs().mean()
        total = total + 0.5 * convergence + log_distance
    return total / len(RESOLUTIONS)


def log_mel(wave: Tensor) -> Tensor:
    """The flow's mel of every row, [N, S] to [N, T, M]."""
    return torch.stack([flow_mel(row) for row in wave])


def scaled_mel(mel: Tensor, gains: Tensor) -> Tensor:
    """The log mel [N, M, T] of waves that are multiplied by `gains` [N]; nothing falls under the floor of `flow_mel`."""
    return (mel + gains.log()[:, None, None]).clamp(min=MEL_FLOOR)


def _magnitude(wave: Tensor, size: int, window: Tensor) -> Tensor:
    spectrum = torch.stft(wave, size, size // 4, window=window, return_complex=True)
    # the root has no slope at zero: the floor keeps the gradient finite in silence
    return (torch.view_as_real(spectrum).square().sum(-1) + _POWER_FLOOR).sqrt()
