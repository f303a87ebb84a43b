"""Which network lives where in the released files. Knows nothing of weights: networks here are on the meta device."""

from __future__ import annotations

from torch import nn

from cf_agents.checkpoint import S3GEN_FILE, T3_FILE, VOICE_ENCODER_FILE
from cf_agents.config import ModelConfig
from cf_agents.models.flow import Flow
from cf_agents.models.hift import HiFT
from cf_agents.models.layout import released_layout, without_storage
from cf_agents.models.reference.speech_tokenizer import SpeechTokenizer
from cf_agents.models.reference.voice_encoder import VoiceEncoder
from cf_agents.models.reference.xvector import XVector
from cf_agents.models.t3 import T3


def released_networks(config: ModelConfig) -> dict[str, dict[str, nn.Module]]:
    """Every network of a checkpoint, without storage, by file and by the prefix of its tensors there."""
    with without_storage():
        return {
            T3_FILE: {"": T3(config.t3)},
            S3GEN_FILE: {
                "tokenizer.": SpeechTokenizer(config.speech_tokenizer),
                "speaker_encoder.": XVector(config.xvector),
                "flow.": Flow(config.flow),
                "mel2wav.": HiFT(config.hift),
            },
            VOICE_ENCODER_FILE: {"": VoiceEncoder(config.voice_encoder)},
        }


def released_layouts(config: ModelConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """Name and shape of every tensor, by file."""
    return {
        file: {name: shape for prefix, module in modules.items() for name, shape in released_layout(module, prefix).items()}
        for file, modules in released_networks(config).items()
    }
