"""The voice in the box is whole, small enough to ship, and says what it is given: a recogniser, if installed, hears it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from cf_agents import TTS, DecodeParams
from cf_agents.audio import resample
from cf_agents.builtin import open_model, pocket_folder
from cf_agents.config import REFERENCE_RATE, SAMPLE_RATE

MAX_BYTES = 25_000_000
GREEDY = DecodeParams(steps=8, temperature=0.0, guidance=0.0, position_noise=0.0)
SAID = "Thank you for calling. How may I help you?"
OTHERS = (
    "hello, how can i help you today?",
    "please hold while i check your account.",
    "your order number is three four five.",
    "is there anything else i can help you with?",
    "the weather in paris is sunny today.",
    "we are open from nine to five on monday.",
    "could you please tell me your booking number?",
    "turn the lights on in the kitchen.",
    "i would like a small table, please.",
)


async def said(text: str, voice: str) -> NDArray[np.float32]:
    async with TTS.load("pocket", device="cpu", max_streams=1, params=GREEDY) as tts:
        chunk = await tts.say(text, voice, seed=0)
    return np.frombuffer(chunk.pcm, np.int16).astype(np.float32) / 32768


def test_the_checkpoint_is_whole_trained_and_small() -> None:
    checkpoint = open_model("pocket")
    checkpoint.verify()
    assert checkpoint.config.trained
    assert checkpoint.config.name == "pocket"
    assert set(checkpoint.voices) == {"default", "male"}
    assert sum(path.stat().st_size for path in pocket_folder().rglob("*") if path.is_file()) <= MAX_BYTES


@pytest.mark.parametrize("voice", ["default", "male"])
async def test_it_speaks_for_as_long_as_the_words_take(voice: str, anyio_backend: str) -> None:
    if anyio_backend != "asyncio":
        pytest.skip("the sound does not depend on the event loop")
    wave = await said(SAID, voice)
    assert 1.5 < len(wave) / SAMPLE_RATE < 5.0
    assert np.sqrt(np.mean(wave**2)) > 0.02
    assert np.abs(wave[-60:]).max() < 0.1 * np.abs(wave).max(), "it ends without a click"


async def test_a_recogniser_hears_the_words(anyio_backend: str) -> None:
    if anyio_backend != "asyncio":
        pytest.skip("the sound does not depend on the event loop")
    pocketsphinx = pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed: pip install pocketsphinx")
    decoder = pocketsphinx.Decoder(samprate=REFERENCE_RATE, loglevel="FATAL")
    known = [" ".join(re.findall(r"[a-z']+", text.lower())) for text in (SAID, *OTHERS)]
    decoder.add_jsgf_string("sentences", f"#JSGF V1.0; grammar g; public <s> = {' | '.join(known)};")
    decoder.activate_search("sentences")
    heard: list[str | None] = []
    async with TTS.load("pocket", device="cpu", max_streams=1) as tts:
        for text in (SAID, *OTHERS):
            chunk = await tts.say(text, seed=0)
            wave = np.frombuffer(chunk.pcm, np.int16).astype(np.float32) / 32768
            wave = np.pad(resample(wave, SAMPLE_RATE, REFERENCE_RATE), 4000)
            # The recogniser knows no digital silence.
            floor = 0.003 * np.random.default_rng(0).standard_normal(len(wave))
            scaled = (wave / np.abs(wave).max() * 0.7 + floor) * 32767
            decoder.start_utt()
            decoder.process_raw(scaled.astype(np.int16).tobytes(), full_utt=True)
            decoder.end_utt()
            found = decoder.hyp()
            heard.append(None if found is None else found.hypstr)
    right = sum(one == other for one, other in zip(heard, known, strict=True))
    assert right >= 7, heard
