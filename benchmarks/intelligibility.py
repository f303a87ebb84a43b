"""Whether a listener would know what was said: a model and its ceilings through the same recogniser.

    python benchmarks/intelligibility.py                         the default model, every voice of it that training spoke
    python benchmarks/intelligibility.py --model DIR --voice NAME --sentences 50

Sentences are held out of training (`training.text`). For each, pocketsphinx is given the whole list as a grammar and has to say
which one it heard: chance is one in N. Besides the model's speech through its streaming path, the same run hears espeak-ng's
original, and that original as speech tokens and back: nothing the decoder does can be expected above the latter. Also counted:
sentences without sound, and how long speech is beside the original.

Needs `pip install pocketsphinx` and, for texts' originals, libespeak-ng (`apt-get install libespeak-ng1`).
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe
from cf_agents import TTS, DecodeParams
from cf_agents.audio import resample
from cf_agents.checkpoint import S3GEN_FILE, Checkpoint
from cf_agents.config import REFERENCE_RATE, SAMPLE_RATE
from cf_agents.loading import reference_model
from cf_agents.models.flow import Flow
from cf_agents.models.hift import HiFT
from cf_agents.vocoder import SAMPLES_PER_TOKEN, Vocoder
from cf_agents.voice import Voice
from training.config import SPEAKERS
from training.speech import speak
from training.text import sentences

_PADDING_S = 0.25
_LOUDEST = 0.7
_FLOOR = 0.003


@dataclass
class Score:
    """One kind of speech over all sentences."""

    right: int = 0
    count: int = 0
    silent: int = 0
    speech_s: float = 0.0
    work_s: float = 0.0

    def line(self, name: str, original_s: float) -> str:
        share = self.right / max(1, self.count)
        length = self.speech_s / original_s if original_s else math.nan
        factor = f"{self.work_s / self.speech_s:.3f}" if self.work_s and self.speech_s else "-"
        return f"| {name} | {self.right}/{self.count} = {share:.3f} | {self.silent} | {length:.2f} | {factor} |"


class Listener:
    """pocketsphinx with a grammar of whole sentences; words it has no pronunciation for are left out of them."""

    def __init__(self, texts: Sequence[str]) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=REFERENCE_RATE, loglevel="FATAL")
        self.known = [self._words(text) for text in texts]
        if len(set(self.known)) != len(texts) or "" in self.known:
            raise SystemExit("Two sentences are the same to the recogniser; choose another --seed.")
        self._decoder.add_jsgf_string("sentences", f"#JSGF V1.0; grammar g; public <s> = {' | '.join(self.known)};")
        self._decoder.activate_search("sentences")

    def hears(self, wave: NDArray[np.float32], number: int) -> bool:
        """Whether a 24 kHz wave is taken for sentence `number`."""
        if len(wave) < SAMPLES_PER_TOKEN:
            return False
        at_16k = np.pad(resample(wave, SAMPLE_RATE, REFERENCE_RATE), round(_PADDING_S * REFERENCE_RATE))
        at_16k = at_16k / max(float(np.abs(at_16k).max()), 1e-3) * _LOUDEST
        # The recogniser's front end knows no digital silence: without a floor it mishears espeak-ng's deep voice itself.
        scaled = (at_16k + _FLOOR * np.random.default_rng(0).standard_normal(len(at_16k))) * 32767
        self._decoder.start_utt()
        self._decoder.process_raw(scaled.astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return found is not None and found.hypstr == self.known[number]

    def _words(self, text: str) -> str:
        return " ".join(word for word in re.findall(r"[a-z']+", text) if self._decoder.lookup_word(word) is not None)


class Resynthesis:
    """Speech to tokens and back, by the checkpoint's own tokenizer and vocoder."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        flow, hift = Flow(checkpoint.config.flow), HiFT(checkpoint.config.hift)
        checkpoint.fill(flow, S3GEN_FILE, "flow.")
        checkpoint.fill(hift, S3GEN_FILE, "mel2wav.")
        self._vocoder = Vocoder(flow, hift)
        self._tokenizer = reference_model(checkpoint).tokenizer

    def __call__(self, wave: NDArray[np.float32], voice: Voice) -> NDArray[np.float32]:
        heard = torch.from_numpy(resample(wave, SAMPLE_RATE, REFERENCE_RATE))
        with torch.inference_mode():
            return self._vocoder.offline(self._tokenizer.tokenize(heard), self._vocoder.prepare(voice), 0)


