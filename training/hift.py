"""Training of HiFT: mel of synthetic speech to its waveform, without a discriminator.

The excitation is made from the F0 of the recording, so that spectra can be compared harmonic by harmonic; the F0 predictor
learns that F0 beside it. The network is `cf_agents.models.hift.HiFT` itself: what is trained is what is decoded with.
Knows nothing of tokens or text.

Shapes: N rows, M mel bins, T mel frames, S = 480 T samples, H harmonics with the fundamental.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cf_agents.config import HOP_SAMPLES, SAMPLE_RATE, HiFTConfig
from cf_agents.models.hift import HiFT, Window
from cf_agents.models.resblock import ResBlock
from cf_agents.models.source import F0_UNITS
from cf_agents.vocoder import SAMPLES_PER_TOKEN
from training.data import Dataset, crop
from training.loop import LossParts, Trainer, load_newest, schedule
from training.losses import log_mel, scaled_mel, spectral_distance
from training.pitch import MARGIN_SAMPLES, autocorrelation_f0

MEL_MEAN = -3.0
MEL_STD = 2.0
"""Round figures of the natural-log mel of the data set: they set first weights and step sizes, and nothing else."""
EDGE_FRAMES = 2
"""Frames at a crop's cut ends that no loss looks at: what they depend on was cut off."""
ENDED_SHARE = 0.15
"""Share of batches whose crops end where their utterance does: there the network must fall silent by itself."""
QUIETEST = 0.4
"""Least gain of a training row: a voice is as loud as its recording, and all voices share the network."""
F0_SCALE = 100.0
"""Hz that the F0 predictor's last layer makes of one: its first weights and its steps are so much larger."""


@dataclass(frozen=True, eq=False)
class HiFTBatch:
    """mel float32 [N, M, T], wave float32 [N, S], f0 float32 [N, T] in Hz, 0 where unvoiced.

    ended: the crops' ends are their utterances' ends.
    """

    mel: Tensor
    wave: Tensor
    f0: Tensor
    ended: bool = False


@torch.no_grad()
def initialise(hift: HiFT) -> None:
    """First weights for a network that hears raw log mel and speaks quietly. Draws from torch's global generator."""
    for module in hift.modules():
        if isinstance(module, ResBlock):
            for conv in (*module.convs1, *module.convs2):
                assert isinstance(conv, nn.Conv1d)
                nn.init.normal_(conv.weight, 0.0, 0.02)
    nn.init.normal_(hift.conv_post.weight, 0.0, 0.01)
    first = hift.f0_predictor.condnet[0]
    assert isinstance(first, nn.Conv1d)
    for conv in (hift.conv_pre, first):
        conv.weight /= MEL_STD
        assert conv.bias is not None
        conv.bias -= MEL_MEAN * conv.weight.sum((1, 2))
    hift.f0_predictor.classifier.weight.mul_(F0_SCALE)
    hift.f0_predictor.classifier.bias.mul_(F0_SCALE)


def parameter_groups(hift: HiFT, rate: float) -> list[dict[str, object]]:
    """Groups for an Adam-like optimiser: layers that hear log mel or speak in Hz take steps of their own scale."""
    first = hift.f0_predictor.condnet[0]
    assert isinstance(first, nn.Conv1d)
    slow = [hift.conv_pre.weight, first.weight]
    fast = list(hift.f0_predictor.classifier.parameters())
    apart = {id(parameter) for parameter in (*slow, *fast)}
    rest = [parameter for parameter in hift.parameters() if id(parameter) not in apart]
    return [
        {"params": rest, "lr": rate},
        {"params": slow, "lr": rate / MEL_STD},
        {"params": fast, "lr": rate * F0_SCALE},
    ]


def speak(hift: HiFT, mel: Tensor, f0: Tensor) -> Tensor:
    """Waveform [N, S] of `mel` [N, M, T] excited by `f0` [N, T], with random phase and noise, gradients and no fade."""
    rows, frames = f0.shape
    count = hift.config.harmonics + 1
    phase = torch.randint(0, SAMPLE_RATE * F0_UNITS, (rows,), device=f0.device)
    offsets = (torch.rand(rows, count, device=f0.device) * 2 - 1) * torch.pi
    offsets[:, 0] = 0.0
    noise = torch.randn(rows, frames * HOP_SAMPLES, device=f0.device)
    sources, _ = hift.m_source(f0, phase, offsets, noise)
    return torch.stack(hift.decode(mel, list(sources), [Window(frames, 0, frames)] * rows))


def losses(hift: HiFT, batch: HiFTBatch, predicted_f0: float = 0.0) -> dict[str, Tensor]:
    """Terms of the objective, whose sum is to be lowered: "stft", "mel" (L1 of natural log) and "f0" (L1 in units of 30 Hz).

    `predicted_f0` is the share of rows excited by the predictor's own F0, as at run time; no gradient goes that way.
    """
    guess = hift.f0_predictor(batch.mel)
    own = torch.rand(batch.f0.shape[0], 1, device=batch.f0.device) < predicted_f0
    made = speak(hift, batch.mel, torch.where(own, guess.detach(), batch.f0))
    stop = batch.mel.shape[2] - (0 if batch.ended else EDGE_FRAMES)
    heard = slice(EDGE_FRAMES * HOP_SAMPLES, stop * HOP_SAMPLES)
    mel_distance = (log_mel(made) - log_mel(batch.wave))[:, EDGE_FRAMES:stop].abs().mean()
    return {
        "stft": spectral_distance(made[:, heard], batch.wave[:, heard]),
        "mel": mel_distance,
        "f0": (guess - batch.f0).abs().mean() / 30.0,
    }


