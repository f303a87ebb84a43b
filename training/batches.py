"""Batches of the decoder's training: utterances of like length together, with a prompt and a speaker of their own voice.

Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from cf_agents.config import T3Config
from training.characters import encode
from training.data import Dataset
from training.objective import ABSENT, Batch
from training.token_data import TokenSet

_CHUNK = 2048
_SPEAKER_NOISE = 0.02


@dataclass(frozen=True)
class Sizes:
    """How much a batch holds."""

    speech_tokens: int = 2000
    """Of one copy, padding included."""
    prompts: int = 2
    """Prompts of each speaker in a batch."""

    def shared(self, processes: int) -> Sizes:
        """What each of several processes holds, so that a step sees as much as with one."""
        return replace(self, speech_tokens=self.speech_tokens // processes)


class Batches:
    """Endless batches of a data set. speakers float32 [speakers, E]: what the voice encoder makes of each."""

    def __init__(
        self,
        data: Dataset | TokenSet,
        config: T3Config,
        speakers: NDArray[np.float32],
        sizes: Sizes,
        chooser: np.random.Generator,
    ) -> None:
        self._data, self._config, self._speakers, self._sizes, self._chooser = data, config, speakers, sizes, chooser
        self._prompts = [
            np.flatnonzero((data.speakers == speaker) & (data.lengths >= config.prompt_tokens))
            for speaker in range(len(speakers))
        ]
        self._pending: Iterator[list[int]] = iter(())
        self._unseen = np.zeros(0, np.int64)
        self._known = 0

    def next(self, longest: int) -> Batch:
        """Of utterances of at most `longest` tokens."""
        while True:
            rows = next(self._pending, None)
            if rows is None:
                self._pending = iter(self._stretch(longest))
            elif self._data.lengths[rows].max() <= longest:
                return self.batch(rows)

    def batch(self, rows: Sequence[int]) -> Batch:
        """The utterances of these numbers."""
        config, data, block = self._config, self._data, self._config.block_size
        lengths = data.lengths[list(rows)]
        whole = -(-(lengths + 1) // block) * block
        width = int(whole.max())
        texts = [encode(data.texts[row]) for row in rows]
        text = np.full((len(rows), max(map(len, texts))), ABSENT, np.int64)
        tokens = np.full((len(rows), width), ABSENT, np.int64)
        place = np.zeros((len(rows), width), np.float32)
        phones = np.zeros((len(rows), width), np.int64)
        for n, row in enumerate(rows):
            first, count = int(data.offsets[row]), int(lengths[n])
            text[n, : len(texts[n])] = texts[n]
            tokens[n, : whole[n]] = config.stop_speech
            tokens[n, :count] = data.tokens(first, count)
            # Text places count [START] as 0; what follows the speech is spoken at [STOP].
            place[n] = len(texts[n]) - 1
            place[n, :count] = data.place(first, count) + 1
            phones[n, :count] = data.token_phones(first, count)
        prompt, speaker = self._conditioning()
        voice = data.speakers[list(rows)] * self._sizes.prompts + self._chooser.integers(self._sizes.prompts, size=len(rows))
        exaggeration = self._chooser.uniform(0.0, 1.0, len(prompt)).astype(np.float32)
        arrays = (text, tokens, place, phones, prompt, speaker, exaggeration, voice)
        return Batch(*(torch.from_numpy(array) for array in arrays))

    def _conditioning(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        count, data, chooser = self._config.prompt_tokens, self._data, self._chooser
        prompts, speakers = [], []
        for known, mean in zip(self._prompts, self._speakers, strict=True):
            for row in chooser.choice(known, self._sizes.prompts):
                start = chooser.integers(0, data.lengths[row] - count + 1)
                prompts.append(data.tokens(int(data.offsets[row] + start), count))
                noisy = mean + chooser.normal(0.0, _SPEAKER_NOISE, mean.shape)
                speakers.append(noisy / np.linalg.norm(noisy))
        return np.stack(prompts), np.stack(speakers).astype(np.float32)

    def _stretch(self, longest: int) -> list[list[int]]:
        """The next utterances that were not seen yet, sorted so that a batch pads little, batches in random order.

        All are unseen again when they are used up. What a set has got since joins them.
        """
        self._data.refresh()
        if self._known < len(self._data) or not len(self._unseen):
            fresh = np.arange(self._known if len(self._unseen) else 0, len(self._data))
            self._unseen = self._chooser.permutation(np.concatenate([self._unseen, fresh]))
            self._known = len(self._data)
        stretch, self._unseen = self._unseen[:_CHUNK], self._unseen[_CHUNK:]
        stretch = stretch[self._data.lengths[stretch] <= longest]
        batches: list[list[int]] = []
        current: list[int] = []
        for row in stretch[np.argsort(self._data.lengths[stretch], kind="stable")]:
            if current and (len(current) + 1) * (int(self._data.lengths[row]) + 1) > self._sizes.speech_tokens:
                batches.append(current)
                current = []
            current.append(int(row))
        if current:
            batches.append(current)
        self._chooser.shuffle(batches)
        return batches
