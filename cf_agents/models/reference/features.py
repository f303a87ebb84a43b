"""Front ends of the reference networks: waveform in, spectral features out, each as its network was trained to hear it.

Four networks listen, with four different ideas of a mel spectrum; the constants below are theirs, not choices of ours. Also
here: the silence trimming and the windowed-sinc resampler of the released path. Knows nothing of networks, files or voices.

Shape letters: T samples, F frames, M mel bins, K FFT bins.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cf_agents.config import HOP_SAMPLES, REFERENCE_RATE, SAMPLE_RATE

_TOKENIZER_FFT = 400
TOKENIZER_HOP = 160
_FLOW_FFT = 1920
_FLOW_MAX_HZ = 8000.0
_SPEAKER_FFT = 400
_SPEAKER_HOP = 160
_KALDI_FRAME = 400
_KALDI_HOP = 160
_KALDI_FFT = 512
_KALDI_MIN_HZ = 20.0
_KALDI_PREEMPHASIS = 0.97
_TRIM_FRAME = 2048
_TRIM_HOP = 512


def slaney_mel_filters(sample_rate: int, fft: int, bins: int, max_hz: float | None = None) -> NDArray[np.float32]:
    """Triangular filters of unit area on Slaney's mel scale, float32 [M, K]; `max_hz=None` is half the sample rate.

    Linear below 1 kHz, logarithmic above (Slaney, Auditory Toolbox, 1998): what `librosa.filters.mel` gives by default.
    """
    top = float(_hz_to_slaney(np.float64(sample_rate / 2 if max_hz is None else max_hz)))
    edges = _slaney_to_hz(np.linspace(0.0, top, bins + 2))
    hz = np.fft.rfftfreq(fft, 1.0 / sample_rate)
    distance = edges[:, None] - hz[None, :]  # [M + 2, K]
    width = np.diff(edges)[:, None]
    rise = -distance[:-2] / width[:-1]
    fall = distance[2:] / width[1:]
    area = 2.0 / (edges[2:] - edges[:-2])
    return (np.maximum(0.0, np.minimum(rise, fall)) * area[:, None]).astype(np.float32)


def kaldi_mel_filters(bins: int) -> NDArray[np.float32]:
    """Kaldi's filters from 20 Hz to 8 kHz at 16 kHz, float32 [M, K]: triangles in the mel domain, the Nyquist bin unused.

    mel(f) = 1127 ln(1 + f / 700) (Kaldi `feat/mel-computations.h`).
    """
    edges = np.linspace(_hz_to_htk(_KALDI_MIN_HZ), _hz_to_htk(REFERENCE_RATE / 2), bins + 2)
    mel = _hz_to_htk(np.arange(_KALDI_FFT // 2, dtype=np.float64) * REFERENCE_RATE / _KALDI_FFT)
    rise = (mel[None, :] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - mel[None, :]) / (edges[2:] - edges[1:-1])[:, None]
    return np.pad(np.maximum(0.0, np.minimum(rise, fall)), ((0, 0), (0, 1))).astype(np.float32)


def flow_mel(wave: Tensor, bins: int = 80) -> Tensor:
    """Natural-log magnitude mel of a 24 kHz wave, [T] to [F = T // 480, M]: what the flow predicts.

    The wave is reflected by (1920 - 480) / 2 samples at both ends, so it must be longer than 720 samples.
    """
    pad = (_FLOW_FFT - HOP_SAMPLES) // 2
    padded = F.pad(wave[None], (pad, pad), mode="reflect")[0]
    spectrum = torch.stft(
        padded, _FLOW_FFT, HOP_SAMPLES, window=_hann(_FLOW_FFT, wave.device), center=False, return_complex=True
    )
    magnitude = torch.sqrt(torch.view_as_real(spectrum).square().sum(-1) + 1e-9)
    filters = _filters("slaney", SAMPLE_RATE, _FLOW_FFT, bins, _FLOW_MAX_HZ).to(wave.device)
    return torch.log(torch.clamp(filters @ magnitude, min=1e-5)).T


def tokenizer_mel(wave: Tensor, bins: int = 128) -> Tensor:
    """Log10 power mel of a 16 kHz wave, [T] to [M, F = T // 160], floored 8 below its own maximum, then (x + 4) / 4.

    The features of Whisper (Radford et al. 2022, section 2.2).
    """
    window = _hann(_TOKENIZER_FFT, wave.device)
    spectrum = torch.stft(wave, _TOKENIZER_FFT, TOKENIZER_HOP, window=window, return_complex=True)
    power = spectrum[:, :-1].abs().square()
    filters = _filters("slaney", REFERENCE_RATE, _TOKENIZER_FFT, bins, None).to(wave.device)
    mel = torch.clamp(filters @ power, min=1e-10).log10()
    return (torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0


def speaker_mel(wave: Tensor, bins: int = 40) -> Tensor:
    """Power mel (no logarithm) of a 16 kHz wave, [T] to [F = 1 + T // 160, M]: what the GE2E speaker encoder hears."""
    window = _hann(_SPEAKER_FFT, wave.device)
    spectrum = torch.stft(wave, _SPEAKER_FFT, _SPEAKER_HOP, window=window, return_complex=True)
    filters = _filters("slaney", REFERENCE_RATE, _SPEAKER_FFT, bins, None).to(wave.device)
    return (filters @ spectrum.abs().square()).T


def kaldi_fbank(wave: Tensor, bins: int = 80) -> Tensor:
    """Kaldi's log filter-bank energies of a 16 kHz wave in -1..1, [T] to [F = 1 + (T - 400) // 160, M].

    `compute-fbank-feats` at its defaults but for `--dither=0 --num-mel-bins`: per frame the mean is removed, then
    pre-emphasis 0.97, the Povey window hann^0.85, a power spectrum of 512 points and the log with a float32 epsilon floor.
    """
    frames = wave.unfold(0, _KALDI_FRAME, _KALDI_HOP)  # [F, 400]
    frames = frames - frames.mean(dim=1, keepdim=True)
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    window = torch.hann_window(_KALDI_FRAME, periodic=False, device=wave.device).pow(0.85)
    power = torch.fft.rfft((frames - _KALDI_PREEMPHASIS * previous) * window, _KALDI_FFT).abs().square()
    energy = power @ _filters("kaldi", REFERENCE_RATE, _KALDI_FFT, bins, None).to(wave.device).T
    return energy.clamp(min=torch.finfo(torch.float32).eps).log()


def trim_silence(wave: Tensor, below_db: float = 20.0) -> Tensor:
    """Cut both ends that are more than `below_db` under the loudest frame, [T] to [T' <= T].

    Root mean square of centred frames of 2048 samples every 512, zeros past the ends, as `librosa.effects.trim` does.
    """
    half = _TRIM_FRAME // 2
    frames = F.pad(wave, (half, half)).unfold(0, _TRIM_FRAME, _TRIM_HOP)
    power = frames.square().mean(dim=1)
    floor = 1e-10
    level_db = 10.0 * torch.log10(power.clamp(min=floor) / power.max().clamp(min=floor))
    loud = torch.nonzero(level_db > -below_db)[:, 0]
    return wave[int(loud[0]) * _TRIM_HOP : (int(loud[-1]) + 1) * _TRIM_HOP]


def resample_sinc(wave: Tensor, rate_in: int, rate_out: int) -> Tensor:
    """Hann-windowed sinc interpolation of a wave, [T] to [ceil(T rate_out / rate_in)].

    y(t) = sum_n x[n] c sinc(c (t - n)) w(c (t - n)) with w(u) = cos^2(pi u / 12) for |u| < 6 and the cut-off c at 0.99 of the
    lower Nyquist frequency: `torchaudio.transforms.Resample` at its defaults, which the released path applies to what the
    x-vector net and the flow's tokens hear. It is gentler near 8 kHz than soxr.
    """
    step = math.gcd(rate_in, rate_out)
    stride, phases = rate_in // step, rate_out // step
    kernel = _sinc_kernel(stride, phases).to(wave.device)  # [phases, 1, taps]
    reach = (kernel.shape[-1] - stride) // 2
    padded = F.pad(wave[None, None], (reach, reach + stride))
    length = math.ceil(phases * wave.shape[0] / stride)
    return F.conv1d(padded, kernel, stride=stride)[0].T.reshape(-1)[:length]


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept tensors are used by training too
def _sinc_kernel(stride: int, phases: int) -> Tensor:
    zero_crossings = 6
    cutoff = 0.99 * min(stride, phases)
    reach = math.ceil(zero_crossings * stride / cutoff)
    taps = np.arange(-reach, reach + stride) / stride
    offset = taps[None, :] - np.arange(phases)[:, None] / phases
    distance = np.clip(cutoff * offset, -zero_crossings, zero_crossings)
    window = np.cos(distance * np.pi / zero_crossings / 2) ** 2
    kernel = np.sinc(distance) * window * (cutoff / stride)
    return torch.from_numpy(kernel.astype(np.float32))[:, None, :]


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept tensors are used by training too
def _filters(scale: str, sample_rate: int, fft: int, bins: int, max_hz: float | None) -> Tensor:
    if scale == "kaldi":
        return torch.from_numpy(kaldi_mel_filters(bins))
    return torch.from_numpy(slaney_mel_filters(sample_rate, fft, bins, max_hz))


def _hann(length: int, device: torch.device) -> Tensor:
    return torch.hann_window(length, device=device)


_SLANEY_HZ_PER_MEL = 200.0 / 3.0
_SLANEY_KNEE_HZ = 1000.0
_SLANEY_LOG_STEP = math.log(6.4) / 27.0


def _hz_to_slaney(hz: np.float64) -> np.float64:
    if hz < _SLANEY_KNEE_HZ:
        return hz / _SLANEY_HZ_PER_MEL
    return _SLANEY_KNEE_HZ / _SLANEY_HZ_PER_MEL + np.log(hz / _SLANEY_KNEE_HZ) / _SLANEY_LOG_STEP


def _slaney_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    knee = _SLANEY_KNEE_HZ / _SLANEY_HZ_PER_MEL
    above = _SLANEY_KNEE_HZ * np.exp(_SLANEY_LOG_STEP * (np.maximum(mel, knee) - knee))
    return np.where(mel < knee, mel * _SLANEY_HZ_PER_MEL, above)


def _hz_to_htk(hz: NDArray[np.floating] | float) -> NDArray[np.float64]:
    return 1127.0 * np.log1p(np.asarray(hz, np.float64) / 700.0)
