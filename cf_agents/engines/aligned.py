"""Where in its text each open position looks, from the scores of the config's alignment heads; for every torch back-end.

Shapes: N rows, D open tokens, H heads, E head size, W places of the widest text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class AlignedScores:
    """Gathers scores of one forward, layer by layer."""

    def __init__(self, seen: Tensor) -> None:
        """seen: bool [N, 1, W], the places of each row's own text; at least one."""
        self._seen = seen
        self._looks: list[tuple[Sequence[int], Tensor, Tensor]] = []

    def add(self, heads: Sequence[int], q: Tensor, k: Tensor) -> None:
        """Queries [N, D, H, E] of the open blocks and keys [N, W, H, E] of the texts, of a layer with these alignment heads."""
        self._looks.append((heads, q, k))

    def places(self) -> Tensor:
        """`Scored.places`."""
        scores = [
            q[:, :, head].float() @ k[:, :, head].float().transpose(1, 2) * q.shape[-1] ** -0.5
            for heads, q, k in self._looks
            for head in heads
        ]
        score = torch.stack(scores).mean(dim=0)  # [N, D, W]
        share = score.masked_fill(~self._seen, -math.inf).softmax(dim=-1)
        return share @ torch.arange(share.shape[-1], device=share.device, dtype=share.dtype)
