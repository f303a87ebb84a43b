"""From trained stages to the folder that ships: the released layout in float16, the text tokenizer and the voices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cf_agents.checkpoint import CONFIG_FILE, TOKENIZER_FILE, Checkpoint
from cf_agents.config import SAMPLE_RATE, ModelConfig
from cf_agents.models.layout import DIRECTION, GAIN, released_layout
from training.characters import tokenizer_json
from training.config import SPEAKERS, Speaker
from training.speech import TOKEN_SAMPLES, speak
from training.text import sentences

MAX_BYTES = 25_000_000
VOICE_TOKENS = 80
"""Length of a voice's recording: what the flow met most as a prompt."""


def write(folder: Path, config: ModelConfig, networks: Mapping[str, Mapping[str, nn.Module]]) -> None:
    """Write the checkpoint. networks: by file and by the prefix of their tensors, as `released_networks` has them.

    The result is read back and checked. Raises `ValueError` when a weight is not finite in float16 or the files are more than
    `MAX_BYTES`.
    """
    (folder / "voices").mkdir(parents=True, exist_ok=True)
    for file, modules in networks.items():
        tensors = {name: value for prefix, module in modules.items() for name, value in stored(module, prefix).items()}
        save_file(tensors, folder / file, {"format": "pt"})
    described = {**replace(config, trained=True).to_dict()}
    for name, content in ((CONFIG_FILE, described), (TOKENIZER_FILE, tokenizer_json())):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
    checkpoint = Checkpoint.open(folder)
    checkpoint.verify()
    for speaker in SPEAKERS:
        write_voice(checkpoint, speaker)
    check_size(folder)


def replace_networks(source: Path, target: Path, networks: Mapping[str, Mapping[str, nn.Module]]) -> None:
    """Make `target` the checkpoint `source` with other `networks` (as in `write`); all else is kept, bit by bit.

    Raises as `write` does.
    """
    if target.resolve() != source.resolve():
        shutil.copytree(source, target, dirs_exist_ok=True)
    for file, modules in networks.items():
        kept = {name: value for name, value in load_file(source / file).items() if not name.startswith(tuple(modules))}
        for prefix, module in modules.items():
            kept.update(stored(module, prefix))
        save_file(kept, target / file, {"format": "pt"})
    Checkpoint.open(target).verify()
    check_size(target)


def check_size(folder: Path) -> None:
    """Raises `ValueError` when the files are more than `MAX_BYTES`."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise ValueError(f"The checkpoint has {size:,} bytes, more than the {MAX_BYTES:,} that may ship.")


def stored(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The tensors of a module as the released file has them, floating ones in float16, weight norm unfolded."""
    state = module.state_dict()
    tensors: dict[str, Tensor] = {}
    for name in released_layout(module):
        if name.endswith(GAIN):
            weight = state[name.removesuffix(GAIN) + "weight"]
            value = weight.float().flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
        elif name.endswith(DIRECTION):
            value = state[name.removesuffix(DIRECTION) + "weight"]
        else:
            value = state[name]
        value = value.detach().half() if value.is_floating_point() else value.detach()
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{prefix}{name} does not fit float16.")
        tensors[prefix + name] = value.contiguous().clone()
    return tensors


def write_voice(checkpoint: Checkpoint, speaker: Speaker) -> None:
    """Make a voice of held-out sentences through the way that a recording takes, and store it with the checkpoint."""
    from cf_agents.loading import reference_model
    from cf_agents.voice import Voice

    voice = Voice.from_audio(recording(speaker), reference_model(checkpoint), name=speaker.name, sample_rate=SAMPLE_RATE)
    about = {**voice.metadata, "source": f"espeak-ng, voice {speaker.variant}"}
    replace(voice, metadata=about).save(checkpoint.folder / "voices" / f"{speaker.name}.safetensors")


def recording(speaker: Speaker) -> NDArray[np.float32]:
    """`VOICE_TOKENS` of held-out speech, [T] at 24 kHz, cut at the end of a sentence where one fits well."""
    for seed in count():
        parts = [speak(text, speaker) for text in islice(sentences("held_out", 1000 + seed), 2)]
        wave = np.concatenate([part.wave for part in parts if part is not None])
        tokens = len(wave) // TOKEN_SAMPLES
        if VOICE_TOKENS - 4 <= tokens <= VOICE_TOKENS + 2:
            # Full scale is left alone: the recording check would rightly call it clipped.
            return wave * np.float32(0.7 / max(0.7, float(np.abs(wave).max())))
    raise AssertionError("unreachable")
