"""Utterances as the decoder alone needs them: text, speech tokens, phones and places; no sound is kept, so hours cost little.

    DIR/NUMBER/index.json    text, speaker (index into `SPEAKERS`), tokens (n of each utterance)
    DIR/NUMBER/tokens.i16    speech tokens of a finished checkpoint's tokenizer   n
    DIR/NUMBER/phones.u8     phone of each token, see `PHONES`                    n
    DIR/NUMBER/place.f32     character spoken at each token's centre              n

`write` makes one shard, the index last; `TokenSet` reads all that are whole, and those that are finished later when it is
asked to look again: a decoder trains on the first hours while the next are made.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cf_agents.checkpoint import S3GEN_FILE, Checkpoint
from cf_agents.config import FRAMES_PER_TOKEN, REFERENCE_RATE, SAMPLE_RATE
from cf_agents.models.reference.features import resample_sinc, tokenizer_mel
from cf_agents.models.reference.speech_tokenizer import SpeechTokenizer
from training.config import SPEAKERS
from training.data import INDEX_FILE, TOKENS_FILE, frame_phones, place_of_tokens
from training.speech import speak

MAX_TOKENS = 640


class TokenSet:
    """All whole shards under a folder, end to end; the arrays that `batches.Batches` reads, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: set[str] = set()
        self.texts: list[str] = []
        self.speakers = np.zeros(0, np.int64)
        self.lengths = np.zeros(0, np.int64)
        self.offsets = np.zeros(1, np.int64)
        self._tokens = np.zeros(0, np.int16)
        self._phones = np.zeros(0, np.uint8)
        self._place = np.zeros(0, np.float32)
        self.refresh()

    def __len__(self) -> int:
        return len(self.texts)

    def refresh(self) -> None:
        """Take in the shards that were finished since; numbers of utterances stay what they are."""
        for index_file in sorted(self.folder.glob(f"*/{INDEX_FILE}")):
            shard = index_file.parent
            if shard.name in self._known:
                continue
            self._known.add(shard.name)
            index = json.loads(index_file.read_text("utf-8"))
            self.texts += index["text"]
            self.speakers = np.concatenate([self.speakers, np.array(index["speaker"], np.int64)])
            self.lengths = np.concatenate([self.lengths, np.array(index["tokens"], np.int64)])
            self._tokens = np.concatenate([self._tokens, np.fromfile(shard / TOKENS_FILE, np.int16)])
            self._phones = np.concatenate([self._phones, np.fromfile(shard / "phones.u8", np.uint8)])
            self._place = np.concatenate([self._place, np.fromfile(shard / "place.f32", np.float32)])
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        assert self._tokens.shape == self._phones.shape == self._place.shape == (int(self.offsets[-1]),)

    def tokens(self, first: int, count: int) -> NDArray[np.int64]:
        """Speech tokens int64 [count] from token `first` of the whole set (see `offsets`)."""
        return self._tokens[first : first + count].astype(np.int64)

    def token_phones(self, first: int, count: int) -> NDArray[np.int64]:
        """Phone labels int64 [count]."""
        return self._phones[first : first + count].astype(np.int64)

    def place(self, first: int, count: int) -> NDArray[np.float32]:
        """The character spoken at each token's centre, float32 [count]."""
        return self._place[first : first + count]


def write(folder: Path, checkpoint: Path, texts: Iterable[str], *, processes: int = 1, seed: int = 0) -> None:
    """Make a shard of `texts`, each spoken by a speaker drawn for it, with the speech tokenizer of a checkpoint folder.

    A whole shard is kept. Utterances of more than `MAX_TOKENS` are left out.
    """
    if (folder / INDEX_FILE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    chooser = np.random.default_rng(seed)
    jobs = ((text, int(chooser.integers(len(SPEAKERS)))) for text in texts)
    with multiprocessing.get_context("fork").Pool(processes, _begin, (checkpoint,)) as pool:
        made = [each for each in pool.imap(_make, jobs, chunksize=16) if each is not None]
    np.concatenate([each.tokens for each in made]).tofile(folder / TOKENS_FILE)
    np.concatenate([each.phones for each in made]).tofile(folder / "phones.u8")
    np.concatenate([each.place for each in made]).tofile(folder / "place.f32")
    lengths = [len(each.tokens) for each in made]
    index = {"text": [each.text for each in made], "speaker": [each.speaker for each in made], "tokens": lengths}
    partial = folder / f"{INDEX_FILE}.partial"
    partial.write_text(json.dumps(index), "utf-8")
    partial.replace(folder / INDEX_FILE)


def speech_tokenizer(checkpoint: Path) -> SpeechTokenizer:
    """The speech tokenizer of a checkpoint folder."""
    opened = Checkpoint.open(checkpoint)
    tokenizer = SpeechTokenizer(opened.config.speech_tokenizer)
    opened.fill(tokenizer, S3GEN_FILE, "tokenizer.")
    return tokenizer.eval()


class _Made(NamedTuple):
    text: str
    speaker: int
    tokens: NDArray[np.int16]
    phones: NDArray[np.uint8]
    place: NDArray[np.float32]


_tokenizer: SpeechTokenizer


def _begin(checkpoint: Path) -> None:
    global _tokenizer
    torch.set_num_threads(1)
    _tokenizer = speech_tokenizer(checkpoint)


def _make(job: tuple[str, int]) -> _Made | None:
    text, speaker = job
    spoken = speak(text, SPEAKERS[speaker])
    if spoken is None or spoken.tokens > MAX_TOKENS:
        return None
    heard = tokenizer_mel(resample_sinc(torch.from_numpy(spoken.wave), SAMPLE_RATE, REFERENCE_RATE), _tokenizer.config.mel_bins)
    with torch.inference_mode():
        tokens = _tokenizer(heard[None])[0].numpy().astype(np.int16)
    phones = frame_phones(spoken.tokens, spoken.phones)[1::FRAMES_PER_TOKEN]
    assert len(tokens) == len(phones) == spoken.tokens
    return _Made(text, speaker, tokens, phones, place_of_tokens(spoken.tokens, spoken.words, len(text)))
