"""Synthetic speech with exact times: libespeak-ng through ctypes.

espeak-ng is licensed under GPL-3 and is a tool of this folder alone: nothing of it is linked into or shipped with the package,
and its output is not covered by its licence. On Debian: `apt-get install libespeak-ng1`. One engine per process, since the
library keeps global state. Knows nothing of mel spectra or data sets.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cf_agents.audio import resample
from cf_agents.config import SAMPLE_RATE, TOKEN_RATE
from cf_agents.errors import BackendUnavailable
from training.config import Speaker

TOKEN_SAMPLES = SAMPLE_RATE // TOKEN_RATE
PHONES = (
    *("", "_", "_:", "_!", "0", "3", "3:", ";", "?", "@", "@-", "@2", "@L", "A:", "A@", "D", "E", "I", "I#", "I2", "N", "O2"),
    *("O:", "O@", "OI", "S", "T", "U", "U@", "V", "Z", "a", "a#", "aI", "aI3", "aI@", "aU", "aa", "b", "d", "dZ", "e@", "eI"),
    *("f", "g", "h", "i", "i:", "i@", "i@3", "j", "k", "l", "m", "n", "n-", "o@", "oU", "p", "r", "r-", "s", "t", "t#", "t2"),
    *("tS", "u:", "v", "w", "x", "z"),
)
"""espeak-ng's mnemonics for English, by label; the first four are kinds of silence, and so is whatever is not here."""
PAUSES = 4
_LOUDNESS = 1.5
_SILENCE = 1e-3
_LEAD_SAMPLES = 480
_TAIL_SAMPLES = 1440
_SYNCHRONOUS = 2
_PHONEME_EVENTS = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_UTF8 = 1
_SENTENCE = re.compile(r"(?:^|[.?!] )[a-z]")
_SLACK = 60
"""Samples that the engine's words and phones may disagree by."""
_WORDS = re.compile(r"[^\s,.?!-]+(?:[.'-][^\s,.?!-]+)*")
_WORD, _PHONEME = 1, 7


@dataclass(frozen=True)
class Word:
    """Where a word is written and when it is spoken: characters [start, start + length), 24 kHz samples [begin, end)."""

    start: int
    length: int
    begin: int
    end: int


@dataclass(frozen=True, eq=False)
class Spoken:
    """One utterance: wave float32 [960 n], words, and phones as (first sample, espeak mnemonic), a silence being ""."""

    wave: NDArray[np.float32]
    words: tuple[Word, ...]
    phones: tuple[tuple[int, str], ...]

    @property
    def tokens(self) -> int:
        return len(self.wave) // TOKEN_SAMPLES


def available() -> bool:
    """Whether libespeak-ng is installed."""
    return ctypes.util.find_library("espeak-ng") is not None


def speak(text: str, speaker: Speaker) -> Spoken | None:
    """`text` as this speaker says it, silence trimmed to 20 ms before and 60 ms after, padded to whole tokens.

    None when nothing is heard. Raises `BackendUnavailable` where libespeak-ng is missing.
    """
    # A small letter behind a full stop would be read on without a pause.
    written = _SENTENCE.sub(lambda found: found[0].upper(), text)
    samples, rate, words, phones = _engine()(written, speaker)
    wave = resample(samples.astype(np.float32) / np.float32(32768), rate, SAMPLE_RATE)
    heard = np.flatnonzero(np.abs(wave) > _SILENCE)
    if len(heard) < SAMPLE_RATE // 20:
        return None
    start, stop = max(0, int(heard[0]) - _LEAD_SAMPLES), min(len(wave), int(heard[-1]) + _TAIL_SAMPLES)
    wave = wave[start:stop] * _LOUDNESS
    wave = np.pad(wave, (0, -len(wave) % TOKEN_SAMPLES)).clip(-0.99, 0.99)

    def place(sample: int) -> int:
        return min(max(0, round(sample * SAMPLE_RATE / rate) - start), len(wave))

    ended = max(0, stop - start - _TAIL_SAMPLES)
    events = [(position, place(sample)) for position, length, sample in words if position >= 0 and length > 0]
    spoken = [(place(sample), name) for sample, name in phones]
    followed = [*(sample for sample, _ in spoken[1:]), ended]
    pauses = [(begin, end) for (begin, name), end in zip(spoken, followed, strict=True) if name in PHONES[:PAUSES]]
    return Spoken(wave.astype(np.float32), place_words(text, events, pauses, ended), tuple(spoken))


