"""Vowel-like signals that both sides of a golden make for themselves, at any rate, from numpy's frozen random stream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIGNALS = {"short": (4.13, 7), "long": (11.0, 8)}
"""Seconds and seed. 4.13 s ends inside a token: 206 mel frames, 104 tokens."""


def signal(name: str, sample_rate: int) -> NDArray[np.float32]:
    """A gliding voice of 3 formants in syllables, with quieter ends and a noise floor, float32 [seconds * sample_rate]."""
    seconds, seed = SIGNALS[name]
    random = np.random.RandomState(seed)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    phases = random.uniform(0, 2 * np.pi, 30)
    formants = random.uniform([300, 900, 2200], [800, 1800, 3200])
    hum = random.uniform(100, 7000, 40), random.uniform(0, 2 * np.pi, 40)
    pitch = random.uniform(100, 180)
    # Phase of the integral of pitch (1 + 0.2 sin(2 pi 0.7 t)), so that both rates sample one continuous signal.
    cycles = pitch * (time - 0.2 / (2 * np.pi * 0.7) * (np.cos(2 * np.pi * 0.7 * time) - 1))
    wave = np.zeros_like(time)
    for number, phase in enumerate(phases, start=1):
        gain = sum(np.exp(-(((number * pitch - formant) / 200.0) ** 2)) for formant in formants) + 0.02
        wave += gain * np.sin(2 * np.pi * number * cycles + phase)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 3.1 * time)
    inside = 1 / (1 + np.exp(-40 * (time - 0.4))) / (1 + np.exp(-40 * (seconds - 0.3 - time)))
    noise = sum(np.sin(2 * np.pi * hz * time + phase) for hz, phase in zip(*hum, strict=True))
    return (0.1 * wave * syllables * inside + 2e-4 * noise).astype(np.float32)
