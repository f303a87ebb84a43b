"""Training of the flow: speech tokens to mel in two Euler steps or one, with the attention that streaming has.

The network is `cf_agents.models.flow.Flow` in `chunk` mode, told of a voice as at run time: x-vector, prompt tokens and prompt
mel. It is trained twice over in one run:

    all the way   rows at one time t learn the velocity mel - noise (flow matching, Lipman et al. 2023)
    towards the   rows between two times t < r learn that one long step is two short ones,
    end            (r - t) u(x_t, t, r) = (s - t) u(x_t, t, s) + (r - s) u(x_s, s, r)
                  (SplitMeanFlow, Guo et al. 2025, arXiv:2507.16884, eq. 11: mean flow without a derivative)

Before that second part, the rows between two times learn the velocity too, which is where the second part starts from. Noise
is in every row, whatever `FlowConfig.temperature` says: a network too narrow to carry it learns the mean of the mel, which is
what it gives at temperature 0. Knows nothing of text or waveforms.

Shapes: N rows, L tokens, T = 2 L frames, A look-ahead, M mel bins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cf_agents.config import CODEC_VOCAB, FRAMES_PER_TOKEN, FlowConfig
from cf_agents.models.flow import ABSENT, Flow, FlowPrompt
from cf_agents.models.flow_cache import Reach
from cf_agents.models.flow_estimator import Estimator, Stage
from cf_agents.models.flow_stream import chunk_reach
from cf_agents.models.reference.xvector import XVector
from training import ear
from training.data import Dataset
from training.flow_data import LONG, USUAL, FlowBatch, FlowBatches, RowShape
from training.hift import MEL_MEAN, MEL_STD
from training.loop import LossParts, Trainer, load_newest, schedule
from training.recogniser import Recogniser
from training.speaker import embeddings

FSQ_DIGITS = 8
FSQ_LEVELS = 3
PROMPT_WEIGHT = 0.2
"""Of a prompt frame's loss: its mel is given, but what is made of it is attended to."""
MEAN_WEIGHT = 0.3
"""Of the L1 distance of the encoder's output to the mel, which it would find by itself, later (Popov et al. 2021, eq. 14)."""
HEARD_WEIGHT = 1.5
"""Of `ear.distance`: at first it then weighs as much as the distance of the mel."""
RECORDINGS = 24
"""x-vectors per speaker."""


class FromDigits(nn.Module):
    """An embedding of FSQ codes: a sum over the eight digits, and a correction for each code, learnt where it is frequent.

    A parametrisation of `Flow.input_embedding.weight`; `plain` turns it into the table that ships.
    """

    digits: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        codes = torch.arange(CODEC_VOCAB)[:, None] // FSQ_LEVELS ** torch.arange(FSQ_DIGITS) % FSQ_LEVELS
        self.register_buffer("digits", F.one_hot(codes, FSQ_LEVELS).flatten(1).float(), persistent=False)
        self.basis = nn.Parameter(torch.randn(FSQ_DIGITS * FSQ_LEVELS, width) / FSQ_DIGITS**0.5)

    def forward(self, correction: Tensor) -> Tensor:
        return self.digits @ self.basis + correction


def trainable(config: FlowConfig) -> Flow:
    """A flow with first weights for raw log mel and its embedding made of digits. Draws from torch's global generator."""
    flow = Flow(config)
    final = flow.decoder.estimator.final_proj
    assert final.bias is not None
    with torch.no_grad():
        flow.input_embedding.weight.zero_()
        flow.encoder_proj.weight *= MEL_STD
        flow.encoder_proj.bias.fill_(MEL_MEAN)
        final.bias.fill_(MEL_MEAN)
    parametrize.register_parametrization(flow.input_embedding, "weight", FromDigits(config.encoder_dim))
    return flow


@torch.no_grad()
def continued(shipped: Flow) -> Flow:
    """A trainable flow that is what `shipped` is: its table as sums of digit vectors and what these leave over."""
    flow = trainable(shipped.config)
    state = shipped.state_dict()
    table = state.pop("input_embedding.weight")
    flow.load_state_dict(state, strict=False)
    embedding = flow.get_submodule("input_embedding.parametrizations.weight")
    digits = embedding.get_submodule("0")
    assert isinstance(digits, FromDigits)
    digits.basis.copy_(torch.linalg.pinv(digits.digits.double()).matmul(table.double()))
    embedding.get_parameter("original").copy_(table - digits.digits @ digits.basis)
    return flow


def plain(flow: Flow) -> Flow:
    """A copy of a trained flow with the embedding as one table: what ships."""
    state = {name: value for name, value in flow.state_dict().items() if not name.startswith("input_embedding.")}
    state["input_embedding.weight"] = flow.input_embedding.weight.detach()
    shipped = Flow(flow.config)
    shipped.load_state_dict(state)
    return shipped.eval()


