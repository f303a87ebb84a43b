"""From a checkpoint to networks that speak: the one place that builds a back-end. Imports torch; knows nothing of streams."""

from __future__ import annotations

from collections.abc import Callable

from cf_agents.backends import Choice
from cf_agents.checkpoint import S3GEN_FILE, T3_FILE, VOICE_ENCODER_FILE, Checkpoint
from cf_agents.decode import Decoder
from cf_agents.engines.dense import DenseEngine
from cf_agents.links.thread import ThreadLink
from cf_agents.models.flow import Flow
from cf_agents.models.hift import HiFT
from cf_agents.models.layout import without_storage
from cf_agents.models.reference import ReferenceModel
from cf_agents.models.t3 import T3
from cf_agents.scheduler import Scheduler
from cf_agents.vocoder import Vocoder

ROWS_PER_STREAM = 2
"""The conditional row and the null row of guidance."""


def thread_link(checkpoint: Checkpoint, choice: Choice, max_streams: int, progress: Callable[[str], None]) -> ThreadLink:
    """Read the weights and start a scheduler over them. Takes seconds and blocks; no thread runs if it raises.

    The decoder runs in the chosen dtype, the vocoder in float32. Raises the errors of `Checkpoint.fill`.
    """
    tokenizer = checkpoint.tokenizer()
    config = checkpoint.config
    progress("Reading the decoder")
    with without_storage():
        t3, flow, hift = T3(config.t3), Flow(config.flow), HiFT(config.hift)
    checkpoint.fill(t3, T3_FILE, dtype=choice.dtype, device=choice.device)
    progress("Reading the vocoder")
    checkpoint.fill(flow, S3GEN_FILE, "flow.", device=choice.device)
    checkpoint.fill(hift, S3GEN_FILE, "mel2wav.", device=choice.device)
    engine = DenseEngine(t3, max_rows=ROWS_PER_STREAM * max_streams)
    vocoder = Vocoder(flow, hift)
    scheduler = Scheduler(Decoder(engine), vocoder, vocoder.sample_rate)
    return ThreadLink(scheduler, tokenizer.encode, vocoder.sample_rate)


def reference_model(checkpoint: Checkpoint) -> ReferenceModel:
    """The networks that make a voice, in float32 on the CPU, where they disturb no scheduler. Blocks.

    Raises the errors of `Checkpoint.fill`.
    """
    with without_storage():
        model = ReferenceModel.build(checkpoint.config)
    checkpoint.fill(model.tokenizer, S3GEN_FILE, "tokenizer.")
    checkpoint.fill(model.xvector, S3GEN_FILE, "speaker_encoder.")
    checkpoint.fill(model.voice_encoder, VOICE_ENCODER_FILE)
    return model
