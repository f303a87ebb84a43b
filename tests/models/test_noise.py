"""Noise by absolute time: the same whatever the cut, normal, and other for another seed, stream or channel."""

from __future__ import annotations

import torch

from cf_agents.models.noise import MEL_STREAM, SOURCE_STREAM, SeededNoise


def test_pieces_equal_the_whole() -> None:
    noise = SeededNoise(5, 9)
    whole = noise.frames(0, 1000)
    pieces = [noise.frames(a, b) for a, b in ((0, 1), (1, 480), (480, 481), (481, 1000))]
    assert torch.equal(torch.cat(pieces, 1), whole)
    assert whole.shape == (9, 1000)
    assert noise.frames(7, 7).shape == (9, 0)


def test_far_times_are_reached_without_the_near_ones() -> None:
    far = 24_000 * 3600
    assert torch.equal(SeededNoise(5, 9).frames(far, far + 10), SeededNoise(5, 9).frames(far - 3, far + 10)[:, 3:])


def test_values_are_standard_normal_and_independent() -> None:
    x = SeededNoise(1, 80).frames(0, 20_000).double()
    assert abs(x.mean().item()) < 0.005
    assert abs(x.var().item() - 1) < 0.01
    assert abs((x**4).mean().item() - 3) < 0.05
    assert torch.corrcoef(x).fill_diagonal_(0).abs().max() < 0.04
    assert abs((x[:, 1:] * x[:, :-1]).mean().item()) < 0.005


def test_seed_and_stream_change_everything() -> None:
    base = SeededNoise(1, 80, MEL_STREAM).frames(0, 500).flatten()
    for other in (SeededNoise(2, 80, MEL_STREAM), SeededNoise(1, 80, SOURCE_STREAM), SeededNoise(-1, 80, MEL_STREAM)):
        assert abs(torch.corrcoef(torch.stack([base, other.frames(0, 500).flatten()]))[0, 1]) < 0.03
    assert torch.equal(base, SeededNoise(1 + 2**64, 80, MEL_STREAM).frames(0, 500).flatten())
