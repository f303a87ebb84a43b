"""Whether the pocket voice's seams can be found: places where a block's audio ends against places inside blocks.

    python benchmarks/seams.py                               figures of both voices
    python benchmarks/seams.py --plot docs/pocket-seams.png  and the picture (needs matplotlib)

Held-out sentences, joined to long texts, go through decoder and vocoder block by block. At every seam, and at random borders of
mel frames inside blocks, three things are measured: the jump from one sample to the next beside the jumps around it, the change
of the spectrum across it, and the energy above 8 kHz in the 5 ms around it beside the 40 ms around it, which is where a click
shows. Seams are borders of frames too, and these differ from other samples whether or not a block ends there. A rank test (Mann
and Whitney 1947) tells whether the two kinds of places differ: its p is uniform when they do not. Also: how far the pieces are
from the whole.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe
from cf_agents.backends import choose
from cf_agents.builtin import open_model
from cf_agents.config import HOP_SAMPLES, SAMPLE_RATE
from cf_agents.decode import Decoder
from cf_agents.engines.base import Prefix
from cf_agents.loading import load_engine, load_vocoder
from cf_agents.voice import Voice
from training.text import sentences

Places = NDArray[np.int64]
Measure = Callable[[NDArray[np.float32], int], float]
_TEXT_SEED, _LONG = 21, 80
_MARGIN = 1200
_JUMP_AROUND, _FLUX, _CLICK, _CLICK_AROUND = 120, 480, 60, 480
_HIGH_HZ = 8000
MEASURES: dict[str, str] = {"jump": "jump beside jumps around", "flux": "spectral change, dB", "click": "energy over 8 kHz, dB"}


@dataclass(frozen=True)
class Sound:
    """One utterance in pieces and as a whole, and where its seams are."""

    pieces: NDArray[np.float32]
    whole: NDArray[np.float32]
    seams: Places


def long_texts(count: int) -> list[str]:
    """Held-out sentences of an assistant, so many joined that a text is several blocks long."""
    source, texts = sentences("held_out", _TEXT_SEED), []
    while len(texts) < count:
        text = next(source)
        while len(text) < _LONG:
            text += " " + next(source)
        texts.append(text)
    return texts


def speak(model: str, voice_name: str, texts: Sequence[str]) -> list[Sound]:
    """Every text, at the checkpoint's own knobs."""
    checkpoint, choice = open_model(model), choose("dense", "cpu", "float32")
    decoder, vocoder = Decoder(load_engine(checkpoint, choice, 2)), load_vocoder(checkpoint, choice, 1, lambda _: None)
    voice, tokenizer = Voice.load(checkpoint.voices[voice_name]), checkpoint.tokenizer()
    prepared, sounds = vocoder.prepare(voice), []
    for seed, text in enumerate(texts):
        prefix = Prefix(voice.conditioning, tuple(tokenizer.encode(text)))
        decoding, state = decoder.open(prefix, checkpoint.config.decoding, seed), vocoder.open(prepared, seed)
        pieces: list[NDArray[np.float32]] = []
        tokens: list[int] = []
        while not decoding.finished:
            (block,) = decoder.step([decoding])
            if block is not None:
                tokens += block.tokens
                pieces += vocoder.step([state], [block.tokens], [decoding.finished])
        decoder.close(decoding)
        seams = np.cumsum([len(piece) for piece in pieces])[:-1]
        sounds.append(Sound(np.concatenate(pieces), vocoder.offline(tokens, prepared, seed), seams[seams > 0]))
    return sounds


