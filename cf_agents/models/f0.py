"""Fundamental frequency from mel: five convolutions and a linear layer. Knows nothing of chunks beyond its own reach.

Shapes: N rows, M mel bins, C channels, T mel frames.
"""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from cf_agents.models.layout import WeightNormConv1d

LAYERS = 5
F0_REACH_FRAMES = LAYERS
"""A kernel of 3 in each layer: F0 of a frame is final once this many later frames are known."""


class F0Predictor(nn.Module):
    """The F0 predictor of HiFT-GAN (Li et al. 2023, arXiv:2309.09493), released as `mel2wav.f0_predictor`."""

    def __init__(self, mel_bins: int, channels: int) -> None:
        super().__init__()
        widths = [mel_bins] + [channels] * LAYERS
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [WeightNormConv1d(width_in, width_out, 3, padding=1), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor, mask: Tensor | None = None) -> Tensor:
        """F0 in Hz, [N, T], of `mel` [N, M, T]. `mask` [N, 1, T] is 0 past a row's end, where `mel` must be 0 too."""
        x = mel
        for layer in self.condnet:
            x = layer(x)
            if mask is not None and isinstance(layer, WeightNormConv1d):
                x = x * mask
        return F.linear(x.transpose(1, 2), self.classifier.weight, self.classifier.bias).squeeze(2).abs()
