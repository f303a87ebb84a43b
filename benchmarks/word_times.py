"""How far word times are off: those of a stream against a forced alignment of the audio it gave.

    python benchmarks/word_times.py                              the default model, every voice of it that training spoke
    python benchmarks/word_times.py --model DIR --voice NAME --sentences 50

The aligner (pocketsphinx) is told the words and finds them in the sound. How well it does that is measured in the same run, on
espeak-ng's own audio of the same sentences, whose true times are known: no figure below that one means anything. Beside the
stream's times stand those that the duration model would have given for the same audio without the decoder's attention.

Sentences are held out of training. Needs `pip install pocketsphinx` and libespeak-ng (`apt-get install libespeak-ng1`).
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import anyio
import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.knobs import parse_knobs
from benchmarks.machine import describe
from cf_agents import TTS, DecodeParams
from cf_agents.audio import Word, resample
from cf_agents.config import REFERENCE_RATE, SAMPLE_RATE
from cf_agents.text.normalise import normalise
from cf_agents.timing import SpeakingRate, WordClock, written_words
from training.config import SPEAKERS
from training.speech import speak
from training.text import sentences

TARGET_S = (0.060, 0.150)
"""Median and 95th percentile of the error that word times are to keep to."""
_PADDING_S = 0.25
_FRAME_S = 0.01
_LOUDEST = 0.7
_FLOOR = 0.003
_SPELT = re.compile(r"[a-z']+")


class Span(NamedTuple):
    """When a word is spoken, in seconds."""

    start_s: float
    end_s: float


class Aligner:
    """pocketsphinx, told what is said."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=REFERENCE_RATE, loglevel="FATAL")

    def knows(self, text: str) -> bool:
        """Whether it has a pronunciation for every word."""
        return all(self._decoder.lookup_word(word) is not None for word in _SPELT.findall(text))

    def align(self, wave: NDArray[np.float32], text: str) -> list[Span] | None:
        """When each run of letters of `text` is heard in a 24 kHz wave; None where the aligner finds no way."""
        words = _SPELT.findall(text)
        at_16k = np.pad(resample(wave, SAMPLE_RATE, REFERENCE_RATE), round(_PADDING_S * REFERENCE_RATE))
        at_16k = at_16k / max(float(np.abs(at_16k).max()), 1e-3) * _LOUDEST
        # Its front end knows no digital silence.
        scaled = (at_16k + _FLOOR * np.random.default_rng(0).standard_normal(len(at_16k))) * 32767
        self._decoder.set_align_text(" ".join(words))
        self._decoder.start_utt()
        self._decoder.process_raw(scaled.astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = [each for each in self._decoder.seg() or () if each.word[0] not in "<["]
        if [re.sub(r"\(\d+\)", "", each.word) for each in found] != words:
            return None
        return [Span(each.start_frame * _FRAME_S - _PADDING_S, (each.end_frame + 1) * _FRAME_S - _PADDING_S) for each in found]


@dataclass
class Errors:
    """Seconds by which starts and ends are late; told as medians."""

    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def add(self, found: Sequence[Span], wanted: Sequence[Span]) -> None:
        for one, other in zip(found, wanted, strict=True):
            self.starts.append(one.start_s - other.start_s)
            self.ends.append(one.end_s - other.end_s)

    def line(self, name: str) -> str:
        def cells(late: list[float]) -> str:
            if not late:
                return "- | - | -"
            off = np.abs(late)
            median, high = np.median(off), np.quantile(off, 0.95)
            return f"{np.median(late) * 1e3:+.0f} | {median * 1e3:.0f} | {high * 1e3:.0f}"

        return f"| {name} | {len(self.starts)} | {cells(self.starts)} | {cells(self.ends)} |"


async def measure(chosen: argparse.Namespace) -> None:
    aligner = Aligner()
    texts: list[str] = []
    for text in sentences("held_out", chosen.seed):
        if len(text) > 18 and text not in texts and aligner.knows(text):
            texts.append(text)
        if len(texts) == chosen.sentences:
            break
    median, high = (1e3 * target for target in TARGET_S)
    print(f"{describe()}; {len(texts)} held-out sentences; milliseconds, targets {median:.0f} and {high:.0f}\n")
    async with TTS.load(chosen.model, device="cpu", max_streams=1, link="thread") as tts:
        params = parse_knobs(chosen.knobs, tts.params)
        for speaker in SPEAKERS:
            if speaker.name not in tts.voices or chosen.voice not in (None, speaker.name):
                continue
            ceiling, guessed, told = Errors(), Errors(), Errors()
            refused: list[str] = []
            for number, text in enumerate(texts):
                made = speak(text, speaker)
                assert made is not None
                true = [Span(word.begin / SAMPLE_RATE, word.end / SAMPLE_RATE) for word in made.words]
                if (found := aligner.align(made.wave, text)) is not None and len(found) == len(true):
                    ceiling.add(found, true)
                wave, words, pieces = await spoken(tts, speaker.name, text, params, number)
                heard = aligner.align(wave, text)
                if heard is None:
                    refused.append(text)
                    continue
                wanted = by_word(words, heard)
                told.add([Span(word.start_s, word.end_s) for word in words], wanted)
                guessed.add([Span(word.start_s, word.end_s) for word in guess(text, pieces)], wanted)
            print(f"| {speaker.name} | words | starts late by | off by | 95 % | ends late by | off by | 95 % |")
            print("|---|---|---|---|---|---|---|---|")
            print(ceiling.line("aligner on espeak-ng"), guessed.line("duration model"), told.line("stream"), sep="\n")
            print(*(f"not aligned: {text}" for text in refused), "", sep="\n")


async def spoken(
    tts: TTS, voice: str, text: str, params: DecodeParams, seed: int
) -> tuple[NDArray[np.float32], list[Word], list[float]]:
    """A text through the streaming path: the wave at 24 kHz, its words and the seconds of each chunk."""
    async with tts.stream(voice, params=params, seed=seed, lead_s=math.inf) as stream:
        stream.write(text)
        stream.end()
        chunks = [chunk async for chunk in stream]
    pcm = b"".join(chunk.pcm for chunk in chunks)
    words = [word for chunk in chunks for word in chunk.words]
    return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768), words, [chunk.duration_s for chunk in chunks]


def guess(text: str, pieces: Sequence[float]) -> list[Word]:
    """The words of a text in one segment of so many seconds each piece, by the duration model alone."""
    clock = WordClock(written_words(normalise(text)), 0, 0.0, SpeakingRate())
    return [word for n, seconds in enumerate(pieces) for word in clock.advance(seconds, n == len(pieces) - 1)]


def by_word(words: Sequence[Word], spelt: Sequence[Span]) -> list[Span]:
    """Spans of runs of letters as spans of written words, each of which has at least one."""
    left = iter(spelt)
    found = [[next(left) for _ in _SPELT.findall(word.text)] for word in words]
    return [Span(parts[0].start_s, parts[-1].end_s) for parts in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="pocket", help="a built-in name, folder or hub id")
    parser.add_argument("--voice", help="one of the voices; all of the training's by default")
    parser.add_argument("--sentences", type=int, default=20)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--knobs", default="", metavar="K=V,...", help="decoding knobs; the model's own if not given")
    torch.set_num_threads(1)
    anyio.run(measure, parser.parse_args())


if __name__ == "__main__":
    main()
