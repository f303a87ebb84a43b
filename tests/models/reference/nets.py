"""The reference networks at the sizes of the goldens, with the weights the goldens were made with."""

from __future__ import annotations

from functools import cache

import torch

from cf_agents.config import ModelConfig, SpeechTokenizerConfig, XVectorConfig
from cf_agents.models.reference import ReferenceModel
from tests.drawn import load_drawn

TINY = ModelConfig(
    name="tiny",
    xvector=XVectorConfig(growth_rate=8, init_channels=32),
    speech_tokenizer=SpeechTokenizerConfig(width=128, heads=2, layers=1),
)


@cache
def tiny_reference() -> ReferenceModel:
    torch.set_num_threads(1)
    model = ReferenceModel.build(TINY)
    load_drawn(model.voice_encoder)
    load_drawn(model.xvector, "speaker_encoder.")
    load_drawn(model.tokenizer, "tokenizer.")
    return model
