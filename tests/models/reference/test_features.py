"""Front ends against what the published packages compute (librosa, torchaudio's Kaldi port, Whisper's log-mel)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cf_agents.models.reference import features
from tests.goldens.reference_signal import SIGNALS, signal

GOLDEN = np.load(Path(__file__).parents[2] / "goldens" / "reference.npz")


def some(frames: torch.Tensor) -> NDArray[np.float32]:
    return torch.cat([frames[::16], frames[-3:]]).numpy()


def assert_close(found: NDArray[np.float32], wanted: NDArray[np.float32], of_range: float = 1e-4) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= of_range * np.ptp(wanted)


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        ("filters_flow", (24000, 1920, 80, 8000.0)),
        ("filters_speaker", (16000, 400, 40, 8000.0)),
        ("filters_tokenizer", (16000, 400, 128)),
    ],
)
def test_mel_filters_are_librosas(key: str, arguments: tuple[int, int, int]) -> None:
    found = features.slaney_mel_filters(*arguments)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, GOLDEN[key], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", SIGNALS)
def test_flow_mel(name: str) -> None:
    mel = features.flow_mel(torch.from_numpy(signal(name, 24000)[:240000]))
    assert mel.shape == (GOLDEN[f"{name}_frames"][0], 80)
    assert_close(some(mel), GOLDEN[f"{name}_flow_mel"])


@pytest.mark.parametrize("name", SIGNALS)
def test_kaldi_fbank(name: str) -> None:
    fbank = features.kaldi_fbank(torch.from_numpy(signal(name, 16000)))
    assert fbank.shape == (GOLDEN[f"{name}_frames"][1], 80)
    assert_close(some(fbank), GOLDEN[f"{name}_fbank"])


@pytest.mark.parametrize("name", SIGNALS)
def test_tokenizer_mel(name: str) -> None:
    mel = features.tokenizer_mel(torch.from_numpy(signal(name, 16000)))
    assert mel.shape == (128, GOLDEN[f"{name}_frames"][2])
    assert_close(some(mel.T), GOLDEN[f"{name}_tokenizer_mel"])


@pytest.mark.parametrize("name", SIGNALS)
def test_silent_ends_are_trimmed_and_the_rest_heard(name: str) -> None:
    wave = torch.from_numpy(signal(name, 16000))
    first, end = GOLDEN[f"{name}_trim"]
    assert 0 < first < end < len(wave)
    trimmed = features.trim_silence(wave)
    assert torch.equal(trimmed, wave[first:end])
    assert_close(some(features.speaker_mel(trimmed)), GOLDEN[f"{name}_speaker_mel"])


def test_silence_is_not_trimmed_away() -> None:
    assert features.trim_silence(torch.zeros(16000)).shape == (16000,)


def test_resampled_sine_is_the_sine() -> None:
    at_24k = torch.sin(2 * torch.pi * 440 * torch.arange(24001, dtype=torch.float64) / 24000).float()
    found = features.resample_sinc(at_24k, 24000, 16000)
    wanted = torch.sin(2 * torch.pi * 440 * torch.arange(16001, dtype=torch.float64) / 16000).float()
    assert found.shape == (16001,)
    assert (found - wanted)[100:-100].abs().max() < 2e-3
