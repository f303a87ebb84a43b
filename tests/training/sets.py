"""A small data set without espeak-ng: harmonic tones of two "speakers", and tokens that say which tone it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from training.data import INDEX_FILE, Dataset, features, write_tokens
from training.speech import TOKEN_SAMPLES

TONE_HZ = (95.0, 140.0, 190.0, 240.0)
"""Two of each speaker."""


def tone_set(folder: Path, utterances: int = 12) -> Dataset:
    """Utterances of 12 to 30 tokens, each a chain of tones of its speaker with noise between; written as `data.write` does."""
    chooser = np.random.default_rng(0)
    index: dict[str, list] = {"text": [], "speaker": [], "tokens": [], "words": [], "phones": ["", "a"]}
    arrays: dict[str, list[bytes]] = {name: [] for name in ("wave.i16", "mel.f16", "heard.f16", "phones.u8", "place.f32")}
    tokens: list[int] = []
    for number in range(utterances):
        count, speaker = int(chooser.integers(12, 31)), number % 2
        pitches = [int(chooser.integers(3)) for _ in range(count // 4 + 1)]
        kinds = np.repeat(pitches, 4)[:count]
        wave = np.concatenate([_sound(kind, speaker, position, chooser) for position, kind in enumerate(kinds)])
        pcm = (wave * 32767).astype(np.int16)
        mel, heard = features((pcm / 32767).astype(np.float32))
        tokens += [int(100 * speaker + kind) for kind in kinds]
        arrays["wave.i16"].append(pcm.tobytes())
        arrays["mel.f16"].append(mel.astype(np.float16).tobytes())
        arrays["heard.f16"].append(heard.astype(np.float16).tobytes())
        arrays["phones.u8"].append(np.repeat(kinds + 4, 2).astype(np.uint8).tobytes())
        arrays["place.f32"].append(np.zeros(count, np.float32).tobytes())
        index["text"].append("a")
        index["speaker"].append(speaker)
        index["tokens"].append(count)
        index["words"].append([])
    for name, parts in arrays.items():
        (folder / name).write_bytes(b"".join(parts))
    (folder / INDEX_FILE).write_text(json.dumps(index), "utf-8")
    data = Dataset(folder)
    write_tokens(data, np.array(tokens, np.int16))
    return data


def _sound(kind: int, speaker: int, position: int, chooser: np.random.Generator) -> np.ndarray:
    """One token: a tone (0, 1) of the speaker or noise (2), float [960]."""
    if kind == 2:
        return 0.05 * chooser.standard_normal(TOKEN_SAMPLES)
    time = (position * TOKEN_SAMPLES + np.arange(TOKEN_SAMPLES)) / 24_000
    hz = TONE_HZ[2 * speaker + kind]
    return 0.2 * np.sum([np.sin(2 * np.pi * hz * k * time) / k for k in range(1, 12)], 0)