async def spoken(tts: TTS, voice: str, text: str, params: DecodeParams | str, seed: int) -> NDArray[np.float32]:
    """A text through the streaming path, as fast as it goes: float32 [T] at 24 kHz."""
    async with tts.stream(voice, params=params, seed=seed, lead_s=math.inf) as stream:
        stream.write(text)
        stream.end()
        pcm = b"".join([chunk.pcm async for chunk in stream])
    return np.frombuffer(pcm, np.int16).astype(np.float32) / np.float32(32768)


async def measure(chosen: argparse.Namespace) -> None:
    texts: list[str] = []
    for text in sentences("held_out", chosen.seed):
        if len(text) > 18 and text not in texts:
            texts.append(text)
        if len(texts) == chosen.sentences:
            break
    listener = Listener(texts)
    params = DecodeParams.preset(chosen.preset) if chosen.preset else DecodeParams(**chosen.knob)
    print(f"{describe()}; {len(texts)} held-out sentences, {params}\n")
    async with TTS.load(chosen.model, device="cpu", max_streams=1, link="thread") as tts:
        resynthesis = Resynthesis(Checkpoint.open(tts.folder))
        for speaker in SPEAKERS:
            if speaker.name not in tts.voices or chosen.voice not in (None, speaker.name):
                continue
            scores = {"espeak-ng": Score(), "tokens and back": Score(), "model": Score()}
            missed: list[str] = []
            for number, text in enumerate(texts):
                made = speak(text, speaker)
                assert made is not None
                back = resynthesis(made.wave, tts.voices[speaker.name])
                start = time.perf_counter()
                said = await spoken(tts, speaker.name, text, params, number)
                scores["model"].work_s += time.perf_counter() - start
                for name, wave in zip(scores, (made.wave, back, said), strict=True):
                    score = scores[name]
                    right = listener.hears(wave, number)
                    score.right += right
                    score.count += 1
                    score.silent += float(np.abs(wave).max(initial=0.0)) < 0.01
                    score.speech_s += len(wave) / SAMPLE_RATE
                    if name == "model" and not right:
                        missed.append(text)
                if chosen.keep is not None:
                    _keep(chosen.keep, f"{speaker.name}-{number}", said)
            print(f"| {speaker.name} | identified | silent | length | real-time factor |\n|---|---|---|---|---|")
            for name, score in scores.items():
                print(score.line(name, scores["espeak-ng"].speech_s))
            print(*(f"missed: {text}" for text in missed), "", sep="\n")


def _keep(folder: Path, name: str, wave: NDArray[np.float32]) -> None:
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{name}.wav", wave, SAMPLE_RATE)


def _knob(text: str) -> tuple[str, int | float]:
    name, _, value = text.partition("=")
    return name, int(value) if name == "steps" else float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="pocket", help="a built-in name, folder or hub id")
    parser.add_argument("--voice", help="one of the voices; all of the training's by default")
    parser.add_argument("--sentences", type=int, default=30)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--preset", help="decoding preset")
    parser.add_argument("--set", dest="knob", type=_knob, action="append", default=[], help="decoding knob, NAME=VALUE")
    parser.add_argument("--keep", type=Path, help="folder to write the model's speech to")
    chosen = parser.parse_args()
    chosen.knob = dict(chosen.knob)
    torch.set_num_threads(1)
    anyio.run(measure, chosen)


if __name__ == "__main__":
    main()