def losses(flow: Flow, batch: FlowBatch, split: bool) -> dict[str, Tensor]:
    """Terms of the objective, whose sum is to be lowered; draws times and noise from torch's global generator.

    "velocity": rows at one time, "step": rows between two times (a third of them), both mean squares in units of `MEL_STD`;
    "mean": the encoder's output. `split`: rows between two times learn from two shorter steps.
    """
    rows, long = batch.tokens.shape[0], batch.tokens.shape[0] // 3
    noise = torch.randn_like(batch.mel)
    start, stop = times(rows, long)
    x = torch.lerp(noise, batch.mel, start[:, None, None])
    target = batch.mel - noise
    who, known = attention(flow.config, batch)
    estimator = flow.decoder.estimator
    with torch.autocast(batch.mel.device.type, torch.bfloat16):
        mean = flow.encode(F.pad(batch.tokens, (0, flow.config.lookahead_tokens), value=ABSENT), who).float()  # [N, T, M]
        speaker = flow.spk_embed_affine_layer(F.normalize(batch.speaker, dim=1))[:, None].expand_as(mean)
        fixed = torch.cat([mean, speaker.float(), batch.mel * known[..., None]], -1)
        mask = who.doubled().mask
        assert mask is not None
        if split:
            cut = slice(0, long)
            shorter = two_steps(estimator, x[cut], fixed[cut], start[cut], stop[cut], mask[cut])
            target = torch.cat([shorter, target[long:]])
        made = velocity(estimator, x, fixed, start, stop, mask)
    weight = torch.where(known, PROMPT_WEIGHT, 1.0)
    weight = weight / weight.sum(1, keepdim=True) / rows  # [N, T]
    error = (made - target).square().mean(-1) * weight / MEL_STD**2
    distance = (mean - batch.mel).abs().mean(-1) * weight
    return {"velocity": error[long:].sum(), "step": error[:long].sum(), "mean": MEAN_WEIGHT * distance.sum()}


def served_losses(flow: Flow, batch: FlowBatch, listener: Recogniser) -> dict[str, Tensor]:
    """Terms of the objective of a flow that is served at temperature 0: what it then gives, and the encoder's output.

    The served steps are taken one after the other with gradients through both, from no noise, so that the network learns the
    one way that it will go. "mel": L1 of natural log, prompt frames for less; "heard": see `ear.distance`.
    """
    rows, frames, bins = batch.mel.shape
    who, known = attention(flow.config, batch)
    mean = flow.encode(F.pad(batch.tokens, (0, flow.config.lookahead_tokens), value=ABSENT), who)
    speaker = flow.spk_embed_affine_layer(F.normalize(batch.speaker, dim=1))[:, None].expand_as(mean)
    fixed = torch.cat([mean, speaker, batch.mel * known[..., None]], -1)
    mask = who.doubled().mask
    assert mask is not None
    x, steps = batch.mel.new_zeros(rows, frames, bins), flow.decoder.steps
    for step in range(steps):
        start, stop = (torch.full((rows,), (step + more) / steps) for more in (0, 1))
        x = x + velocity(flow.decoder.estimator, x, fixed, start, stop, mask) / steps
    weight = torch.where(known, PROMPT_WEIGHT, 1.0)
    weight = weight / weight.sum(1, keepdim=True) / rows  # [N, T]
    made, meant = (((each - batch.mel).abs().mean(-1) * weight).sum() for each in (x, mean))
    return {"mel": made, "mean": MEAN_WEIGHT * meant, "heard": HEARD_WEIGHT * ear.distance(listener, x, batch.mel, weight)}


def attention(config: FlowConfig, batch: FlowBatch) -> tuple[Reach, Tensor]:
    """The attention that streaming would have in each row, and which frames are prompt, bool [N, T]."""
    length = batch.tokens.shape[1]
    reaches = [chunk_reach(config, prompt, length - prompt, batch.tokens.device) for prompt in batch.prompts]
    masks = [reach.mask for reach in reaches if reach.mask is not None]
    who = Reach(torch.cat(masks), torch.cat([reach.index for reach in reaches]), reaches[0].low, reaches[0].high)
    frame = torch.arange(FRAMES_PER_TOKEN * length, device=batch.tokens.device)
    return who, frame < FRAMES_PER_TOKEN * torch.tensor(batch.prompts, device=batch.tokens.device)[:, None]


def times(rows: int, long: int) -> tuple[Tensor, Tensor]:
    """Both ends of an Euler step for each row: `long` rows between two times, then rows at one, [N] each.

    Half of the former are the steps that are served: both halves of the way, or all of it. Times 0 and 1/2 are drawn often.
    """
    ends = torch.rand(long, 2).sort(dim=1).values
    served = torch.tensor([[0.0, 0.5], [0.5, 1.0], [0.0, 1.0]])[torch.randint(0, 3, (long,))]
    ends = torch.where(torch.rand(long, 1) < 0.6, served, ends)
    at = torch.rand(rows - long)
    draw = torch.rand(rows - long)
    at = torch.where(draw < 0.2, 0.0, torch.where(draw < 0.35, 0.5, at))
    return torch.cat([ends[:, 0], at]), torch.cat([ends[:, 1], at])


