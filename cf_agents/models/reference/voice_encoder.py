"""GE2E speaker encoder: an LSTM over short windows of a recording, averaged into the vector that tells the decoder who speaks.

Wan et al. 2018, "Generalized End-to-End Loss for Speaker Verification". Inference only; knows nothing of files or voices.

Shape letters: T samples, F frames, M mel bins, W windows, E embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cf_agents.config import REFERENCE_RATE, VoiceEncoderConfig
from cf_agents.models.reference.features import speaker_mel, trim_silence

WINDOW_FRAMES = 160
WINDOWS_PER_SECOND = 1.3
MIN_COVERAGE = 0.8
"""A last window that has at least this share of real frames is kept and filled with zeros."""


class VoiceEncoder(nn.Module):
    """Speaker embedding of unit length from 16 kHz speech."""

    def __init__(self, config: VoiceEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.lstm = nn.LSTM(config.mel_bins, config.hidden_size, config.num_layers, batch_first=True)
        self.proj = nn.Linear(config.hidden_size, config.embedding_dim)
        # Scale and offset of the training loss: stored in the released file, not used to embed.
        self.similarity_weight = nn.Parameter(torch.tensor([10.0]))
        self.similarity_bias = nn.Parameter(torch.tensor([-5.0]))

    def forward(self, windows: Tensor) -> Tensor:
        """Embed windows of mel frames, float32 [W, 160, M] to [W, E], each of unit length and without negative entries."""
        self.lstm.flatten_parameters()
        _, (hidden, _) = self.lstm(windows)
        return F.normalize(F.relu(self.proj(hidden[-1])), dim=1)

    @torch.inference_mode()
    def embed(self, wave: Tensor) -> Tensor:
        """The speaker vector [E] of a 16 kHz wave [T]: silent ends trimmed, windows embedded, averaged and renormalised."""
        frames = speaker_mel(trim_silence(wave), self.config.mel_bins)
        count, step = window_plan(frames.shape[0])
        length = WINDOW_FRAMES + step * (count - 1)
        frames = F.pad(frames, (0, 0, 0, max(0, length - frames.shape[0])))[:length]
        windows = frames.unfold(0, WINDOW_FRAMES, step).transpose(1, 2)  # [W, 160, M]
        # Batches of 32 bound the memory of a long recording.
        embedded = torch.cat([self(batch) for batch in windows.contiguous().split(32)])
        return F.normalize(embedded.mean(dim=0), dim=0)


def window_plan(frames: int) -> tuple[int, int]:
    """How many windows cover `frames` mel frames, and how many frames lie between their starts."""
    step = round(REFERENCE_RATE / WINDOWS_PER_SECOND / WINDOW_FRAMES)
    count, rest = divmod(max(frames - WINDOW_FRAMES + step, 0), step)
    if count == 0 or (rest + WINDOW_FRAMES - step) / WINDOW_FRAMES >= MIN_COVERAGE:
        count += 1
    return count, step