class HiFTBatches:
    """Random crops of a data set: `rows` crops of `tokens` tokens, sometimes all from the very end of their utterances."""

    def __init__(self, data: Dataset, rows: int, tokens: int, seed: int) -> None:
        self._data = data
        self._rows = rows
        self._tokens = tokens
        self._seed = seed

    def draw(self, step: int) -> HiFTBatch:
        """The batch of a step: the same whenever it is asked for."""
        chooser = np.random.default_rng((self._seed, step))
        ended = bool(chooser.random() < ENDED_SHARE)
        if ended:
            long = np.flatnonzero(self._data.lengths >= self._tokens)
            firsts = self._data.offsets[chooser.choice(long, self._rows) + 1] - self._tokens
        else:
            firsts = crop(self._data, self._rows, self._tokens, chooser)
        batch = hift_batch(self._data, [int(first) for first in firsts], self._tokens, ended=ended)
        gains = np.exp(chooser.uniform(np.log(QUIETEST), 0.0, self._rows)).astype(np.float32)
        return quieter(batch, torch.from_numpy(gains))


def quieter(batch: HiFTBatch, gains: Tensor) -> HiFTBatch:
    """Every row of `batch` times its gain [N]."""
    return replace(batch, mel=scaled_mel(batch.mel, gains), wave=batch.wave * gains[:, None])


def hift_batch(data: Dataset, firsts: Sequence[int], tokens: int, *, ended: bool) -> HiFTBatch:
    """The crops of `tokens` tokens from each of `firsts`, with their F0."""
    mel = torch.from_numpy(np.stack([data.mel(first, tokens) for first in firsts])).transpose(1, 2)
    wave = torch.from_numpy(np.stack([_with_margin(data, first, tokens) for first in firsts]))
    return HiFTBatch(mel, wave[:, MARGIN_SAMPLES:-MARGIN_SAMPLES], autocorrelation_f0(wave), ended)


@dataclass(frozen=True)
class HiFTStage:
    """Knobs of the stage."""

    steps: int = 2000
    rows: int = 8
    crop_tokens: int = 24
    warm_up: int = 100
    learning_rate: float = 1.5e-3
    predicted_f0: float = 0.25
    """Share of rows excited by predicted F0 in the second half, so that the network hears the predictor's mistakes too."""
    save_every: int = 200
    minutes: float | None = None
    """Train for so long instead of for `steps`, see `decoder.DecoderStage`."""
    mean: float | None = None
    """See `loop.Trainer`."""


ADAPTATION = HiFTStage(steps=500, warm_up=50, learning_rate=4e-4)
CONTINUED = HiFTStage(warm_up=50, learning_rate=1e-3, mean=0.98)
"""Going on from a checkpoint folder."""


def train(
    data: Sequence[Dataset],
    held_out: Dataset,
    folder: Path,
    config: HiFTConfig,
    stage: HiFTStage,
    start: HiFT | None = None,
) -> HiFT:
    """Train, or go on training, and return the network in evaluation mode.

    Batches are taken from the sets of `data` in turn. `start` is trained further, in place of first weights, and excited by its
    own F0 from the first step on.
    """
    torch.manual_seed(0)
    hift = HiFT(config)
    if start is None:
        initialise(hift)
    else:
        hift.load_state_dict(start.state_dict())
    optimiser = torch.optim.AdamW(parameter_groups(hift, stage.learning_rate), betas=(0.8, 0.99), weight_decay=0.0)
    lasting = schedule(stage.steps, stage.minutes, stage.warm_up)
    trainer = Trainer(folder, hift, [optimiser], lasting, clip=5.0, save_every=stage.save_every, mean=stage.mean)
    torch.manual_seed(trainer.step)
    batches = [HiFTBatches(each, stage.rows, stage.crop_tokens, seed=0) for each in data]

    def step_losses(step: int) -> LossParts:
        share = stage.predicted_f0 if start is not None or 2 * step > stage.steps else 0.0
        parts = losses(hift, batches[step % len(batches)].draw(step), share)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    trainer.run(step_losses, lambda: evaluate(hift, held_out))
    return hift


def load(folder: Path, config: HiFTConfig) -> HiFT:
    """The trained stage of `folder`. Raises `FileNotFoundError` when there is none."""
    hift = HiFT(config)
    load_newest(folder, hift)
    return hift


@torch.no_grad()
def evaluate(hift: HiFT, data: Dataset, utterances: int = 12) -> dict[str, float]:
    """The terms of the objective on whole utterances excited by predicted F0, and the share of frames voiced in one only."""
    sums: dict[str, float] = {}
    chosen = range(0, len(data), max(1, len(data) // utterances))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number in chosen:
            batch = hift_batch(data, [int(data.offsets[number])], int(data.lengths[number]), ended=True)
            parts = {name: float(value) for name, value in losses(hift, batch, 1.0).items()}
            guess = hift.f0_predictor(batch.mel)
            parts["voicing"] = float(((guess > hift.config.voiced_threshold_hz) != (batch.f0 > 0)).float().mean())
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value / len(chosen)
    return sums


def _with_margin(data: Dataset, first: int, tokens: int) -> NDArray[np.float32]:
    """Samples of a crop with `MARGIN_SAMPLES` more at both ends: the neighbours', or zeros past the whole set's ends."""
    before = min(1, first)
    after = min(1, int(data.offsets[-1]) - first - tokens)
    wave = data.wave(first - before, before + tokens + after)
    wave = np.pad(wave, (SAMPLES_PER_TOKEN * (1 - before), SAMPLES_PER_TOKEN * (1 - after)))
    return wave[SAMPLES_PER_TOKEN - MARGIN_SAMPLES : len(wave) - SAMPLES_PER_TOKEN + MARGIN_SAMPLES]
