"""Harmonic-plus-noise excitation: sines at multiples of F0 where speech is voiced, noise where it is not.

The phase is counted in whole numbers. A float32 F0 above 8 Hz times 2**20 is a whole number, so the sum of F0 over samples,
modulo one cycle of 24000 * 2**20, has no rounding: it is the same however the utterance is cut, after any length, on any
device, and needs no float64 (which MPS lacks). One number per utterance is carried, since harmonic k has k times the phase of
the fundamental. The harmonics' noises meet only in the sum that mixes them, so one noise with the norm of its weights stands
for all. Knows nothing of mel or of windows.

Shapes: N rows, T mel frames, S = hop * T samples, H harmonics with the fundamental.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cf_agents.models.noise import SOURCE_STREAM, key, uniform

F0_UNITS = 1 << 20
"""Steps of F0 per Hz."""


class HarmonicSource(nn.Module):
    """The neural source-filter excitation (Wang et al. 2019, arXiv:1904.12088, section 2.2) released as `mel2wav.m_source`."""

    def __init__(
        self,
        harmonics: int,
        sine_amplitude: float,
        noise_std: float,
        voiced_threshold_hz: float,
        sample_rate: int,
        hop_samples: int,
    ) -> None:
        super().__init__()
        self.l_linear = nn.Linear(harmonics + 1, 1)
        self._sine_amplitude = sine_amplitude
        self._noise_std = noise_std
        self._voiced_threshold_hz = voiced_threshold_hz
        self._cycle = sample_rate * F0_UNITS
        self._hop_samples = hop_samples

    def forward(self, f0: Tensor, phase: Tensor, offsets: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The source [N, S], and the phase at the start of each frame and after the last, [N, T + 1].

        `f0` [N, T] is in Hz and held over its frame; `phase` [N] (int64, one cycle is `sample_rate * F0_UNITS`) is where the
        fundamental stood before the first sample; `offsets` [N, H] are radians added to each harmonic; `noise` [N, S] is
        standard normal. Voiced samples get sines and a little noise, unvoiced ones noise at a third of the sines' amplitude.
        """
        step = (f0 * F0_UNITS).round().to(torch.int64)
        frames = (step * self._hop_samples) % self._cycle
        starts = torch.cat([phase[:, None], phase[:, None] + frames.cumsum(1)], 1) % self._cycle
        samples = torch.arange(1, self._hop_samples + 1, device=f0.device)
        inside = (step[:, :, None] * samples).add_(starts[:, :-1, None]).remainder_(self._cycle)  # [N, T, hop]
        turns = inside.flatten(1).to(f0.dtype).div_(self._cycle)[:, None]  # [N, 1, S], below 1
        multiples = torch.arange(1, offsets.shape[1] + 1, device=f0.device, dtype=f0.dtype)[None, :, None]
        sines = (turns * multiples).frac_().mul_(2 * math.pi).add_(offsets[:, :, None]).sin_()  # [N, H, S]
        weight = self.l_linear.weight  # [1, H]
        voiced = (f0 > self._voiced_threshold_hz).to(f0.dtype)  # [N, T]
        sine = (voiced * self._sine_amplitude).repeat_interleave(self._hop_samples, 1)  # [N, S]
        deviation = torch.lerp(torch.full_like(f0, self._sine_amplitude / 3), torch.full_like(f0, self._noise_std), voiced)
        spread = (deviation * weight.norm()).repeat_interleave(self._hop_samples, 1)
        mixed = sine * torch.matmul(weight, sines).squeeze(1) + spread * noise + self.l_linear.bias
        return mixed.tanh(), starts


def draw_offsets(seed: int, count: int, device: torch.device) -> Tensor:
    """Phase offsets [H] in radians for an utterance: 0 for the fundamental, uniform in (-pi, pi) for the rest."""
    counters = torch.arange(count, device=device)
    offsets = (uniform(torch.tensor(key(seed, SOURCE_STREAM), device=device), counters) * 2 - 1) * math.pi
    offsets[0] = 0.0
    return offsets
