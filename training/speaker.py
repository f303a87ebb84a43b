"""The pocket model's x-vector net: random convolutions whose batch-norm statistics are those of the data set's voices.

It is not trained to tell speakers apart: random features of long-term spectra do that for a few synthetic voices once the last
norm has taken away what all voices share. The flow learns to hear voices through it. Knows nothing of the flow.

Shapes: N rows, F frames, M filter banks, E embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cf_agents.config import REFERENCE_RATE, SAMPLE_RATE, XVectorConfig
from cf_agents.models.reference.features import kaldi_fbank, resample_sinc
from cf_agents.models.reference.xvector import XVector
from training.data import Dataset

_CALIBRATION_ROWS = 128
_CALIBRATION_TOKENS = 50
_SEED = 2024


def speaker_net(path: Path, data: Dataset, config: XVectorConfig) -> XVector:
    """The net in the safetensors file `path`, made from `data` and kept there if it is not."""
    net = XVector(config)
    if path.exists():
        net.load_state_dict(load_file(path))
        return net.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        net = XVector(config)
    calibrate(net, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(net.state_dict(), partial)
    partial.replace(path)
    return net.eval()


@torch.no_grad()
def calibrate(net: XVector, data: Dataset) -> None:
    """Set every batch norm's statistics to those of random crops of `data`, as many of each speaker."""
    chooser = np.random.default_rng(_SEED)
    speakers = np.unique(data.speakers)
    tokens = min(_CALIBRATION_TOKENS, *(int(data.lengths[data.speakers == speaker].max()) for speaker in speakers))
    rows: list[Tensor] = []
    for row in range(_CALIBRATION_ROWS):
        own = np.flatnonzero((data.speakers == speakers[row % len(speakers)]) & (data.lengths >= tokens))
        number = int(chooser.choice(own))
        start = int(chooser.integers(0, data.lengths[number] - tokens + 1))
        wave = torch.from_numpy(data.wave(int(data.offsets[number]) + start, tokens))
        features = kaldi_fbank(resample_sinc(wave, SAMPLE_RATE, REFERENCE_RATE), net.config.mel_bins)
        rows.append(features - features.mean(0, keepdim=True))
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    net.train()
    net(torch.stack(rows))
    net.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def embeddings(net: XVector, data: Dataset, speaker: int, count: int, chooser: np.random.Generator) -> Tensor:
    """x-vectors [count, E] of recordings of one speaker, each several utterances long, as a voice's reference would be."""
    own = data.of_speaker(speaker)
    return torch.stack([_embedding(net, data, chooser.choice(own, 3)) for _ in range(count)])


def _embedding(net: XVector, data: Dataset, numbers: Sequence[int] | np.ndarray) -> Tensor:
    waves = [data.wave(int(data.offsets[number]), int(data.lengths[number])) for number in numbers]
    wave = resample_sinc(torch.from_numpy(np.concatenate(waves)), SAMPLE_RATE, REFERENCE_RATE)
    return net.embed(wave)
