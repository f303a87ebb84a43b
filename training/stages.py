"""The stages in the order they need each other, over one work folder. Each keeps what it made and goes on where it stopped.

data  ->  tokenizer  ->  tokenise  ->  encoder  ->  decoder  ->  export
  |                         `------->  flow  ->  adapt  ----------^
  `------------------------  hift  -------------^

Or on from a checkpoint folder: shard  ->  decoder  ->  export,
and for its sound: sound  ->  ear  ->  flow, hift  ->  adapt  ->  export
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from cf_agents.checkpoint import S3GEN_FILE, T3_FILE, VOICE_ENCODER_FILE
from cf_agents.config import ModelConfig
from training import data as datasets
from training import decoder, ear, encoder, export, flow, hift, ranks, remake, speaker, start, token_data, tokenizer
from training.config import POCKET
from training.corpus import mixed
from training.hift import ADAPTATION, HiFTStage
from training.loop import newest_state
from training.vocabulary import word_lists


@dataclass(frozen=True)
class Plan:
    """How much of everything, as it should be; the model card says how much made the checkpoint that ships."""

    train_utterances: int = 24_000
    small_utterances: int = 4_000
    """Enough for what only hears sounds: the tokenizer and the vocoder."""
    held_out_utterances: int = 300
    shard_utterances: int = 12_000
    tokenizer: tokenizer.TokenizerStage = field(default_factory=tokenizer.TokenizerStage)
    encoder: encoder.EncoderStage = field(default_factory=encoder.EncoderStage)
    ear: ear.EarStage = field(default_factory=ear.EarStage)
    flow: flow.FlowStage = field(default_factory=flow.FlowStage)
    hift: hift.HiFTStage = field(default_factory=hift.HiFTStage)
    remade_utterances: int = 600
    adapt: HiFTStage = ADAPTATION
    decoder: decoder.DecoderStage = field(default_factory=decoder.DecoderStage)


@dataclass(frozen=True)
class Work:
    """A run: where, at what sizes, how much, and which of how many processes this is."""

    folder: Path
    config: ModelConfig = POCKET
    plan: Plan = field(default_factory=Plan)
    processes: int = 1
    rank: int = 0
    target: Path | None = None
    start: Path | None = None
    """A checkpoint folder to go on from, with data of `shard`; None: from nothing, with that of `data`."""
    shard: int = 0
    words: bool = False
    """Whether the shard is of word lists alone."""

    def data(self, name: str) -> datasets.Dataset:
        """One of the data sets: "train", "small" or "held_out"."""
        return datasets.Dataset(self.folder / "data" / name)

    def with_steps(self, stage: str, steps: int) -> Work:
        """The same with another number of steps in a stage."""
        changed = replace(getattr(self.plan, stage), steps=steps)
        return replace(self, plan=replace(self.plan, **{stage: changed}))


def make_data(work: Work) -> None:
    """Text and speech: `small` and `held_out` first, so that other stages may begin."""
    plan, root = work.plan, work.folder / "data"
    datasets.write(root / "small", "train", plan.small_utterances, processes=work.processes, seed=1)
    datasets.write(root / "held_out", "held_out", plan.held_out_utterances, processes=work.processes, seed=1)
    datasets.write(root / "train", "train", plan.train_utterances, processes=work.processes, seed=0)


def train_tokenizer(work: Work) -> None:
    """Speech tokens: everything else but the vocoder has to be made again when these change."""
    tokenizer.train(work.data("small"), work.data("held_out"), work.folder / "tokenizer", work.config, work.plan.tokenizer)


def tokenise(work: Work) -> None:
    """Write the tokens of every data set."""
    module = tokenizer.load(work.folder / "tokenizer", work.config)
    for name in ("held_out", "small", "train"):
        if (work.folder / "data" / name / datasets.INDEX_FILE).exists():
            tokenizer.tokenise(work.data(name), module.net)


def train_encoder(work: Work) -> None:
    """The voice encoder."""
    encoder.train(work.data("small"), work.folder / "encoder", work.config.voice_encoder, work.plan.encoder)


def train_ear(work: Work) -> None:
    """Who listens to a flow that goes on."""
    ear.train(work.data("small"), work.folder / "ear", work.plan.ear)


def train_flow(work: Work) -> None:
    """Tokens to mel."""
    if work.start is not None:
        plan = work.plan.flow
        kept = flow.Continuation(start.flow(work.start), ear.load(work.folder / "ear", work.plan.ear))
        data, held_out = work.data("small"), work.data("held_out")
        flow.train(data, held_out, start.speaker_net(work.start), work.folder / "flow", work.config.flow, plan, kept)
        return
    net = speaker.speaker_net(work.folder / "xvector.safetensors", work.data("small"), work.config.xvector)
    flow.train(work.data("train"), work.data("held_out"), net, work.folder / "flow", work.config.flow, work.plan.flow)


def train_hift(work: Work) -> None:
    """Mel to waveform."""
    kept = None if work.start is None else start.hift(work.start)
    hift.train([work.data("small")], work.data("held_out"), work.folder / "hift", work.config.hift, work.plan.hift, kept)


def adapt_hift(work: Work) -> None:
    """The vocoder again, now with half of its mel made by the flow."""
    config, small = work.config, work.data("small")
    made = work.folder / "data" / "remade"
    if work.start is None:
        net = speaker.speaker_net(work.folder / "xvector.safetensors", small, config.xvector)
    else:
        net = start.speaker_net(work.start)
    if work.start is None or newest_state(work.folder / "hift") is not None:
        first = hift.load(work.folder / "hift", config.hift)
    else:
        first = start.hift(work.start)
    remake.remake(small, work.plan.remade_utterances, flow.load(work.folder / "flow", config.flow), net, made)
    sets = [small, datasets.Dataset(made)]
    hift.train(sets, work.data("held_out"), work.folder / "adapt", config.hift, work.plan.adapt, first)


def make_shard(work: Work) -> None:
    """More text and tokens for a decoder that goes on from the folder `start`, and a held-out set if there is none."""
    root, plan = work.folder / "tokens", work.plan
    sides: tuple[tuple[datasets.Side, int], ...] = (("held_out", plan.held_out_utterances), ("train", plan.shard_utterances))
    for side, count in sides:
        shard = work.shard if side == "train" else 0
        lists = work.words and side == "train"
        texts = islice((word_lists if lists else mixed)(side, shard), count)
        token_data.write(
            root / side / f"{'words-' * lists}{shard:03d}", _started(work), texts, processes=work.processes, seed=shard
        )


def make_sound(work: Work) -> None:
    """Speech and its tokens for a flow and a vocoder that go on from the folder `start`."""
    net, plan = token_data.speech_tokenizer(_started(work)), work.plan
    counts: tuple[tuple[str, datasets.Side, int], ...] = (
        ("held_out", "held_out", plan.held_out_utterances),
        ("small", "train", plan.small_utterances),
    )
    for name, side, count in counts:
        datasets.write(work.folder / "data" / name, side, count, processes=work.processes, seed=1, source=mixed)
        tokenizer.tokenise(work.data(name), net)


def _started(work: Work) -> Path:
    if work.start is None:
        raise ValueError("Name the checkpoint folder to go on from: --start cf_agents/pocket.")
    return work.start


def train_decoder(work: Work) -> None:
    """Text to tokens; with several processes, start this once for each rank."""
    if work.processes > 1:
        ranks.join(work.folder / "decoder.meeting", work.rank, work.processes)
    if work.start is None:
        data, held_out = work.data("train"), work.data("held_out")
        speakers = encoder.centres(data, encoder.load(work.folder / "encoder", work.config.voice_encoder))
    else:
        data, held_out = (token_data.TokenSet(work.folder / "tokens" / side) for side in ("train", "held_out"))
        speakers = start.speakers(work.start)
    decoder.train(
        data,
        held_out,
        work.folder / "decoder",
        work.config.t3,
        speakers,
        replace(work.plan.decoder, sizes=work.plan.decoder.sizes.shared(work.processes)),
        start_from=work.start,
        rank=work.rank,
        clock=ranks.clock if work.processes > 1 else time.time,
        average=ranks.average if work.processes > 1 else None,
    )


def write_checkpoint(work: Work) -> None:
    """Everything into `target`, or into the work folder's `pocket`; with `start`, that and what was trained on from it."""
    config = work.config
    if work.start is not None:
        trained: dict[str, dict[str, nn.Module]] = {}
        if newest_state(work.folder / "decoder") is not None:
            trained[T3_FILE] = {"": decoder.load(work.folder / "decoder", config.t3)}
        sound: dict[str, nn.Module] = {}
        if newest_state(work.folder / "flow") is not None:
            sound["flow."] = flow.load(work.folder / "flow", config.flow)
        for stage in ("hift", "adapt"):
            if newest_state(work.folder / stage) is not None:
                sound["mel2wav."] = hift.load(work.folder / stage, config.hift)
        if sound:
            trained[S3GEN_FILE] = sound
        export.replace_networks(work.start, work.target or work.folder / "pocket", trained)
        return
    export.write(
        work.target or work.folder / "pocket",
        config,
        {
            T3_FILE: {"": decoder.load(work.folder / "decoder", config.t3)},
            S3GEN_FILE: {
                "tokenizer.": tokenizer.load(work.folder / "tokenizer", config).net,
                "speaker_encoder.": speaker.speaker_net(
                    work.folder / "xvector.safetensors", work.data("small"), config.xvector
                ),
                "flow.": flow.load(work.folder / "flow", config.flow),
                "mel2wav.": hift.load(work.folder / "adapt", config.hift),
            },
            VOICE_ENCODER_FILE: {"": encoder.load(work.folder / "encoder", config.voice_encoder)},
        },
    )


STAGES: dict[str, Callable[[Work], None]] = {
    "data": make_data,
    "shard": make_shard,
    "sound": make_sound,
    "tokenizer": train_tokenizer,
    "tokenise": tokenise,
    "encoder": train_encoder,
    "hift": train_hift,
    "ear": train_ear,
    "flow": train_flow,
    "adapt": adapt_hift,
    "decoder": train_decoder,
    "export": write_checkpoint,
}


def run(stage: str, work: Work) -> None:
    """Run one stage on one thread: processes, not threads, share the cores."""
    torch.set_num_threads(1)
    work.folder.mkdir(parents=True, exist_ok=True)
    STAGES[stage](work)
