"""Models by name, and the two that need no download: "pocket", a small voice that comes with the package, and "tiny", random
weights in the released layout, built into the cache when they are first asked for.

Knows nothing of how a checkpoint is read or run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from pathlib import Path

import numpy as np

import cf_agents
from cf_agents.checkpoint import Checkpoint
from cf_agents.config import CODEC_VOCAB, FRAMES_PER_TOKEN, ModelConfig
from cf_agents.engines.base import Conditioning
from cf_agents.errors import CheckpointNotFound
from cf_agents.synthetic import TINY, draw, write_checkpoint
from cf_agents.voice import DEFAULT_VOICE, Voice

logger = logging.getLogger(__name__)

POCKET_NAME = "pocket"
TINY_NAME = "tiny"
_PROMPT_TOKENS = 25


def open_model(
    model: str | Path, *, revision: str | None = None, local_files_only: bool = False, progress: bool = False
) -> Checkpoint:
    """The checkpoint of a built-in name, a folder or a hub id. Raises as `tiny_folder` and `Checkpoint.open` do."""
    if model == POCKET_NAME:
        model = pocket_folder()
    elif model == TINY_NAME:
        model = tiny_folder()
    return Checkpoint.open(model, revision=revision, local_files_only=local_files_only, progress=progress)


def pocket_folder() -> Path:
    """The folder of the "pocket" checkpoint inside the package. See `docs/pocket.md` for what it is."""
    return Path(__file__).with_name("pocket")


def tiny_folder() -> Path:
    """The folder of the "tiny" checkpoint, written to the Hugging Face assets cache if it is not there yet.

    It speaks noise: nothing in it is trained. Raises `CheckpointNotFound` when it cannot be written.
    """
    from huggingface_hub import cached_assets_path

    about = json.dumps([TINY.to_dict(), cf_agents.__version__], sort_keys=True)
    name = f"{TINY_NAME}-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
    try:
        folder = cached_assets_path("cf_agents", "models", "builtin") / name
        if not folder.is_dir():
            logger.info("Building the untrained %r checkpoint in %s.", TINY_NAME, folder)
            _write_whole(folder)
    except (OSError, ValueError) as error:  # the hub library says ValueError for a file in the way
        raise CheckpointNotFound(
            f"The {TINY_NAME!r} checkpoint cannot be written to the cache ({error}). Make the cache writable, set HF_HOME to a "
            "folder that is, or give a checkpoint folder."
        ) from error
    return folder


def write_tiny(folder: str | Path) -> Path:
    """Write the "tiny" checkpoint and its default voice into `folder`, and return it."""
    folder = write_checkpoint(folder, TINY)
    (folder / "voices").mkdir(exist_ok=True)
    random_voice(TINY, DEFAULT_VOICE).save(folder / "voices" / f"{DEFAULT_VOICE}.safetensors")
    return folder


def default_voice(checkpoint: Checkpoint) -> Voice:
    """What a checkpoint speaks with if nobody says otherwise; a drawn voice where it comes with none."""
    voices = checkpoint.voices
    path = voices.get(DEFAULT_VOICE) or next(iter(voices.values()), None)
    return random_voice(checkpoint.config, DEFAULT_VOICE) if path is None else Voice.load(path)


def random_voice(config: ModelConfig, name: str) -> Voice:
    """A voice of valid shapes and drawn numbers: one second of prompt that nobody ever spoke. The name seeds it."""
    random = np.random.RandomState(np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype=np.uint32))
    speaker = draw(f"voices.{name}.speaker", (1, config.t3.speaker_dim))[0]
    tokens = random.randint(0, CODEC_VOCAB, 2 * _PROMPT_TOKENS).astype(np.int64)
    # Mel of the range that log-mel of speech has; a smooth walk, as speech is smooth.
    steps = random.standard_normal((FRAMES_PER_TOKEN * _PROMPT_TOKENS, config.flow.mel_bins))
    mel = np.clip(-5.0 + 0.3 * np.cumsum(steps, axis=0), -11.0, 1.0).astype(np.float32)
    return Voice(
        Conditioning(speaker / np.linalg.norm(speaker), tokens[:_PROMPT_TOKENS]),
        flow_tokens=tokens[_PROMPT_TOKENS:],
        flow_mel=mel,
        xvector=draw(f"voices.{name}.xvector", (1, config.flow.speaker_dim))[0],
        name=name,
        metadata={"source": "drawn at random", "model": config.name},
    )


def _write_whole(folder: Path) -> None:
    """Build beside the place and move in: two processes may do this at once, and one may die."""
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        write_tiny(partial)
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