def place_words(
    text: str, events: Sequence[tuple[int, int]], pauses: Sequence[tuple[int, int]], ended: int
) -> tuple[Word, ...]:
    """Written words with the times they are spoken at.

    events: (character, sample) of what the engine says it began. It points at the gap before a word at times, and tells of
    "in the" as one: each event counts for the first word that ends behind it, and words without one share the time of the word
    in front of them by their letters. A word after a pause is told of when the pause begins. pauses: their first and last
    samples. ended: the sample at which the last word ends.
    """
    spans = [found.span() for found in _WORDS.finditer(text)]
    begun: dict[int, int] = {}
    for position, sample in events:
        word = next((number for number, (_, stop) in enumerate(spans) if stop > position), None)
        if word is not None:
            within = [end for begin, end in pauses if begin <= sample + _SLACK and sample < end]
            begun.setdefault(word, max([sample, *within]))
    known = sorted(begun)
    words: list[Word] = []
    for number, after in zip(known, [*known[1:], len(spans)], strict=True):
        begin = begun[number]
        end = max(begin, begun.get(after, ended))
        end = min([end, *(pause for pause, stop in pauses if begin < pause and stop <= end)])
        letters = np.cumsum([0, *(stop - start for start, stop in spans[number:after])])
        edges = [begin + round((end - begin) * share / letters[-1]) for share in letters]
        words += [Word(start, stop - start, *edges[n : n + 2]) for n, (start, stop) in enumerate(spans[number:after])]
    return tuple(words)


class _Value(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Value),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_Raw = tuple[NDArray[np.int16], int, list[tuple[int, int, int]], list[tuple[int, str]]]


class _Engine:
    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng")
        if name is None:
            raise BackendUnavailable("libespeak-ng is not installed; on Debian: apt-get install libespeak-ng1.")
        self._library = ctypes.CDLL(name)
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS)
        if self._rate <= 0:
            raise BackendUnavailable("libespeak-ng does not start: its data (package espeak-ng-data) may be missing.")
        self._speaker: Speaker | None = None
        # The library keeps the pointer, so the object must live as long.
        self._callback = _CALLBACK(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def __call__(self, text: str, speaker: Speaker) -> _Raw:
        if speaker != self._speaker:
            if self._library.espeak_SetVoiceByName(speaker.variant.encode()) != 0:
                raise BackendUnavailable(f"libespeak-ng has no voice {speaker.variant!r}; install espeak-ng-data.")
            for parameter, value in ((_RATE, speaker.rate), (_PITCH, speaker.pitch), (_RANGE, speaker.pitch_range)):
                self._library.espeak_SetParameter(parameter, value, 0)
            self._speaker = speaker
        self._parts: list[NDArray[np.int16]] = []
        self._words: list[tuple[int, int, int]] = []
        self._phones: list[tuple[int, str]] = []
        data = text.encode()
        self._library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        wave = np.concatenate(self._parts) if self._parts else np.zeros(0, np.int16)
        return wave, self._rate, self._words, self._phones

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if count > 0 and samples:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).astype(np.int16))
        at = 0
        while (event := events[at]).type != 0:
            if event.type == _WORD:
                self._words.append((event.text_position - 1, event.length, event.sample))
            elif event.type == _PHONEME:
                self._phones.append((event.sample, event.id.string.decode("utf-8", "replace")))
            at += 1
        return 0


@cache
def _engine() -> _Engine:
    return _Engine()
