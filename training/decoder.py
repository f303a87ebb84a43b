"""Training of the decoder: optimisers, the course of the run, and what it is measured by. The objective is in `objective`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from cf_agents.config import T3Config
from cf_agents.models.t3 import T3
from training import start
from training.batches import Batches, Sizes
from training.data import Dataset
from training.loop import LossParts, Trainer, load_newest, schedule
from training.muon import Muon
from training.objective import ABSENT, Batch, DecoderTrainer, draw_deep, draw_hidden
from training.token_data import TokenSet


@dataclass(frozen=True)
class DecoderStage:
    """Knobs of the stage."""

    steps: int = 2000
    sizes: Sizes = field(default_factory=Sizes)
    learning_rate: float = 3e-3
    embedding_factor: float = 3.0
    drop: float = 0.1
    phone: float = 0.3
    prior: float = 0.05
    guide: tuple[float, float] = (0.3, 0.1)
    """Weight at first, and from `guided_steps` on."""
    guided_steps: int = 1500
    lengths: tuple[tuple[int, int], ...] = ((0, 40), (200, 70), (450, 270))
    """From which step on utterances may be how many tokens long."""
    deep: bool = False
    """Whether one noisy copy is made (`objective.draw_deep`) instead of two."""
    save_every: int = 100
    mean: float | None = None
    """See `loop.Trainer`."""
    minutes: float | None = None
    """Train for so long instead of for `steps`, the learning rate falling to 0 over the last `fall` of the time."""
    fall: float = 0.5


CONTINUED = DecoderStage(
    learning_rate=2e-3,
    sizes=Sizes(speech_tokens=4000),
    drop=0.05,
    deep=True,
    guide=(0.3, 0.3),
    lengths=((0, 640),),
    save_every=50,
    fall=0.7,
    mean=0.98,
)
"""Going on from a checkpoint folder: text is aligned already, and every length is met from the first step."""


def train(
    data: Dataset | TokenSet,
    held_out: Dataset | TokenSet,
    folder: Path,
    config: T3Config,
    speakers: NDArray[np.float32],
    stage: DecoderStage,
    *,
    start_from: Path | None = None,
    rank: int = 0,
    clock: Callable[[], float] = time.time,
    average: Callable[[Sequence[Tensor]], None] | None = None,
) -> DecoderTrainer:
    """Train, or go on training, and return the network in evaluation mode.

    speakers float32 [speakers, E]. start_from: a checkpoint folder whose decoder is gone on with (see `start`).
    rank, clock and average: of several processes that train together (see `ranks`).
    """
    torch.manual_seed(0)
    module = DecoderTrainer(config)
    if start_from is not None:
        start.fill(module, start_from)
    dtype = product_type()
    trainer = Trainer(
        folder,
        module,
        optimisers(module, stage),
        schedule(stage.steps, stage.minutes, fall=stage.fall, clock=clock),
        save_every=stage.save_every,
        average=average,
        mean=stage.mean,
        writes=rank == 0,
    )
    torch.manual_seed(1000 * trainer.step + rank)
    batches = Batches(data, config, speakers, stage.sizes, np.random.default_rng([trainer.step, rank]))
    measured = Batches(held_out, config, speakers, stage.sizes, np.random.default_rng(0))

    def losses(step: int) -> LossParts:
        batch = batches.next(max(longest for first, longest in stage.lengths if step >= first))
        drop = torch.rand(batch.tokens.shape[0]) < stage.drop
        hidden = (draw_deep if stage.deep else draw_hidden)(batch.tokens, config.block_size)
        parts = module.losses(batch, drop, hidden, dtype)
        guide = stage.guide[step >= stage.guided_steps]
        total = parts["token"] + stage.phone * parts["phone"] + guide * parts["guide"] + stage.prior * parts["prior"]
        return {"loss": total, **parts, "tokens": (batch.tokens != ABSENT).sum()}

    trainer.run(losses, lambda: _evaluate(module, measured, len(held_out)))
    return module


def optimisers(module: DecoderTrainer, stage: DecoderStage) -> list[Optimizer]:
    """Muon for the layers' matrices; AdamW for the rest, faster for what is looked up by id."""
    matrices = [weight for weight in module.t3.tfmr.layers.parameters() if weight.ndim == 2]
    looked_up = [
        module.digits_in,
        module.special_in,
        module.t3.text_emb.weight,
        module.t3.text_pos_emb.emb.weight,
        module.t3.speech_pos_emb.emb.weight,
        module.t3.cond_enc.perceiver.pre_attention_query,
    ]
    taken = {id(parameter) for parameter in (*matrices, *looked_up, module.t3.speech_emb.weight)}
    rest = [parameter for parameter in module.parameters() if id(parameter) not in taken]
    rate = stage.learning_rate
    groups = [{"params": rest}, {"params": looked_up, "lr": stage.embedding_factor * rate}]
    return [
        Muon(matrices, rate),
        torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]


def product_type(size: int = 384) -> torch.dtype:
    """The faster type for products on this CPU: bfloat16 is several times faster than float32 or several times slower."""
    taken: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(size, size, dtype=dtype)
        matrix.mm(matrix)
        began = time.perf_counter()
        for _ in range(4):
            matrix.mm(matrix)
        taken[dtype] = time.perf_counter() - began
    return min(taken, key=lambda dtype: taken[dtype])


def load(folder: Path, config: T3Config) -> T3:
    """The decoder of a stage's latest checkpoint, its speech tables written out. Raises `FileNotFoundError` without one."""
    module = DecoderTrainer(config)
    load_newest(folder, module)
    tables = module.tables()
    with torch.no_grad():
        module.t3.speech_emb.weight.copy_(tables["speech_emb.weight"])
        module.t3.speech_head.weight.copy_(tables["speech_head.weight"])
    return module.t3


@torch.no_grad()
def _evaluate(module: DecoderTrainer, batches: Batches, utterances: int) -> Mapping[str, float]:
    """Loss with every token of a block masked, and with half of them."""
    found: dict[str, float] = {}
    batch: Batch = batches.batch(range(min(40, utterances)))
    keep = torch.zeros(batch.tokens.shape[0], dtype=torch.bool)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for ratio in (1.0, 0.5):
            hidden = draw_hidden(batch.tokens, module.t3.config.block_size, ratio)[:1]
            parts = module.losses(batch, keep, hidden)
            found.update({f"{name}_{ratio:g}": float(value) for name, value in parts.items()})
    return found
