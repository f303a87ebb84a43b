"""A data set whose mel is the flow's: what the vocoder will really hear, beside the waveform that it should have been.

The flow is told the recording's own tokens, so that its mel and the waveform go together in time. Knows nothing of training.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cf_agents.config import FRAMES_PER_TOKEN
from cf_agents.models.flow import Flow, FlowPrompt
from cf_agents.models.flow_stream import FlowVoice
from cf_agents.models.noise import MEL_STREAM, SeededNoise
from cf_agents.models.reference.xvector import XVector
from training.data import INDEX_FILE, TOKENS_FILE, Dataset
from training.speaker import embeddings

PROMPT_TOKENS = 80
VOICES = 4
"""Prompts for each speaker."""


@torch.inference_mode()
def remake(data: Dataset, utterances: int, flow: Flow, net: XVector, folder: Path) -> None:
    """Write the first utterances of `data` to `folder` with the flow's mel in place of theirs; a whole folder is kept.

    The prompts are made of the utterances after those. Each is made in pieces, as it is streamed.
    """
    if (folder / INDEX_FILE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    assert utterances < len(data), "prompts are taken from the utterances that are left over"
    chooser = np.random.default_rng(0)
    voices = [[_voice(data, speaker, utterances, flow, net, chooser) for _ in range(VOICES)] for speaker in _speakers(data)]
    mels = []
    for number in range(utterances):
        options = voices[int(data.speakers[number])]
        voice = options[int(chooser.integers(len(options)))]
        state = flow.open(voice, SeededNoise(number, flow.config.mel_bins, MEL_STREAM))
        tokens = torch.from_numpy(data.tokens(int(data.offsets[number]), int(data.lengths[number])))
        mels.append(flow.step([state], [tokens], [True])[0].T)
    mel = torch.cat(mels).numpy().astype(np.float16)
    total = int(data.offsets[utterances])
    (folder / "mel.f16").write_bytes(mel.tobytes())
    for name in ("wave.i16", "heard.f16", "phones.u8", "place.f32", TOKENS_FILE):
        source = data.folder / name
        size = source.stat().st_size * total // int(data.offsets[-1])
        with source.open("rb") as file:
            (folder / name).write_bytes(file.read(size))
    index = json.loads((data.folder / INDEX_FILE).read_text("utf-8"))
    for name in ("text", "speaker", "tokens", "words"):
        index[name] = index[name][:utterances]
    (folder / INDEX_FILE).write_text(json.dumps(index), "utf-8")


def _speakers(data: Dataset) -> list[int]:
    return [int(speaker) for speaker in np.unique(data.speakers)]


def _voice(data: Dataset, speaker: int, after: int, flow: Flow, net: XVector, chooser: np.random.Generator) -> FlowVoice:
    """A voice whose prompt is made of utterances of `speaker` from number `after` on."""
    own = data.of_speaker(speaker)
    own = own[own >= after]
    tokens: list[Tensor] = []
    mels: list[Tensor] = []
    while sum(map(len, tokens)) < PROMPT_TOKENS:
        number = int(chooser.choice(own))
        first, count = int(data.offsets[number]), int(data.lengths[number])
        tokens.append(torch.from_numpy(data.tokens(first, count)))
        mels.append(torch.from_numpy(data.mel(first, count)))
    vector = embeddings(net, data, speaker, 1, chooser)[0]
    prompt = FlowPrompt(torch.cat(tokens)[:PROMPT_TOKENS], torch.cat(mels)[: FRAMES_PER_TOKEN * PROMPT_TOKENS], vector)
    return flow.prepare(prompt)
