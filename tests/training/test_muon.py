"""Muon without bfloat16 moves weights as torch's does."""

from __future__ import annotations

import torch
from torch import nn

from training.muon import Muon, orthogonal


def test_it_moves_weights_as_torchs_does() -> None:
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in ((48, 16), (16, 48), (48, 16))]
    ours, theirs = ([nn.Parameter(weight.clone()) for weight in start] for _ in range(2))
    optimisers = [
        Muon(ours, 1e-2),
        torch.optim.Muon(theirs, lr=1e-2, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for mine, other, weight in zip(ours, theirs, start, strict=True):
        # bfloat16 tells eight bits
        assert float((mine - other).detach().norm() / (other - weight).detach().norm()) < 0.03


def test_each_matrix_of_a_stack_is_made_orthogonal_by_itself() -> None:
    torch.manual_seed(0)
    stack = torch.randn(3, 20, 12) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    values = torch.linalg.svdvals(orthogonal(stack))
    assert bool(((values > 0.6) & (values < 1.3)).all())
    assert torch.allclose(orthogonal(stack)[1], orthogonal(stack[1:2])[0], atol=1e-6)


def test_a_matrix_without_a_gradient_stays() -> None:
    moved, still = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    moved.grad = torch.eye(3)
    Muon([moved, still], 0.1).step()
    assert torch.equal(still, torch.ones(3, 3))
    assert not torch.equal(moved, torch.ones(3, 3))
