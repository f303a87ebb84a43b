"""Whether a listener would know what was said: a model and its ceilings through the same two recognisers.

    python benchmarks/intelligibility.py                                   the pocket voice, every speaker, 100 + 100 sentences
    python benchmarks/intelligibility.py --model DIR --voice NAME --sentences 30 --only assistant --only open
    python benchmarks/intelligibility.py --knobs steps=8,guidance=0 --knobs preset=paper --json out.json

Texts: sentences like those of training and of open vocabulary, none of them trained on, short texts, numbers, dates, names,
abbreviations, two of sixty words, and twenty sentences in a row through one stream. For each the same run hears three kinds of
speech: espeak-ng's original, that original as speech tokens and back (nothing the decoder does can be expected above it), and
the model through its streaming path, once for each `--knobs`. With `--parts` also the original's mel through the vocoder:
what is worse than that in "tokens and back" is of the tokens or the flow. With `--met` (a run's `tokens/train`) it is told
how many words are wrong of those that training met so often.

Two listeners. pocketsphinx is given a set's texts as a grammar and says which one it heard: chance is one in N. A phone
recogniser trained on espeak-ng's speech (`training.recogniser`, precise and not independent) is compared with the phones of the
original: phone errors, words with a wrong phone, words of which nothing is there, runs of phones that nobody wrote, and how
long sound goes on after the last phone. It is trained the first time, in minutes, and kept in `--work`. (pocketsphinx's own
search for phones gets 46 % of espeak-ng's wrong.)

A voice that espeak-ng does not have (a recording, the released weights) is compared with the phones of the first speaker.

Needs pocketsphinx, libespeak-ng and WordNet (`pip install pocketsphinx`, `apt-get install libespeak-ng1 wordnet-base`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ears import PhoneListener, Pocketsphinx, Understood
from benchmarks.knobs import parse_knobs
from benchmarks.machine import describe
from benchmarks.met import counts, table
from benchmarks.spoken_texts import TextSet, text_sets
from cf_agents import TTS, DecodeParams
from cf_agents.audio import WavWriter, resample
from cf_agents.backends import choose
from cf_agents.checkpoint import Checkpoint
from cf_agents.config import REFERENCE_RATE, SAMPLE_RATE
from cf_agents.loading import load_vocoder, reference_model
from cf_agents.models.reference.features import flow_mel
from cf_agents.voice import Voice
from training.config import SPEAKERS, Speaker
from training.corpus import spoken_form
from training.recogniser import RecogniserStage, load
from training.speech import speak

Wave = NDArray[np.float32]

ORIGINAL, MEL, BACK = "espeak-ng", "mel and back", "tokens and back"
LONG_TAIL_S = 0.5
_SILENT = 0.01


@dataclass
class Score:
    """One kind of speech over one set of texts."""

    voice: str
    texts: str
    speech: str
    identified: int = 0
    count: int = 0
    phones: int = 0
    phone_errors: int = 0
    words: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    added: int = 0
    tails: int = 0
    silent: int = 0
    speech_s: float = 0.0
    original_s: float = 0.0
    work_s: float = 0.0
    missed: list[str] = field(default_factory=list)

    def add(self, understood: Understood, segments: Sequence[Wave], tails: Iterable[float]) -> None:
        """What the phone listener says of one text, spoken in segments."""
        self.count += 1
        self.phones += understood.phones
        self.phone_errors += understood.phone_errors
        self.words += understood.words
        self.wrong += understood.wrong
        self.dropped += understood.dropped
        self.added += understood.added
        self.tails += sum(tail > LONG_TAIL_S for tail in tails)
        self.silent += max((float(np.abs(wave).max(initial=0.0)) for wave in segments), default=0.0) < _SILENT
        self.speech_s += sum(len(wave) for wave in segments) / SAMPLE_RATE

    def line(self) -> str:
        """A row of the table."""
        identified = f"{self.identified}/{self.count} = {self.identified / self.count:.3f}" if self.identified >= 0 else "-"
        factor = f"{self.work_s / self.speech_s:.3f}" if self.work_s and self.speech_s else "-"
        shares = f"{self.phone_errors / self.phones:.3f} | {len(self.wrong) / len(self.words):.3f}"
        faults = f"{len(self.dropped)} | {self.added} | {self.tails} | {self.silent}"
        length = f"{self.speech_s / self.original_s:.2f}"
        return f"| {self.voice} | {self.texts} | {self.speech} | {identified} | {shares} | {faults} | {length} | {factor} |"


HEAD = (
    "| voice | texts | speech | identified | phone error | word error | dropped words | added runs | tails > .5 s | silent "
    "| length | real-time factor |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


class Bench:
    """The listeners, the ceilings and the model that are measured."""

    def __init__(
        self, tts: TTS, knobs: dict[str, DecodeParams], ear: Pocketsphinx, phones: PhoneListener, seed: int, parts: bool
    ) -> None:
        checkpoint = Checkpoint.open(tts.folder)
        self.ceilings = (ORIGINAL, MEL, BACK) if parts else (ORIGINAL, BACK)
        self._tts, self._knobs, self._ear, self._phones, self._seed = tts, knobs, ear, phones, seed
        self._vocoder = load_vocoder(checkpoint, choose("dense", "cpu", "float32"), 1, lambda _: None)
        self._tokenizer = reference_model(checkpoint).tokenizer

    async def measure(self, voice: str, speaker: Speaker, texts: TextSet, keep: Path | None, progress: Progress) -> list[Score]:
        """A score of every kind of speech over one set of texts."""
        said = [spoken_form(text) for text in texts.texts]
        made = [speak(text, speaker) for text in said]
        originals = [each for each in made if each is not None]
        assert len(originals) == len(said), "espeak-ng says nothing for one of the texts"
        self._ear.expect(said)
        scores = {name: Score(voice, texts.name, name) for name in (*self.ceilings, *self._knobs)}
        groups = [list(range(len(said)))] if texts.in_a_row else [[n] for n in range(len(said))]
        for group in progress.track(groups, description=f"{voice}: {texts.name}"):
            asked = " ".join(texts.texts[n] for n in group)
            alone = [originals[n] for n in group]
            for name, score in scores.items():
                began = time.perf_counter()
                if name == ORIGINAL:
                    segments = [original.wave for original in alone]
                elif name == MEL:
                    segments = [self._from_mel(original.wave, self._tts.voices[voice]) for original in alone]
                elif name == BACK:
                    segments = [self._resynthesis(original.wave, self._tts.voices[voice]) for original in alone]
                else:
                    segments = await self._spoken(voice, asked, self._knobs[name], self._seed + group[0])
                    score.work_s += time.perf_counter() - began
                understood = self._phones.compare(segments, alone, [said[n] for n in group])
                score.add(understood, segments, map(self._phones.tail_s, segments))
                score.original_s += sum(len(original.wave) for original in alone) / SAMPLE_RATE
                if texts.in_a_row:
                    score.identified = -1
                elif self._ear.hears(np.concatenate(segments) if segments else np.zeros(0, np.float32)) == group[0]:
                    score.identified += 1
                else:
                    score.missed.append(said[group[0]])
                if keep is not None:
                    _keep(keep / f"{voice}-{texts.name}-{name}-{group[0]}.wav".replace(" ", "-"), segments)
        return list(scores.values())

    async def _spoken(self, voice: str, text: str, params: DecodeParams, seed: int) -> list[Wave]:
        """A text through the streaming path, as fast as it goes: float32 at 24 kHz, a wave for each segment."""
        segments: list[list[bytes]] = []
        async with self._tts.stream(voice, params=params, seed=seed, lead_s=math.inf) as stream:
            stream.write(text)
            stream.end()
            async for chunk in stream:
                segments += [[] for _ in range(chunk.segment + 1 - len(segments))]
                segments[chunk.segment].append(chunk.pcm)
        return [np.frombuffer(b"".join(parts), np.int16).astype(np.float32) / np.float32(32768) for parts in segments]

    def _resynthesis(self, wave: Wave, voice: Voice) -> Wave:
        """Speech to tokens and back, by the checkpoint's own tokenizer and vocoder."""
        heard = torch.from_numpy(resample(wave, SAMPLE_RATE, REFERENCE_RATE))
        with torch.inference_mode():
            return self._vocoder.offline(self._tokenizer.tokenize(heard), self._vocoder.prepare(voice), 0)

    def _from_mel(self, wave: Wave, voice: Voice) -> Wave:
        """Speech to mel and back, by the checkpoint's own vocoder."""
        state = self._vocoder.open(self._vocoder.prepare(voice), 0)
        with torch.inference_mode():
            mel = flow_mel(torch.from_numpy(wave)).T.contiguous()
            return self._vocoder.hift.step([state.hift], [mel], [True])[0].clone().numpy()


