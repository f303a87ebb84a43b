"""Two listeners that judge speech: one knows a list of sentences, the other hears phones.

Knows nothing of models: a wave goes in, what was understood comes out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.pronunciation import pronunciation
from cf_agents.audio import resample
from cf_agents.config import HOP_SAMPLES, REFERENCE_RATE, SAMPLE_RATE
from training.recogniser import Phone, Recogniser, told
from training.speech import Spoken

_PADDING_S = 0.25
_LOUDEST = 0.7
_FLOOR = 0.003
_SPELT = re.compile(r"[a-z']*[a-z][a-z']*")
_FRAME_S = HOP_SAMPLES / SAMPLE_RATE
_LONGEST_PHONE_S = 0.2
REPEATED_PHONES = 4
"""So many phones in a row that nobody wrote are a word said twice, or one made up."""


class Pocketsphinx:
    """Says which of a list of sentences it heard.

    Words that its dictionary lacks it is told as espeak-ng says them: one sentence in twelve of open vocabulary has some, and
    with those left out of its grammar it knew none of these sentences, whoever spoke.
    """

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        # Wide beams: a path that is given up early is never found again in a grammar of sentences.
        self._decoder = Decoder(samprate=REFERENCE_RATE, loglevel="FATAL", beam=1e-80, pbeam=1e-80, wbeam=1e-60)
        self._sentences: Sequence[str] = ()

    @staticmethod
    def words(text: str) -> str:
        """What it listens for: two texts with the same words are one to it."""
        return " ".join(_SPELT.findall(text.lower()))

    def expect(self, texts: Sequence[str]) -> None:
        """What may be said from now on. Every text must have words, and no other text the same ones."""
        self._sentences = [self.words(text) for text in texts]
        assert len(set(self._sentences) - {""}) == len(texts)
        for word in sorted({word for sentence in self._sentences for word in sentence.split(" ")}):
            if self._decoder.lookup_word(word) is None:
                self._decoder.add_word(word, pronunciation(word), False)
        self._decoder.add_jsgf_string("sentences", f"#JSGF V1.0; grammar g; public <s> = {' | '.join(self._sentences)};")
        self._decoder.activate_search("sentences")

    def hears(self, wave: NDArray[np.float32]) -> int | None:
        """The number of the sentence a 24 kHz wave is taken for."""
        if len(wave) < 2 * HOP_SAMPLES:
            return None
        at_16k = np.pad(resample(wave, SAMPLE_RATE, REFERENCE_RATE), round(_PADDING_S * REFERENCE_RATE))
        at_16k = at_16k / max(float(np.abs(at_16k).max()), 1e-3) * _LOUDEST
        # The recogniser's front end knows no digital silence: without a floor it mishears espeak-ng's deep voice itself.
        scaled = (at_16k + _FLOOR * np.random.default_rng(0).standard_normal(len(at_16k))) * 32767
        self._decoder.start_utt()
        self._decoder.process_raw(scaled.astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return self._sentences.index(found.hypstr) if found is not None and found.hypstr in self._sentences else None


@dataclass(frozen=True)
class Understood:
    """What became of the phones and words of one text."""

    phones: int
    phone_errors: int
    """Substituted, dropped and added."""
    words: tuple[str, ...]
    wrong: tuple[str, ...]
    """Words of which a phone is missing or another one."""
    dropped: tuple[str, ...]
    """Words of two phones and more of which nothing is there."""
    added: int
    """Runs of `REPEATED_PHONES` and more that nobody wrote: words said twice or made up."""


class PhoneListener:
    """Compares the phones of a wave with those that espeak-ng says the text has."""

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser

    def compare(self, waves: Sequence[NDArray[np.float32]], originals: Sequence[Spoken], texts: Sequence[str]) -> Understood:
        """Waves that follow each other against originals that do; `texts` are what the originals' words point into."""
        heard = [phone.label for wave in waves for phone in self._recogniser.hear(wave)]
        wanted: list[int] = []
        owners: list[int] = []
        names: list[str] = []
        for original, text in zip(originals, texts, strict=True):
            begins = [word.begin / HOP_SAMPLES for word in original.words]
            for phone in told(original):
                wanted.append(phone.label)
                owners.append(len(names) + max(0, int(np.searchsorted(begins, phone.begin + 1.0, "right")) - 1))
            names += [text[word.start : word.start + word.length] for word in original.words]
        return _understood(heard, wanted, owners, names)

    def tail_s(self, wave: NDArray[np.float32]) -> float:
        """Seconds after the last phone; one that is held longer than `_LONGEST_PHONE_S` is none any more."""
        phones: list[Phone] = self._recogniser.hear(wave)
        end = min(phones[-1].end * _FRAME_S, phones[-1].begin * _FRAME_S + _LONGEST_PHONE_S) if phones else 0.0
        return len(wave) / SAMPLE_RATE - end


def align(wanted: Sequence[int], heard: Sequence[int]) -> list[tuple[int | None, int | None]]:
    """The cheapest pairs (wanted, heard) by index, None for nothing: a dropped phone or an added one (Levenshtein 1966)."""
    costs = [list(range(len(heard) + 1))]
    for i, want in enumerate(wanted, 1):
        above, row = costs[-1], [i]
        for j, hear in enumerate(heard, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (want != hear)))
        costs.append(row)
    pairs: list[tuple[int | None, int | None]] = []
    i, j = len(wanted), len(heard)
    while i or j:
        if i and j and costs[i][j] == costs[i - 1][j - 1] + (wanted[i - 1] != heard[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and costs[i][j] == costs[i - 1][j] + 1:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


def _understood(heard: Sequence[int], wanted: Sequence[int], owners: Sequence[int], names: Sequence[str]) -> Understood:
    errors = run = added = 0
    good, there, size = ([0] * len(names) for _ in range(3))
    for want, hear in align(wanted, heard):
        run = run + 1 if want is None else 0
        added += run == REPEATED_PHONES
        right = want is not None and hear is not None and wanted[want] == heard[hear]
        errors += not right
        if want is not None:
            size[owners[want]] += 1
            good[owners[want]] += right
            there[owners[want]] += hear is not None
    return Understood(
        phones=len(wanted),
        phone_errors=errors,
        words=tuple(name for name, count in zip(names, size, strict=True) if count),
        wrong=tuple(name for name, count, all_of in zip(names, good, size, strict=True) if count < all_of),
        dropped=tuple(name for name, count, all_of in zip(names, there, size, strict=True) if all_of > 1 and not count),
        added=added,
    )
