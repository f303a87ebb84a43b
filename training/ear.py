"""A network that hears phones in mel, for the flow to learn from: a mean distance of mel forgives what makes a "t" a "d".

A burst or the place of a formant is little of a mean over 80 bins, and all of a phone. So the flow is also held to what a
recogniser makes of its mel, layer by layer, beside what it makes of the true one (a feature loss, Johnson et al. 2016). It is
not the recogniser that measures (`recogniser.train`): other utterances, other first weights, another width.

Shapes: N rows, T mel frames, M mel bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.data import Dataset, crop
from training.loop import LossParts, Schedule, Trainer, load_newest
from training.recogniser import Recogniser, roughened

_TOLD = 0.3
"""Weight of the phones' shares beside the layers'."""


@dataclass(frozen=True)
class EarStage:
    """How long, on how much and how wide."""

    steps: int = 2500
    rows: int = 12
    tokens: int = 36
    rate: float = 3e-3
    width: int = 80
    seed: int = 1


def train(data: Dataset, folder: Path, stage: EarStage) -> Recogniser:
    """Train, or go on where a run stopped."""
    torch.manual_seed(stage.seed)
    net = Recogniser(stage.width)
    optimiser = torch.optim.AdamW(net.parameters(), stage.rate, weight_decay=0.01)
    trainer = Trainer(folder, net, [optimiser], Schedule(stage.steps))

    def losses(step: int) -> LossParts:
        chooser = np.random.default_rng((stage.seed, step))
        firsts = crop(data, stage.rows, stage.tokens, chooser)
        mel = torch.from_numpy(np.stack([data.mel(int(first), stage.tokens) for first in firsts])).transpose(1, 2)
        labels = torch.from_numpy(np.stack([data.phones(int(first), stage.tokens) for first in firsts]))
        logits = net(roughened(mel, chooser))
        return {"loss": F.cross_entropy(logits, labels), "right": (logits.argmax(1) == labels).float().mean()}

    trainer.run(losses)
    return net.eval()


def load(folder: Path, stage: EarStage) -> Recogniser:
    """What `train` left, to be learned from: its own weights stay. Raises `FileNotFoundError` without one."""
    net = Recogniser(stage.width)
    load_newest(folder, net)
    return net.requires_grad_(False)


def distance(ear: Recogniser, made: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """How differently the ear hears two mels [N, T, M]; weight [N, T], of sum 1.

    Of each layer the mean absolute difference, in units of the layer's spread; of the phones' shares the divergence.
    """
    with torch.no_grad():
        *layers, told = ear.layers(true.transpose(1, 2))
    *heard, named = ear.layers(made.transpose(1, 2))
    total = made.new_zeros(())
    for ours, theirs in zip(heard, layers, strict=True):
        total = total + ((ours - theirs).abs().mean(1) * weight).sum() / theirs.std()
    shares = F.kl_div(named.log_softmax(1), told.log_softmax(1), log_target=True, reduction="none").sum(1)
    return total / len(layers) + _TOLD * (shares * weight).sum()
