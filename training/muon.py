"""Muon in float32, matrices of one shape together: `torch.optim.Muon` crawls on CPUs where bfloat16 is emulated."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5


class Muon(Optimizer):
    """Momentum whose matrices are made orthogonal (Jordan et al. 2024), as large as AdamW's updates (Liu et al. 2025).

    Takes matrices alone. Those of one shape are orthogonalised together.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every matrix that has a gradient. A `closure` is not called."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in shapes.items():
                updates = []
                for matrix in matrices:
                    gradient = matrix.grad
                    assert gradient is not None
                    kept = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
                    kept.lerp_(gradient, 1 - momentum)
                    updates.append(gradient.lerp(kept, momentum))
                size = 0.2 * max(shape) ** 0.5
                for matrix, update in zip(matrices, orthogonal(torch.stack(updates)), strict=True):
                    matrix.mul_(1 - rate * group["weight_decay"]).add_(update, alpha=-rate * size)


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly the orthogonal factor of each matrix [M, R, C], singular values between .7 and 1.2, by Newton and Schulz."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x
