"""Training of the voice encoder: windows of one speaker together, those of different speakers apart.

The generalised end-to-end loss in its softmax form (Wan et al. 2018, section 2.1), on the few voices of the data set: enough
for the decoder to know them by, not to tell people apart.

Letters: K speakers, M windows of each, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cf_agents.config import REFERENCE_RATE, SAMPLE_RATE, VoiceEncoderConfig
from cf_agents.models.reference.features import resample_sinc, speaker_mel
from cf_agents.models.reference.voice_encoder import WINDOW_FRAMES, VoiceEncoder
from training.data import Dataset
from training.loop import LossParts, Schedule, Trainer, load_newest

_WINDOW_TOKENS = 40
"""1.6 s, what a window of 160 frames spans."""


@dataclass(frozen=True)
class EncoderStage:
    """Knobs of the stage."""

    steps: int = 150
    windows: int = 8
    learning_rate: float = 2e-3


def train(data: Dataset, folder: Path, config: VoiceEncoderConfig, stage: EncoderStage) -> VoiceEncoder:
    """Train, or go on training, and return the network in evaluation mode."""
    torch.manual_seed(0)
    encoder = VoiceEncoder(config)
    optimiser = torch.optim.AdamW(encoder.parameters(), stage.learning_rate)
    trainer = Trainer(folder, encoder, [optimiser], Schedule(stage.steps, 20), save_every=stage.steps)
    chooser = np.random.default_rng(trainer.step)
    speakers = np.unique(data.speakers)

    def losses(step: int) -> LossParts:
        windows = torch.cat([_windows(data, int(speaker), stage.windows, chooser) for speaker in speakers])
        embedded = encoder(windows).view(len(speakers), stage.windows, -1)  # [K, M, E]
        likeness = encoder.similarity_weight * _cosines(embedded) + encoder.similarity_bias  # [K, M, K]
        own = torch.arange(len(speakers))[:, None].expand(-1, stage.windows)
        right = (likeness.argmax(-1) == own).float().mean()
        return {"loss": F.cross_entropy(likeness.flatten(0, 1), own.flatten()), "right": right}

    trainer.run(losses)
    return encoder


def load(folder: Path, config: VoiceEncoderConfig) -> VoiceEncoder:
    """The trained stage of `folder`. Raises `FileNotFoundError` when there is none."""
    encoder = VoiceEncoder(config)
    load_newest(folder, encoder)
    return encoder


@torch.inference_mode()
def centres(data: Dataset, encoder: VoiceEncoder, windows: int = 32) -> NDArray[np.float32]:
    """The mean embedding of each speaker, of unit length: float32 [K, E]."""
    chooser = np.random.default_rng(0)
    found = [encoder(_windows(data, int(speaker), windows, chooser)).mean(0) for speaker in np.unique(data.speakers)]
    return F.normalize(torch.stack(found), dim=1).numpy()


def _cosines(embedded: Tensor) -> Tensor:
    """Of each window with each speaker's centre, its own window left out of its own centre: [K, M, E] to [K, M, K]."""
    total = embedded.sum(1)
    centre = F.normalize(total, dim=-1)
    others = F.normalize(total[:, None] - embedded, dim=-1)
    to_all = embedded @ centre.T
    to_own = (embedded * others).sum(-1)
    own = torch.eye(len(embedded), dtype=torch.bool)[:, None]
    return torch.where(own, to_own[..., None], to_all)


def _windows(data: Dataset, speaker: int, count: int, chooser: np.random.Generator) -> Tensor:
    usable = data.of_speaker(speaker)
    usable = usable[data.lengths[usable] >= _WINDOW_TOKENS]
    windows = []
    for row in chooser.choice(usable, count):
        first = int(data.offsets[row] + chooser.integers(0, data.lengths[row] - _WINDOW_TOKENS + 1))
        wave = resample_sinc(torch.from_numpy(data.wave(first, _WINDOW_TOKENS)), SAMPLE_RATE, REFERENCE_RATE)
        windows.append(speaker_mel(wave)[:WINDOW_FRAMES])
    return torch.stack(windows)
