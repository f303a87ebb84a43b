"""Fundamental frequency of clean speech by normalised autocorrelation: the truth that HiFT's F0 predictor learns.

Good for synthetic speech without noise; knows nothing of recordings, files or networks.

Shapes: N rows, S samples at 24 kHz, T mel frames, L lags.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cf_agents.config import HOP_SAMPLES, SAMPLE_RATE

LOWEST_HZ = 65.0
HIGHEST_HZ = 400.0
MARGIN_SAMPLES = 512 - HOP_SAMPLES // 2
"""How far the first and the last frame's windows reach past the wave."""
_WINDOW = 1024
_FFT = 2048
_VOICED_CORRELATION = 0.6
_VOICED_RMS = 0.008
_NEARLY_BEST = 0.97
"""A shorter lag whose correlation is this near to the best is taken instead: the best is often two periods."""


def autocorrelation_f0(wave: Tensor) -> Tensor:
    """F0 in Hz of every mel frame, [N, T], 0 where unvoiced, of waves with `MARGIN_SAMPLES` more at both ends.

    `wave` is [N, 480 T + 2 MARGIN_SAMPLES]. The window of 1,024 samples is centred on the mel frame; lags are searched for
    their highest correlation normalised by the energy of both parts (Boersma 1993, without its window correction), refined
    by a parabola.
    """
    frames = wave.unfold(1, _WINDOW, HOP_SAMPLES)
    frames = frames - frames.mean(-1, keepdim=True)  # [N, T, window]
    low, high = int(SAMPLE_RATE / HIGHEST_HZ), int(SAMPLE_RATE / LOWEST_HZ)
    power = torch.fft.rfft(frames, _FFT).abs().square()
    product = torch.fft.irfft(power, _FFT)[..., : high + 2]  # [N, T, L]
    energy = F.pad(frames.square().cumsum(-1), (1, 0))
    lags = torch.arange(high + 2, device=wave.device)
    head, tail = energy[..., _WINDOW - lags], energy[..., _WINDOW, None] - energy[..., lags]
    correlation = product / ((head * tail).clamp(min=0).sqrt() + 1e-6)
    searched = correlation[..., low : high + 1]
    peak = (searched >= correlation[..., low - 1 : high]) & (searched >= correlation[..., low + 1 : high + 2])
    best = torch.where(peak, searched, -1.0).amax(-1, keepdim=True)
    first = (peak & (searched >= _NEARLY_BEST * best)).int().argmax(-1, keepdim=True) + low
    before, at, after = (correlation.gather(-1, first + shift).squeeze(-1) for shift in (-1, 0, 1))
    shift = 0.5 * (before - after) / (before - 2 * at + after - 1e-9)
    f0 = SAMPLE_RATE / (first.squeeze(-1) + shift.clamp(-0.5, 0.5))
    voiced = (best.squeeze(-1) > _VOICED_CORRELATION) & (frames.square().mean(-1).sqrt() > _VOICED_RMS)
    return torch.where(voiced, f0, torch.zeros_like(f0))
