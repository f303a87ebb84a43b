"""A small phone recogniser for measuring: it knows the speakers of the training data and no others.

Trained on espeak-ng's speech and phone times, made as it goes, with noise that stands for what a vocoder does to mel. It hears
mel and shares no weights with what is measured with it; a flow that went on has learnt from a network of its kind (`ear`).

Shapes: N rows, T mel frames, M mel bins, P phones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cf_agents.config import HOP_SAMPLES
from cf_agents.models.reference.features import flow_mel
from training.config import SPEAKERS
from training.corpus import mixed
from training.loop import Schedule, Trainer, load_newest, newest_state
from training.speech import PAUSES, PHONES, Spoken, speak

MEL_BINS = 80
_MEL_MEAN, _MEL_SCALE = -5.0, 3.0
CHANGE_COST = 2.0
"""Nats that a change of phone costs when listening: without it a rough sound is heard as phones in quick succession."""
_LABELS = {name: label for label, name in enumerate(PHONES)}


@dataclass(frozen=True)
class RecogniserStage:
    """How long and on how much."""

    steps: int = 6000
    rows: int = 12
    frames: int = 64
    rate: float = 3e-3
    width: int = 96
    seed: int = 0


@dataclass(frozen=True)
class Phone:
    """One phone as it is heard or told: its label in `PHONES`, frames [begin, end) at 50 Hz."""

    label: int
    begin: int
    end: int


class Recogniser(nn.Module):
    """Residual dilated convolutions: mel [N, M, T] to logits [N, P, T], 15 frames to each side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(MEL_BINS, width, 5, padding=2)
        self.blocks = nn.ModuleList(_Block(width, kernel, dilation) for kernel, dilation in ((3, 1), (5, 2), (5, 4), (3, 1)))
        self.last = nn.Conv1d(width, len(PHONES), 1)

    def forward(self, mel: Tensor) -> Tensor:
        return self.layers(mel)[-1]

    def layers(self, mel: Tensor) -> list[Tensor]:
        """What each block makes of mel, [N, C, T], and the logits."""
        made = [self.first((mel - _MEL_MEAN) / _MEL_SCALE)]
        for block in self.blocks:
            made.append(block(made[-1]))
        return [*made[1:], self.last(made[-1])]

    @torch.inference_mode()
    def hear(self, wave: NDArray[np.float32]) -> list[Phone]:
        """The phones of a 24 kHz wave in order, pauses left out."""
        if len(wave) < HOP_SAMPLES:
            return []
        logits = self(flow_mel(torch.from_numpy(wave)).T[None])[0].T
        return runs(steady(logits.log_softmax(1).numpy(), CHANGE_COST))


