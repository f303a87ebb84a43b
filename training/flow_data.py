"""What the flow is trained on: rows of [prompt | speech] of one speaker each, as a voice and an utterance meet at run time.

A prompt is not the beginning of what follows it: both are cut from the utterances of the speaker, laid end to end. Knows
nothing of networks.

Shapes: N rows, L tokens of a row, of which P are the prompt, E x-vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data import Dataset
from training.losses import scaled_mel


@dataclass(frozen=True, eq=False)
class FlowBatch:
    """tokens int64 [N, L], mel float32 [N, 2 L, 80], speaker float32 [N, E], prompts: P of each row."""

    tokens: Tensor
    mel: Tensor
    speaker: Tensor
    prompts: tuple[int, ...]


@dataclass(frozen=True)
class RowShape:
    """Batches of `rows` rows of `tokens` tokens, with a prompt of between `shortest` and `longest`."""

    rows: int
    tokens: int
    shortest: int
    longest: int


USUAL = RowShape(rows=16, tokens=120, shortest=12, longest=84)
LONG = RowShape(rows=5, tokens=340, shortest=100, longest=250)
"""The longest prompt is the 10 s that a recording may give; what is far away must have been seen now and then."""
LONG_EVERY = 8
GAINS = 0.5, 1.2
"""Least and largest gain of a row, prompt and speech alike: tokens do not say how loud they are, the prompt does."""


class FlowBatches:
    """Batches by the number of the step. `speakers`: x-vectors [K, E] of recordings of each speaker, by its number."""

    def __init__(self, data: Dataset, speakers: Sequence[Tensor], usual: RowShape, long: RowShape, seed: int) -> None:
        self._data = data
        self._usual = usual
        self._long = long
        self._speakers = speakers
        self._seed = seed
        self._own = [data.of_speaker(speaker) for speaker in range(len(speakers))]

    def draw(self, step: int) -> FlowBatch:
        """The batch of a step: the same whenever it is asked for."""
        shape = self._long if step % LONG_EVERY == LONG_EVERY - 1 else self._usual
        return self.batch(shape, np.random.default_rng((self._seed, step)))

    def batch(self, shape: RowShape, chooser: np.random.Generator) -> FlowBatch:
        """A batch of one shape."""
        tokens, mels, speakers, prompts = [], [], [], []
        for _ in range(shape.rows):
            speaker = int(chooser.integers(len(self._speakers)))
            prompt = int(chooser.integers(shape.shortest, shape.longest + 1))
            heard = self._cut(speaker, prompt, chooser, from_start=False)
            spoken = self._cut(speaker, shape.tokens - prompt, chooser, from_start=bool(chooser.random() < 0.5))
            tokens.append(np.concatenate([heard[0], spoken[0]]))
            mels.append(np.concatenate([heard[1], spoken[1]]))
            speakers.append(self._speakers[speaker][int(chooser.integers(len(self._speakers[speaker])))])
            prompts.append(prompt)
        least, most = np.log(GAINS)
        gains = torch.from_numpy(np.exp(chooser.uniform(least, most, shape.rows)).astype(np.float32))
        mel = scaled_mel(torch.from_numpy(np.stack(mels)), gains)
        return FlowBatch(torch.from_numpy(np.stack(tokens)), mel, torch.stack(speakers), tuple(prompts))

    def _cut(
        self, speaker: int, length: int, chooser: np.random.Generator, *, from_start: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """`length` tokens and their mel out of as many utterances as it takes."""
        tokens: list[NDArray[np.int64]] = []
        mels: list[NDArray[np.float32]] = []
        have, skip = 0, -1
        while have < length:
            number = int(chooser.choice(self._own[speaker]))
            first, count = int(self._data.offsets[number]), int(self._data.lengths[number])
            if skip < 0:
                skip = 0 if from_start else int(chooser.integers(0, count))
                first, count = first + skip, count - skip
            count = min(count, length - have)
            tokens.append(self._data.tokens(first, count))
            mels.append(self._data.mel(first, count))
            have += count
        return np.concatenate(tokens), np.concatenate(mels)
