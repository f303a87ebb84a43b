"""Training of the speech tokenizer: mel in, codes out, and back to mel, so that the codes hold what was said and how.

The network that ships is `SpeechTokenizer`; the decoder and the phone head that teach it are dropped after training. Rounding
passes gradients straight through (Mentzer et al. 2023, finite scalar quantisation).

Letters: N crops, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cf_agents.config import CODEC_VOCAB, FRAMES_PER_TOKEN, ModelConfig
from cf_agents.models.reference.speech_tokenizer import SpeechTokenizer
from training.data import Dataset, crop, write_tokens
from training.loop import LossParts, Schedule, Trainer, load_newest
from training.speech import PHONES

_SHRINK = 0.999
MEL_MEAN, MEL_SCALE = -5.0, 3.0
"""Log mel minus the first, by the second, is of the order of 1."""


class TokenizerTrainer(nn.Module):
    """A `SpeechTokenizer` between its features and a reconstruction of the flow's mel."""

    def __init__(self, config: ModelConfig, width: int = 160) -> None:
        super().__init__()
        self.net = SpeechTokenizer(config.speech_tokenizer)
        digits = self.net.quantizer._codebook.project_down.out_features
        self.before = nn.Conv1d(digits, width, 5, padding=2)
        self.slow = nn.Sequential(_Residual(width), _Residual(width, 2))
        self.up = nn.ConvTranspose1d(width, width, 4, stride=2, padding=1)
        self.fast = nn.Sequential(_Residual(width), _Residual(width, 2), _Residual(width))
        self.after = nn.Conv1d(width, config.flow.mel_bins, 1)
        self.phones = nn.Sequential(
            nn.Conv1d(digits, 96, 5, padding=2), nn.GELU(), nn.ConvTranspose1d(96, len(PHONES), 4, stride=2, padding=1)
        )

    def digits(self, heard: Tensor) -> Tensor:
        """Features [N, bins, 4 T] to the digits -1, 0, 1 that make the tokens, float32 [N, 8, T]."""
        projected = self.net.quantizer._codebook.project_down(self.net.encoder(heard))
        soft = torch.tanh(projected.float()).transpose(1, 2) * _SHRINK
        return soft + (soft.round() - soft).detach()

    def forward(self, heard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Digits [N, 8, T], normalised mel [N, 80, 2 T] and phone logits [N, PHONES, 2 T]."""
        digits = self.digits(heard)
        mel = self.after(self.fast(self.up(self.slow(self.before(digits)))))
        return digits, mel, self.phones(digits)


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.wide = nn.Conv1d(width, width, 5, padding=2 * dilation, dilation=dilation)
        self.point = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.point(F.gelu(self.wide(self.norm(x))))


@dataclass(frozen=True)
class TokenizerStage:
    """Knobs of the stage."""

    steps: int = 2500
    batch_tokens: int = 1344
    crop_tokens: tuple[int, ...] = (32, 56, 112)
    """Widths of crops; a batch has one, so that attention meets short recordings and long ones."""
    learning_rate: float = 1.5e-3
    save_every: int = 250


def train(data: Dataset, held_out: Dataset, folder: Path, config: ModelConfig, stage: TokenizerStage) -> TokenizerTrainer:
    """Train, or go on training, and return the network in evaluation mode."""
    torch.manual_seed(0)
    module = TokenizerTrainer(config)
    optimiser = torch.optim.AdamW(module.parameters(), stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    trainer = Trainer(folder, module, [optimiser], Schedule(stage.steps, 200), save_every=stage.save_every)
    chooser = np.random.default_rng(trainer.step)

    def losses(step: int) -> LossParts:
        heard, mel, phones = _batch(data, stage, chooser)
        with torch.autocast("cpu", torch.bfloat16):
            _, made, labels = module(heard)
        error = made.float() - mel
        absolute, square = error.abs().mean(), error.square().mean()
        phone = F.cross_entropy(labels.float(), phones)
        return {"loss": absolute + 0.5 * square + 0.2 * phone, "absolute": absolute, "phone": phone}

    def evaluate() -> Mapping[str, float]:
        return _evaluate(module, held_out)

    trainer.run(losses, evaluate)
    return module


def tokenise(data: Dataset, net: SpeechTokenizer, batch: int = 32) -> Mapping[str, float]:
    """Write the tokens of a whole set; says how many codes are used and how many bits a token carries."""
    tokens = np.zeros(int(data.offsets[-1]), np.int16)
    order = np.argsort(data.lengths, kind="stable")
    with torch.inference_mode():
        for length in np.unique(data.lengths):
            same = order[data.lengths[order] == length]
            for start in range(0, len(same), batch):
                rows = same[start : start + batch]
                heard = np.stack([data.heard(int(data.offsets[row]), int(length)) for row in rows])
                made = net(torch.from_numpy(heard).transpose(1, 2)).numpy()
                for row, ids in zip(rows, made, strict=True):
                    tokens[data.offsets[row] : data.offsets[row + 1]] = ids
    write_tokens(data, tokens)
    return code_use(tokens)


def code_use(tokens: np.ndarray) -> Mapping[str, float]:
    """Distinct codes, and the entropy of one token in bits."""
    counts = np.bincount(tokens, minlength=CODEC_VOCAB)
    share = counts[counts > 0] / counts.sum()
    return {"codes": float((counts > 0).sum()), "bits": float(-(share * np.log2(share)).sum())}


def load(folder: Path, config: ModelConfig) -> TokenizerTrainer:
    """The trained stage of `folder`. Raises `FileNotFoundError` when there is none."""
    module = TokenizerTrainer(config)
    load_newest(folder, module)
    return module


def _batch(data: Dataset, stage: TokenizerStage, chooser: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    width = int(chooser.choice(stage.crop_tokens))
    firsts = crop(data, max(1, stage.batch_tokens // width), width, chooser)
    heard = np.stack([data.heard(first, width) for first in firsts])
    mel = np.stack([data.mel(first, width) for first in firsts])
    phones = np.stack([data.phones(first, width) for first in firsts])
    # Loudness of a recording varies; the codes should not.
    level = chooser.normal(0.0, 0.05, (len(firsts), 1, 1)).astype(np.float32)
    mel = (mel - MEL_MEAN) / MEL_SCALE
    return (
        torch.from_numpy(heard + level).transpose(1, 2).contiguous(),
        torch.from_numpy(mel.astype(np.float32)).transpose(1, 2).contiguous(),
        torch.from_numpy(phones),
    )


@torch.inference_mode()
def _evaluate(module: TokenizerTrainer, data: Dataset, utterances: int = 60) -> Mapping[str, float]:
    absolute, right, frames = 0.0, 0, 0
    tokens = []
    for row in range(min(utterances, len(data))):
        first, count = data.offsets[row], data.lengths[row]
        heard = torch.from_numpy(data.heard(first, count)).T[None]
        _, mel, phones = module(heard)
        target = torch.from_numpy((data.mel(first, count) - MEL_MEAN) / MEL_SCALE).T[None]
        absolute += float((mel - target).abs().mean()) * count
        right += int((phones[0].argmax(0).numpy() == data.phones(first, count)).sum())
        frames += FRAMES_PER_TOKEN * int(count)
        tokens.append(module.net(heard)[0].numpy())
    use = code_use(np.concatenate(tokens))
    # In natural-log units, as the recipe reports it.
    return {"mel_l1": MEL_SCALE * FRAMES_PER_TOKEN * absolute / frames, "phone_accuracy": right / frames, **use}