@torch.no_grad()
def two_steps(estimator: Estimator, x: Tensor, fixed: Tensor, start: Tensor, stop: Tensor, mask: Tensor) -> Tensor:
    """Mean velocity of two Euler steps of random lengths that make up the one from `start` to `stop`, [N, T, M]."""
    part = torch.rand_like(start)
    middle = start + part * (stop - start)
    first = velocity(estimator, x, fixed, start, middle, mask)
    x = x + (middle - start)[:, None, None] * first
    second = velocity(estimator, x, fixed, middle, stop, mask)
    return torch.lerp(second, first, part[:, None, None])


def velocity(estimator: Estimator, x: Tensor, fixed: Tensor, start: Tensor, stop: Tensor, mask: Tensor) -> Tensor:
    """Mean velocity [N, T, M] at `x` of a step from `start` to `stop` [N], which may differ by row."""
    count = start.shape[0]
    embedded = estimator.time_mlp(torch.cat([start, stop]))
    mixed = F.mish(estimator.time_embed_mixer(torch.cat([embedded[:count], embedded[count:]], 1)))  # [N, 4 C]
    stages = [*estimator.down_blocks, *estimator.mid_blocks, *estimator.up_blocks]
    shifts = [stage.resnet.mlp["1"](mixed)[:, None] for stage in stages if isinstance(stage, Stage)]
    return estimator(torch.cat([x, fixed], -1), shifts, mask).float()


@dataclass(frozen=True)
class FlowStage:
    """Knobs of the stage."""

    steps: int = 3000
    warm_up: int = 200
    learning_rate: float = 1.5e-3
    split_from: float = 0.6
    """Share of the steps after which rows between two times learn from two shorter steps."""
    usual: RowShape = USUAL
    long: RowShape = LONG
    save_every: int = 200
    minutes: float | None = None
    """Train for so long instead of for `steps`, see `decoder.DecoderStage`."""
    mean: float | None = None
    """See `loop.Trainer`."""


CONTINUED = FlowStage(warm_up=50, learning_rate=1e-3, mean=0.98, usual=replace(USUAL, rows=8), long=replace(LONG, rows=3))
"""Going on from a checkpoint folder: more and smaller steps."""


@dataclass(frozen=True, eq=False)
class Continuation:
    """A flow that is trained further in place of first weights, for the way it is served alone, and who listens to it."""

    flow: Flow
    listener: Recogniser


def train(
    data: Dataset,
    held_out: Dataset,
    net: XVector,
    folder: Path,
    config: FlowConfig,
    stage: FlowStage,
    start: Continuation | None = None,
) -> Flow:
    """Train, or go on training, with the speaker vectors of `net`, and return the network as it ships."""
    chooser = np.random.default_rng(0)
    speakers = [embeddings(net, data, int(speaker), RECORDINGS, chooser) for speaker in np.unique(data.speakers)]
    torch.manual_seed(0)
    flow = trainable(config) if start is None else continued(start.flow)
    optimiser = torch.optim.AdamW(flow.parameters(), stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    lasting = schedule(stage.steps, stage.minutes, stage.warm_up)
    trainer = Trainer(folder, flow, [optimiser], lasting, save_every=stage.save_every, mean=stage.mean)
    torch.manual_seed(trainer.step)
    batches = FlowBatches(data, speakers, stage.usual, stage.long, seed=0)
    held = FlowBatches(held_out, speakers, stage.usual, stage.long, seed=1)

    def step_losses(step: int) -> LossParts:
        batch = batches.draw(step)
        parts = (
            losses(flow, batch, split=step >= stage.split_from * stage.steps)
            if start is None
            else served_losses(flow, batch, start.listener)
        )
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    trainer.run(step_losses, lambda: evaluate(flow, held))
    return plain(flow)


def load(folder: Path, config: FlowConfig) -> Flow:
    """The trained stage of `folder`, as it ships. Raises `FileNotFoundError` when there is none."""
    flow = trainable(config)
    load_newest(folder, flow)
    return plain(flow)


@torch.no_grad()
def evaluate(flow: Flow, batches: FlowBatches, utterances: int = 10) -> dict[str, float]:
    """L1 distance of natural-log mel of generated speech, in one Euler step and in two, and that of the encoder's mean."""
    shape = RowShape(rows=1, tokens=150, shortest=75, longest=75)
    chooser = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    usual = flow.decoder.steps
    sums = {"one_step": 0.0, "two_steps": 0.0}
    for _ in range(utterances):
        batch = batches.batch(shape, chooser)
        known = batch.prompts[0]
        prompt = FlowPrompt(batch.tokens[0, :known], batch.mel[0, : FRAMES_PER_TOKEN * known], batch.speaker[0])
        noise = torch.randn(1, flow.config.mel_bins, batch.mel.shape[1], generator=generator)
        for name, steps in (("one_step", 1), ("two_steps", 2)):
            flow.decoder.steps = steps
            made = flow.offline_chunked(batch.tokens[:, known:], prompt, noise)[0].T
            distance = (made - batch.mel[0, FRAMES_PER_TOKEN * known :]).abs().mean()
            sums[name] += float(distance) / utterances
    flow.decoder.steps = usual
    return sums