def inside(sound: Sound, chooser: np.random.Generator, count: int) -> Places:
    """Random borders of mel frames that are no seam's neighbours."""
    last = (len(sound.pieces) - _MARGIN) // HOP_SAMPLES
    places = HOP_SAMPLES * chooser.integers(_MARGIN // HOP_SAMPLES + 1, last, 4 * count)
    apart = np.abs(places[:, None] - sound.seams).min(1) > _MARGIN if len(sound.seams) else np.ones(len(places), bool)
    return places[apart][:count]


def jump(sound: NDArray[np.float32], place: int) -> float:
    """The step from the last sample before `place`, over the root mean square of those around."""
    around = np.diff(sound[place - _JUMP_AROUND : place + _JUMP_AROUND])
    return float(abs(sound[place] - sound[place - 1]) / max(np.sqrt(np.mean(around**2)), 1e-6))


def flux(sound: NDArray[np.float32], place: int) -> float:
    """Mean distance of the log spectra of the 20 ms before and after."""
    window = np.hanning(_FLUX)
    before, after = (np.abs(np.fft.rfft(sound[at : at + _FLUX] * window)) for at in (place - _FLUX, place))
    return float(np.mean(np.abs(20 * np.log10((after + 1e-3) / (before + 1e-3)))))


def click(sound: NDArray[np.float32], place: int) -> float:
    """Energy above 8 kHz in the 5 ms around, over that in the 40 ms around."""

    def high(reach: int) -> float:
        part = sound[place - reach : place + reach]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
        return float(spectrum[round(_HIGH_HZ / SAMPLE_RATE * len(part)) :].sum() / len(part) ** 2) + 1e-12

    return 10 * math.log10(high(_CLICK) / high(_CLICK_AROUND))


def rank_test(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float]:
    """How often one of ours is above one of theirs, and the two-sided p of that share under equal distributions.

    By the normal approximation, good from some twenty values on; ties count half.
    """
    above = (ours[:, None] > theirs).mean() + 0.5 * (ours[:, None] == theirs).mean()
    n, m = len(ours), len(theirs)
    deviation = math.sqrt((n + m + 1) / (12 * n * m))
    return float(above), math.erfc(abs(above - 0.5) / deviation / math.sqrt(2))


def values(
    sounds: list[Sound], measure: Callable[[NDArray[np.float32], int], float], places: list[Places]
) -> NDArray[np.float64]:
    return np.array([measure(sound.pieces, place) for sound, own in zip(sounds, places, strict=True) for place in own])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="pocket", help="a built-in name, folder or hub id")
    parser.add_argument("--voice", action="append", help="one of its voices; all by default")
    parser.add_argument("--texts", type=int, default=24, help="how many are said by each voice")
    parser.add_argument("--plot", type=Path, help="write the picture here")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{describe()}; {chosen.model}\n\n| voice | measure | seams | above inside | p |\n|---|---|---|---|---|")
    drawn: tuple[list[Sound], dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]] | None = None
    for voice in chosen.voice or list(open_model(chosen.model).voices):
        sounds = speak(chosen.model, voice, long_texts(chosen.texts))
        chooser = np.random.default_rng(0)
        at = [own[(own > _MARGIN) & (own < len(sound.pieces) - _MARGIN)] for sound, own in ((s, s.seams) for s in sounds)]
        between = [inside(sound, chooser, 4 * len(own)) for sound, own in zip(sounds, at, strict=True)]
        compared: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        for name, measure in (("jump", jump), ("flux", flux), ("click", click)):
            ours, theirs = compared[name] = values(sounds, measure, at), values(sounds, measure, between)
            share, p = rank_test(ours, theirs)
            print(f"| {voice} | {MEASURES[name]} | {len(ours)} | {share:.3f} | {p:.2f} |", flush=True)
        error, power = (sum(float(np.sum(np.square(x))) for x in xs) for xs in _error_and_whole(sounds))
        print(f"| {voice} | pieces against the whole: {10 * math.log10(error / power + 1e-30):.0f} dB | | | |")
        drawn = drawn or (sounds, compared)
    if chosen.plot is not None and drawn is not None:
        plot(*drawn, chosen.plot)


def _error_and_whole(sounds: list[Sound]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    return [sound.pieces - sound.whole for sound in sounds], [sound.whole for sound in sounds]


def plot(sounds: list[Sound], compared: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]], path: Path) -> None:
    """A spectrogram with its seams, the wave around one, and the three distributions at seams and inside."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(14, 6.5), layout="constrained")
    grid = figure.add_gridspec(2, 4)
    sound = sounds[0]
    top = figure.add_subplot(grid[0, :])
    top.specgram(sound.pieces + 1e-6, NFFT=512, noverlap=392, Fs=SAMPLE_RATE, cmap="magma", vmin=-130, vmax=-40)
    for number, seam in enumerate(sound.seams):
        top.axvline(seam / SAMPLE_RATE, color="white", linestyle=":", linewidth=0.9, label=None if number else "seam")
    top.set(title="an utterance in blocks", xlabel="s", ylabel="Hz")
    top.legend(fontsize=8, loc="upper right")
    seam = max(sound.seams, key=lambda place: float(np.abs(sound.pieces[place - 240 : place + 240]).max()))
    span = np.arange(seam - 240, seam + 240)
    axis = figure.add_subplot(grid[1, 0])
    axis.plot((span - seam) / 24, sound.pieces[span], label="in pieces")
    axis.plot((span - seam) / 24, sound.whole[span], ":", color="black", label="whole")
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.set(title=f"the loudest seam, at {seam / SAMPLE_RATE:.2f} s", xlabel="ms", ylabel="amplitude")
    axis.legend(fontsize=8)
    for column, (name, (ours, theirs)) in enumerate(compared.items(), start=1):
        axis = figure.add_subplot(grid[1, column])
        for data, label in ((theirs, f"inside ({len(theirs)})"), (ours, f"at seams ({len(ours)})")):
            axis.plot(np.sort(data), np.arange(1, len(data) + 1) / len(data), label=label)
        axis.set(title=f"{MEASURES[name]}: p = {rank_test(ours, theirs)[1]:.2f}", ylabel="share below", ylim=(0, 1))
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
