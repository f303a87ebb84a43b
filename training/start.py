"""Training on from a checkpoint folder, with nothing of the run that made it: its networks, its voices, its speech tokenizer.

The folder holds tables where training has sums of digit vectors (`objective.DecoderTrainer`), so these are found again by least
squares: exactly for the embedding, and for the head with what is left over in the plain table.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cf_agents.checkpoint import S3GEN_FILE, Checkpoint
from cf_agents.config import CODEC_VOCAB
from cf_agents.models.flow import Flow
from cf_agents.models.hift import HiFT
from cf_agents.models.reference.xvector import XVector
from cf_agents.voice import Voice
from training.config import SPEAKERS
from training.objective import DecoderTrainer

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def fill(module: DecoderTrainer, checkpoint: Path) -> None:
    """Make `module` the decoder of a checkpoint folder. What no folder holds, its phone head, stays as it is."""
    t3 = module.t3
    Checkpoint.open(checkpoint).fill(t3)
    t3.requires_grad_(True)
    embedding, head = t3.speech_emb.weight, t3.speech_head.weight
    module.digits_in.copy_(_sums(module.digits, embedding[:CODEC_VOCAB]))
    module.special_in.copy_(embedding[CODEC_VOCAB:])
    embedding.zero_()
    module.digits_out.copy_(_sums(module.digits, head[:CODEC_VOCAB]))
    head[:CODEC_VOCAB] -= module.digits @ module.digits_out


def flow(checkpoint: Path) -> Flow:
    """The folder's flow, to be trained."""
    return _network(checkpoint, Flow(Checkpoint.open(checkpoint).config.flow), "flow.")


def hift(checkpoint: Path) -> HiFT:
    """The folder's vocoder, to be trained."""
    return _network(checkpoint, HiFT(Checkpoint.open(checkpoint).config.hift), "mel2wav.")


def speaker_net(checkpoint: Path) -> XVector:
    """What tells the folder's flow of a voice."""
    return _network(checkpoint, XVector(Checkpoint.open(checkpoint).config.xvector), "speaker_encoder.").eval()


def _network(checkpoint: Path, network: Network, prefix: str) -> Network:
    Checkpoint.open(checkpoint).fill(network, S3GEN_FILE, prefix)
    return network.requires_grad_(True)


def speakers(checkpoint: Path) -> NDArray[np.float32]:
    """The speaker embeddings of the folder's own voices, those of `SPEAKERS` in their order: float32 [K, E]."""
    folder = checkpoint / "voices"
    return np.stack([Voice.load(folder / f"{speaker.name}.safetensors").conditioning.speaker for speaker in SPEAKERS])


def _sums(digits: Tensor, rows: Tensor) -> Tensor:
    """The digit vectors [24, C] of least norm whose sums come nearest to rows [6561, C]."""
    return torch.linalg.pinv(digits.double()).matmul(rows.double()).float()