async def measure(chosen: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    ear = Pocketsphinx()
    sets = [each for each in text_sets(chosen.sentences, chosen.seed, ear.words) if each.name in (chosen.only or [each.name])]
    phones = PhoneListener(load(chosen.work, RecogniserStage(steps=chosen.recogniser_steps)))
    async with TTS.load(chosen.model, device="cpu", max_streams=1, link="thread") as tts:
        knobs = {name or "model": parse_knobs(name, tts.params) for name in chosen.knobs or [""]}
        bench = Bench(tts, knobs, ear, phones, chosen.seed, chosen.parts)
        print(f"{describe()}; {chosen.model}, seed {chosen.seed}")
        for name, params in knobs.items():
            print(f"{name}: {params}")
        print(f"\n{HEAD}")
        scores: list[Score] = []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        speakers = {speaker.name: speaker for speaker in SPEAKERS}
        with Progress(*columns, transient=True, redirect_stdout=True) as progress:
            for voice in chosen.voice or list(tts.voices):
                for texts in sets:
                    scores += await bench.measure(voice, speakers.get(voice, SPEAKERS[0]), texts, chosen.keep, progress)
                    progress.stop()
                    print(*(score.line() for score in scores[-len(bench.ceilings) - len(knobs) :]), sep="\n", flush=True)
                    progress.start()
    if chosen.met is not None:
        met = counts(chosen.met)
        for score in scores:
            shares = ", ".join(table(score.words, score.wrong, met))
            print(f"words wrong by how often training met them, {score.voice}, {score.texts}, {score.speech}: {shares}")
    for score in scores:
        for text in score.missed if score.speech in knobs else ():
            print(f"missed by {score.voice}, {score.speech}: {text}")
    if chosen.json is not None:
        about = {"machine": describe(), "model": str(chosen.model), "seed": chosen.seed}
        settings = {name: dataclasses.asdict(params) for name, params in knobs.items()}
        chosen.json.write_text(
            json.dumps({**about, "knobs": settings, "scores": [dataclasses.asdict(score) for score in scores]}, indent=1)
        )


def _keep(path: Path, segments: Sequence[Wave]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with WavWriter.create(path, SAMPLE_RATE) as file:
        for wave in segments:
            file.write((wave * 32767).astype(np.int16).tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="pocket", help="a built-in name, folder or hub id")
    parser.add_argument("--voice", action="append", help="one of the model's voices; all by default; may be repeated")
    parser.add_argument("--sentences", type=int, default=100, help="of each of the two large sets")
    parser.add_argument("--only", action="append", metavar="SET", help="one of the sets of texts; may be repeated")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--knobs", action="append", metavar="K=V,...", help="the model's own by default; may be repeated")
    parser.add_argument("--parts", action="store_true", help="tell the vocoder's part of the ceiling")
    parser.add_argument("--met", type=Path, help="folder of training shards: tell words wrong by how often these hold them")
    parser.add_argument("--work", type=Path, default=Path(".cache/recogniser"), help="where the phone recogniser is kept")
    parser.add_argument("--recogniser-steps", type=int, default=RecogniserStage().steps, help="for how long it is trained")
    parser.add_argument("--keep", type=Path, help="folder to write all speech to")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    anyio.run(measure, parser.parse_args())


if __name__ == "__main__":
    main()
