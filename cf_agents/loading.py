"""From a checkpoint to networks that speak: the one place that builds a back-end. Imports torch; knows nothing of streams."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from cf_agents.backends import Choice
from cf_agents.builtin import default_voice
from cf_agents.checkpoint import IGNORED, S3GEN_FILE, T3_FILE, VOICE_ENCODER_FILE, Checkpoint
from cf_agents.config import DecodeParams, ModelConfig
from cf_agents.decode import Decoder
from cf_agents.engines.base import Engine
from cf_agents.engines.dense import DenseEngine
from cf_agents.errors import CfAgentsError
from cf_agents.links.base import Closed, Event, Failed, Segment
from cf_agents.links.thread import ThreadLink
from cf_agents.models.flow import Flow
from cf_agents.models.hift import HiFT
from cf_agents.models.layout import released_layout, without_storage
from cf_agents.models.reference import ReferenceModel
from cf_agents.models.t3 import T3
from cf_agents.scheduler import Scheduler
from cf_agents.vocoder import Vocoder
from cf_agents.voice import Voice

logger = logging.getLogger(__name__)

ROWS_PER_STREAM = 2
"""The conditional row and the null row of guidance."""
SPARE_ROWS = 2
"""For the next segment of a stream, prepared while it still says another. Rows of streams that are silent do as well."""
VOICED_AT_ONCE = {"cpu": 4, "gpu": 64}
"""Blocks in one step of the vocoder: a first block may have to wait for it, and four gain a CPU most of what more would."""


def thread_link(checkpoint: Checkpoint, choice: Choice, max_streams: int, progress: Callable[[str], None]) -> ThreadLink:
    """Read the weights and start a scheduler over them. Takes seconds and blocks; no thread runs if it raises.

    The decoder runs in the chosen dtype, the vocoder in float32, and each of them on as many threads as were chosen: that sets
    the number of torch for threads of this process that begin after this one. Raises the errors of `Checkpoint.fill`.
    """
    torch.set_num_threads(choice.threads)
    tokenizer = checkpoint.tokenizer()
    progress("Reading the decoder")
    engine = load_engine(checkpoint, choice, ROWS_PER_STREAM * max_streams + SPARE_ROWS)
    voiced_at_once = VOICED_AT_ONCE["cpu" if choice.device == "cpu" else "gpu"]
    progress("Reading the vocoder")
    vocoder = load_vocoder(checkpoint, choice, min(max_streams, voiced_at_once), progress)
    decoder = load_decoder(engine, choice, checkpoint.config.decoding, max_streams, progress)
    scheduler = Scheduler(decoder, vocoder, vocoder.sample_rate, voiced_at_once=voiced_at_once)
    return ThreadLink(scheduler, tokenizer.read, vocoder.sample_rate, max_streams)


def warm_up(link: ThreadLink, voice: Voice, config: ModelConfig, progress: Callable[[str], None]) -> None:
    """Say one block that nobody hears, so that the first listener does not wait for what is computed once. Blocks.

    Raises what fails, typed, and then the link is closed.
    """
    progress("Warming up")
    over = threading.Event()
    failures: list[CfAgentsError] = []

    def receive(event: Event) -> None:
        match event:
            case Failed(error):
                failures.append(error)
            case Closed():
                over.set()
                return
        session.close()

    session = link.open_from(lambda call: call(), voice, math.inf, receive)
    session.submit(Segment(0, "hello.", replace(config.decoding, steps=1, max_tokens=config.t3.block_size), 0))
    over.wait()
    if failures:
        link.close()
        raise failures[0]


def load_engine(checkpoint: Checkpoint, choice: Choice, max_rows: int) -> Engine:
    """The decoder alone, in the chosen back-end and dtype. Blocks. Raises the errors of `Checkpoint.fill`."""
    with without_storage():
        t3 = T3(checkpoint.config.t3)
    if choice.backend == "mlx":
        return _mlx_engine(checkpoint, t3, choice, max_rows)
    checkpoint.fill(t3, T3_FILE, dtype=choice.dtype, device=choice.device)
    if choice.backend == "flashinfer" or choice.graphs:
        return _paged_engine(t3, choice, max_rows)
    if choice.quantise == 8:
        t3.fuse(8)
    return DenseEngine(t3, max_rows=max_rows)


def load_vocoder(checkpoint: Checkpoint, choice: Choice, most: int, progress: Callable[[str], None]) -> Vocoder:
    """The vocoder alone, in float32, for up to `most` utterances in one step; where it runs on graphs, those are recorded.

    Blocks. Raises the errors of `Checkpoint.fill`.
    """
    with without_storage():
        flow, hift = Flow(checkpoint.config.flow), HiFT(checkpoint.config.hift)
    checkpoint.fill(flow, S3GEN_FILE, "flow.", device=choice.device)
    checkpoint.fill(hift, S3GEN_FILE, "mel2wav.", device=choice.device)
    if not choice.graphs:
        return Vocoder(flow, hift)
    from cf_agents.engines.graphs import CudaCapture
    from cf_agents.vocoder_graphs import FlowGraphs, HiFTGraphs, record

    # A memory pool of its own: its recordings run beside the decoder's.
    capture = CudaCapture(torch.device(choice.device))
    vocoder = Vocoder(flow, hift, passes=FlowGraphs(capture, most), decode=HiFTGraphs(capture, most))
    progress(f"Recording the vocoder of up to {most} streams as CUDA graphs")
    began_s = time.monotonic()
    record(vocoder, vocoder.prepare(default_voice(checkpoint)), most, checkpoint.config.t3.block_size)
    logger.info("The vocoder's CUDA graphs were recorded in %.1f s.", time.monotonic() - began_s)
    return vocoder


def load_decoder(
    engine: Engine, choice: Choice, params: DecodeParams, max_streams: int, progress: Callable[[str], None]
) -> Decoder:
    """The decoder over an engine; where it runs on graphs, those of the knobs `params` are recorded. Blocks."""
    if not choice.graphs:
        return Decoder(engine)
    from cf_agents.decode_graphs import StepGraphs
    from cf_agents.engines.graphs import CudaCapture
    from cf_agents.engines.paged import PagedEngine

    assert isinstance(engine, PagedEngine), "graphs are of the paged engine"
    decoder = Decoder(engine, StepGraphs(engine, CudaCapture(torch.device(choice.device))))
    progress(f"Recording the steps of up to {max_streams} streams as CUDA graphs")
    began_s = time.monotonic()
    decoder.record(params, max_streams)
    logger.info("CUDA graphs were recorded in %.1f s.", time.monotonic() - began_s)
    return decoder


def _paged_engine(t3: T3, choice: Choice, max_rows: int) -> Engine:
    """The dense engine's work over pages, in shapes that a graph can hold, or FlashInfer's kernels."""
    from cf_agents.engines.paged import MAX_LENGTH, MOST_BLOCK, PagedEngine

    positions = MAX_LENGTH + MOST_BLOCK
    if choice.backend == "flashinfer":
        from cf_agents.engines.flashinfer_attention import FlashInferAttention

        return PagedEngine(t3, FlashInferAttention(t3, positions), max_rows=max_rows, pad_held=True)
    from cf_agents.engines.paged_attention import TorchAttention

    return PagedEngine(t3, TorchAttention(t3, positions), max_rows=max_rows, pad_held=True)


def _mlx_engine(checkpoint: Checkpoint, t3: T3, choice: Choice, max_rows: int) -> Engine:
    """The weights go from the file into MLX, a layer at a time; torch's network only says what they are called."""
    import mlx.core as mx

    from cf_agents.engines.metal import MetalEngine
    from cf_agents.engines.metal_t3 import MetalT3

    file = checkpoint.file(T3_FILE)
    layout = released_layout(t3)
    file.verify(layout, ignored=IGNORED[T3_FILE])
    file.check_floating(layout)
    # Nothing is read before it is needed, and what was taken out is dropped with its last use.
    stored = mx.load(str(file.path))
    assert isinstance(stored, dict)
    dtype = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}[choice.dtype]
    network = MetalT3(checkpoint.config.t3, lambda name: stored.pop(file.tensors[name].stored_name), dtype, choice.quantise)
    return MetalEngine(network, max_rows=max_rows)


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
