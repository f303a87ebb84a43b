"""A data set of synthetic speech: a folder of flat arrays, one utterance after the other, read through memory maps.

    index.json   text, speaker (index into `SPEAKERS`), tokens (n of each utterance), words
    wave.i16     24 kHz samples x 32767                     960 n
    mel.f16      log mel as `flow_mel` gives it, 80 bins    2 n frames
    heard.f16    what the speech tokenizer hears            4 n frames
    phones.u8    phone of each mel frame, see `PHONES`    2 n
    place.f32    character spoken at each token's centre    n
    tokens.i16   speech tokens, once there are any          n

`write` makes one with a process pool; `Dataset` reads it. Knows nothing of networks.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from cf_agents.config import FRAMES_PER_TOKEN, REFERENCE_RATE, SAMPLE_RATE
from cf_agents.models.reference.features import flow_mel, resample_sinc, tokenizer_mel
from training.config import POCKET, SPEAKERS
from training.speech import PHONES, TOKEN_SAMPLES, Word, speak
from training.text import Side, sentences

HEARD_PER_TOKEN = 4
MAX_TOKENS = 270
INDEX_FILE = "index.json"
TOKENS_FILE = "tokens.i16"
_LABELS = {name: label for label, name in enumerate(PHONES)}


class Dataset:
    """Utterances by number, each array a view of the map (copy before writing).

    texts, speakers int64 [U], lengths int64 [U] in tokens, offsets int64 [U + 1] in tokens, words per utterance.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = json.loads((folder / INDEX_FILE).read_text("utf-8"))
        self.texts: list[str] = index["text"]
        self.speakers = np.array(index["speaker"], np.int64)
        self.lengths = np.array(index["tokens"], np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.words: list[list[Word]] = [[Word(*word) for word in words] for words in index["words"]]
        total = int(self.offsets[-1])
        bins = POCKET.flow.mel_bins, POCKET.speech_tokenizer.mel_bins
        self._wave = _map(folder / "wave.i16", np.int16, (total * TOKEN_SAMPLES,))
        self._mel = _map(folder / "mel.f16", np.float16, (total * FRAMES_PER_TOKEN, bins[0]))
        self._heard = _map(folder / "heard.f16", np.float16, (total * HEARD_PER_TOKEN, bins[1]))
        self._phones = _map(folder / "phones.u8", np.uint8, (total * FRAMES_PER_TOKEN,))
        self._place = _map(folder / "place.f32", np.float32, (total,))
        self._tokens = _map(folder / TOKENS_FILE, np.int16, (total,)) if (folder / TOKENS_FILE).exists() else None

    def __len__(self) -> int:
        return len(self.texts)

    def refresh(self) -> None:
        """Nothing comes after: a set is whole or not there (see `token_data.TokenSet`)."""

    def wave(self, first: int, count: int) -> NDArray[np.float32]:
        """Samples float32 [960 count] of `count` tokens from token `first` of the whole set (see `offsets`)."""
        samples = self._wave[TOKEN_SAMPLES * first : TOKEN_SAMPLES * (first + count)]
        return samples.astype(np.float32) / np.float32(32767)

    def mel(self, first: int, count: int) -> NDArray[np.float32]:
        """Log mel float32 [2 count, 80]."""
        return self._mel[FRAMES_PER_TOKEN * first : FRAMES_PER_TOKEN * (first + count)].astype(np.float32)

    def heard(self, first: int, count: int) -> NDArray[np.float32]:
        """The speech tokenizer's input float32 [4 count, bins]."""
        return self._heard[HEARD_PER_TOKEN * first : HEARD_PER_TOKEN * (first + count)].astype(np.float32)

    def phones(self, first: int, count: int) -> NDArray[np.int64]:
        """Phone labels int64 [2 count], see `speech.PHONES`."""
        return self._phones[FRAMES_PER_TOKEN * first : FRAMES_PER_TOKEN * (first + count)].astype(np.int64)

    def token_phones(self, first: int, count: int) -> NDArray[np.int64]:
        """Phone labels int64 [count], of each token's second frame."""
        return self.phones(first, count)[1::FRAMES_PER_TOKEN]

    def place(self, first: int, count: int) -> NDArray[np.float32]:
        """The character, a fraction within a word, that is spoken at each token's centre: float32 [count]."""
        return self._place[first : first + count].astype(np.float32)

    def tokens(self, first: int, count: int) -> NDArray[np.int64]:
        """Speech tokens int64 [count]; the stage `tokenise` must have run."""
        assert self._tokens is not None, f"{self.folder} has no {TOKENS_FILE}: run the stage `tokenise`"
        return self._tokens[first : first + count].astype(np.int64)

    def of_speaker(self, speaker: int) -> NDArray[np.int64]:
        """Numbers of the utterances of one speaker."""
        return np.flatnonzero(self.speakers == speaker)


def crop(data: Dataset, count: int, tokens: int, chooser: np.random.Generator) -> NDArray[np.int64]:
    """First tokens [count] of crops of `tokens` tokens, drawn over all utterances that are as long."""
    usable = np.flatnonzero(data.lengths >= tokens)
    chosen = chooser.choice(usable, count)
    return data.offsets[chosen] + chooser.integers(0, data.lengths[chosen] - tokens + 1)


def write(
    folder: Path,
    side: Side,
    utterances: int,
    *,
    processes: int = 1,
    seed: int = 0,
    source: Callable[[Side, int], Iterator[str]] = sentences,
) -> None:
    """Generate a data set of `utterances` texts, each by a speaker drawn by its number; an existing one is kept.

    source: texts of a side and a seed. The index is written last, so that a folder without one is begun again.
    """
    if (folder / INDEX_FILE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    chooser = np.random.default_rng(seed)
    jobs = [(text, int(chooser.integers(len(SPEAKERS)))) for text in islice(source(side, seed), utterances)]
    index: dict[str, list] = {"text": [], "speaker": [], "tokens": [], "words": []}
    files = {name: (folder / name).open("wb") for name in ("wave.i16", "mel.f16", "heard.f16", "phones.u8", "place.f32")}
    try:
        with multiprocessing.get_context("fork").Pool(processes, _single_thread) as pool:
            for made in pool.imap(_make, jobs, chunksize=16):
                if made is not None:
                    _append(made, files, index)
    finally:
        for file in files.values():
            file.close()
    (folder / INDEX_FILE).write_text(json.dumps(index), "utf-8")


def write_tokens(data: Dataset, tokens: NDArray[np.int16]) -> None:
    """Store the speech tokens of a whole set."""
    assert tokens.shape == (int(data.offsets[-1]),)
    partial = data.folder / f"{TOKENS_FILE}.partial"
    partial.write_bytes(tokens.astype("<i2").tobytes())
    partial.replace(data.folder / TOKENS_FILE)
    data._tokens = _map(data.folder / TOKENS_FILE, np.int16, tokens.shape)


def frame_phones(tokens: int, phones: Sequence[tuple[int, str]]) -> NDArray[np.uint8]:
    """Phone labels uint8 [2 tokens] of mel frames, of phones as (first sample, espeak mnemonic)."""
    label = np.zeros(FRAMES_PER_TOKEN * tokens, np.uint8)
    for sample, name in phones:
        label[round(sample * FRAMES_PER_TOKEN / TOKEN_SAMPLES) :] = _LABELS.get(name, 0)
    return label


def place_of_tokens(tokens: int, words: Sequence[Word], characters: int) -> NDArray[np.float32]:
    """The character at the centre of each token, straight through each word, float32 [tokens]."""
    if not words:
        return np.zeros(tokens, np.float32)
    centres = (np.arange(tokens) + 0.5) * TOKEN_SAMPLES
    times = [time for word in words for time in (word.begin, max(word.begin + 1, word.end - 1))]
    places = [place for word in words for place in (word.start, word.start + word.length - 0.5)]
    return np.interp(centres, np.maximum.accumulate(times), places).clip(0, characters - 1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Made:
    text: str
    speaker: int
    wave: NDArray[np.int16]
    mel: NDArray[np.float16]
    heard: NDArray[np.float16]
    phones: tuple[tuple[int, str], ...]
    words: tuple[Word, ...]


def _single_thread() -> None:
    torch.set_num_threads(1)


def _make(job: tuple[str, int]) -> _Made | None:
    text, speaker = job
    spoken = speak(text, SPEAKERS[speaker])
    if spoken is None or spoken.tokens > MAX_TOKENS:
        return None
    mel, heard = features(spoken.wave)
    wave = (spoken.wave * 32767).astype(np.int16)
    return _Made(text, speaker, wave, mel.astype(np.float16), heard.astype(np.float16), spoken.phones, spoken.words)


def features(wave: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of a 24 kHz wave [960 n]: the flow's mel [2 n, 80] and what the speech tokenizer hears [4 n, bins]."""
    at_24k = torch.from_numpy(wave)
    at_16k = resample_sinc(at_24k, SAMPLE_RATE, REFERENCE_RATE)
    heard = tokenizer_mel(at_16k, POCKET.speech_tokenizer.mel_bins).T
    return flow_mel(at_24k, POCKET.flow.mel_bins).numpy(), heard.numpy()


def _append(made: _Made, files: Mapping[str, BinaryIO], index: dict[str, list]) -> None:
    tokens = len(made.wave) // TOKEN_SAMPLES
    assert len(made.mel) == FRAMES_PER_TOKEN * tokens
    assert len(made.heard) == HEARD_PER_TOKEN * tokens
    label = frame_phones(tokens, made.phones)
    place = place_of_tokens(tokens, made.words, len(made.text))
    arrays = {"wave.i16": made.wave, "mel.f16": made.mel, "heard.f16": made.heard, "phones.u8": label, "place.f32": place}
    for name, array in arrays.items():
        files[name].write(array.tobytes())
    index["text"].append(made.text)
    index["speaker"].append(made.speaker)
    index["tokens"].append(tokens)
    index["words"].append([[word.start, word.length, word.begin, word.end] for word in made.words])


def _map(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.memmap:
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)