class _Block(nn.Module):
    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Conv1d(width, width, kernel, padding=(kernel - 1) // 2 * dilation, dilation=dilation)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.gelu(self.wide(self.norm(x.transpose(1, 2)).transpose(1, 2))))


def labels_of(spoken: Spoken) -> NDArray[np.int64]:
    """The phone of each mel frame, [T], what is not in `PHONES` being silence."""
    frames = len(spoken.wave) // HOP_SAMPLES
    labels = np.zeros(frames, np.int64)
    for begin, name in spoken.phones:
        labels[round(begin / HOP_SAMPLES) :] = _LABELS.get(name, 0)
    return labels


def told(spoken: Spoken) -> list[Phone]:
    """The phones that espeak-ng says it spoke, pauses left out."""
    ends = [begin for begin, _ in spoken.phones[1:]] + [len(spoken.wave)]
    phones = []
    for (begin, name), end in zip(spoken.phones, ends, strict=True):
        label = _LABELS.get(name, 0)
        if label >= PAUSES:
            phones.append(Phone(label, begin // HOP_SAMPLES, end // HOP_SAMPLES))
    return phones


def steady(log_probs: NDArray[np.float32], change_cost: float) -> list[int]:
    """The likeliest label of each frame when every change of label costs `change_cost` nats, of [T, P] (Viterbi 1967)."""
    stay = np.arange(log_probs.shape[1])
    best, came = log_probs[0], []
    for frame in log_probs[1:]:
        top = int(best.argmax())
        changed = best[top] - change_cost
        came.append(np.where(best >= changed, stay, top))
        best = np.maximum(best, changed) + frame
    label = int(best.argmax())
    labels = [label]
    for back in reversed(came):
        label = int(back[label])
        labels.append(label)
    return labels[::-1]


def runs(labels: list[int]) -> list[Phone]:
    """Phones of frame labels: equal neighbours are one, pauses none."""
    phones: list[Phone] = []
    for frame, label in enumerate(labels):
        if phones and phones[-1].label == label and phones[-1].end == frame:
            phones[-1] = Phone(label, phones[-1].begin, frame + 1)
        elif label >= PAUSES:
            phones.append(Phone(label, frame, frame + 1))
    return phones


def train(folder: Path, stage: RecogniserStage) -> Recogniser:
    """Train, or go on where a run stopped; needs libespeak-ng and WordNet and no data set."""
    torch.manual_seed(stage.seed)
    net = Recogniser(stage.width)
    optimiser = torch.optim.AdamW(net.parameters(), stage.rate, weight_decay=0.01)
    trainer = Trainer(folder, net, [optimiser], Schedule(stage.steps))
    batches = _batches(stage, trainer.step)

    def losses(step: int) -> dict[str, Tensor]:
        mel, labels = next(batches)
        return {"loss": F.cross_entropy(net(mel), labels)}

    trainer.run(losses)
    return net.eval()


def load(folder: Path, stage: RecogniserStage) -> Recogniser:
    """What `train` left in its folder, if it came to its end; else train on."""
    state = newest_state(folder)
    if state is None or state["step"] < stage.steps:
        return train(folder, stage)
    net = Recogniser(stage.width)
    load_newest(folder, net)
    return net


def _batches(stage: RecogniserStage, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Crops mel [N, M, T], roughened, and labels [N, T]."""
    random = np.random.default_rng([stage.seed, seed])
    torch.manual_seed(int(random.integers(1 << 31)))
    crops = _crops(stage, random)
    while True:
        pairs = [next(crops) for _ in range(stage.rows)]
        mel, labels = (torch.stack(side) for side in zip(*pairs, strict=True))
        yield roughened(mel, random), labels


def roughened(mel: Tensor, random: np.random.Generator) -> Tensor:
    """Mel [N, M, T] with other levels, colours, noise and smoothness; draws from torch's global generator too."""
    rows = mel.shape[0]
    noise = torch.randn_like(mel) * torch.rand(rows, 1, 1) * 0.8
    level = torch.randn(rows, 1, 1) * 0.4
    colour = F.interpolate(torch.randn(rows, 1, 5), MEL_BINS, mode="linear").transpose(1, 2) * 0.4
    if random.random() < 0.5:
        mel = F.avg_pool1d(F.pad(mel, (1, 1), mode="replicate"), 3, 1)
    if random.random() < 0.5:
        mel = F.avg_pool1d(F.pad(mel.transpose(1, 2), (1, 1), mode="replicate"), 3, 1).transpose(1, 2)
    return mel + noise + level + colour


def _crops(stage: RecogniserStage, random: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """A few crops of each utterance, mixed over a window of utterances."""
    texts, waiting = mixed("train", int(random.integers(1 << 31))), []
    while True:
        while len(waiting) < 8 * stage.rows:
            spoken = speak(next(texts), SPEAKERS[int(random.integers(len(SPEAKERS)))])
            if spoken is None or len(spoken.wave) < HOP_SAMPLES * stage.frames:
                continue
            mel, labels = flow_mel(torch.from_numpy(spoken.wave)), torch.from_numpy(labels_of(spoken))
            for _ in range(max(1, len(labels) // stage.frames)):
                at = int(random.integers(len(labels) - stage.frames + 1))
                waiting.append((mel[at : at + stage.frames].T, labels[at : at + stage.frames]))
        yield waiting.pop(int(random.integers(len(waiting))))
