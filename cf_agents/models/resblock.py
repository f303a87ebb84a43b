"""Residual blocks of dilated convolutions with the Snake activation, as HiFT stacks them.

Shapes: N rows, C channels, T samples at the block's rate. A mask [N, 1, T] of ones and zeros gives every row of a padded batch
the zero padding that it would have alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cf_agents.models.layout import WeightNormConv1d

SNAKE_EPSILON = 1e-9


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha with one alpha per channel (Ziyin et al. 2020, arXiv:2006.08195, eq. 3); 0 stays 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, T] of `x` [N, C, T]."""
        alpha = self.alpha.view(1, -1, 1)
        wave = (x * alpha).sin_().square_()
        return torch.addcdiv(x, wave, alpha + SNAKE_EPSILON)


class ResBlock(nn.Module):
    """One residual branch per dilation: Snake, dilated convolution, Snake, plain convolution."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            WeightNormConv1d(channels, channels, kernel, dilation=d, padding=(kernel - 1) * d // 2) for d in dilations
        )
        self.convs2 = nn.ModuleList(WeightNormConv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[N, C, T] of `x` [N, C, T], which is 0 where the mask is; so is the result."""
        for snake1, conv1, snake2, conv2 in zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True):
            y = conv1(snake1(x))
            if mask is not None:
                y = y.mul_(mask)
            y = conv2(snake2(y))
            x = y.add_(x) if mask is None else torch.addcmul(x, y, mask)
        return x


def resblock_reach(kernel: int, dilations: Sequence[int]) -> int:
    """Samples on each side of one output that a `ResBlock` looks at."""
    half = (kernel - 1) // 2
    return sum(half * d + half for d in dilations)
