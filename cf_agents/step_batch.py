"""What a denoising step works on: the open blocks of some utterances side by side on the device, and what it makes of them.

Knows nothing of engines, and of utterances only their numbers.

Shapes: N utterances, D positions of the widest open block (-1 in `tokens` past a shorter one's end), V vocabulary, K steps,
P positions of all utterances that are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cf_agents.engines.base import Row
from cf_agents.models import noise

ABSENT = -1
MOST_POSITIONS = 1024


@dataclass(frozen=True)
class StepBatch:
    """What the open blocks of one set of utterances need on the device; kept while they stay the same."""

    rows: tuple[Row | None, ...]
    """The utterances' conditional rows, then the null rows of those that have one; None is padding."""
    sizes: tuple[int, ...]
    """Tokens of each open block."""
    guided_at: tuple[int, ...]
    """Utterances that have a null row."""
    tokens: Tensor
    present: Tensor
    """[N, D] bool: which positions exist."""
    guided: Tensor | None
    """`guided_at` on the device; None where all utterances have a null row, or none has."""
    guidance: Tensor
    temperature: Tensor
    jitter: Tensor
    """[N, K, D]: what each step adds to a position's score, Gumbel noise times `position_noise`."""
    uniform: Tensor | None
    """[N, K, D]: what each step samples with; None where nothing is sampled."""
    prior: Tensor
    marginal: Tensor | None
    """[N] bool: rows that take the block's own marginal as prior; None where none does."""
    scheduled: Tensor
    """[N, K]"""
    quantiles: Tensor | None
    """[N, K], above 1 where early decoding is off; None where all have it off."""
    last: Tensor
    """[N] index of the last step."""


class Denoised(NamedTuple):
    """What a step makes of the open blocks."""

    tokens: Tensor
    """[N, D]"""
    masked: Tensor
    """[N, D] bool: which are still to be opened."""
    places: Tensor | None
    """[N, D]: see `Scored.places`."""


def doubled(batch: StepBatch) -> Tensor:
    """Tokens of all rows: those of the utterances, then those of their null rows."""
    if len(batch.rows) == batch.tokens.shape[0]:
        return batch.tokens
    return torch.cat([batch.tokens, batch.tokens if batch.guided is None else batch.tokens[batch.guided]])


class Positions(NamedTuple):
    """Positions that a step looks at."""

    row: Tensor
    """[P] the utterance each belongs to."""
    own: Tensor | None
    """[P] which of the utterances' N D positions they are; None is all of them."""
    guided: Tensor | None
    """Which of the P have a null row; None where all have one, or none has."""
    at: Tensor | None
    """Which of all rows' positions are scored: those of the utterances, then those of their null rows; None is all of them."""


def every_position(batch: StepBatch) -> Positions:
    """All N D of them."""
    count, width = batch.tokens.shape
    place = torch.arange(count * width, device=batch.tokens.device).view(count, width)
    guided = None if batch.guided is None or len(batch.rows) == count else place[batch.guided].flatten()
    return Positions((place // width).flatten(), None, guided, None)


def masked_positions(batch: StepBatch, masked: Tensor) -> Positions:
    """Those of `masked` [N, D]; waits for the device to count them."""
    count, width = masked.shape
    own = masked.flatten().nonzero()[:, 0]
    row = own // width
    guided, parts = None, [own]
    if batch.guided is not None and len(batch.rows) > count:
        guided = torch.isin(row, batch.guided).nonzero()[:, 0]
        parts.append(masked[batch.guided].flatten().nonzero()[:, 0] + count * width)
    elif len(batch.rows) > count:
        parts.append(own + count * width)
    return Positions(row, own, guided, torch.cat(parts))


def random_numbers(keys: Tensor, steps: int, width: int) -> tuple[Tensor, Tensor]:
    """Uniform and standard Gumbel numbers [N, K, D] of each block's steps: hashes, so the batch does not matter."""
    place = torch.arange(width, device=keys.device)
    step = torch.arange(steps, device=keys.device)
    counter = (step[:, None] * MOST_POSITIONS + place) * 2  # [K, D]
    uniform = noise.uniform(keys[:, None, None], counter)
    return uniform, -(-noise.uniform(keys[:, None, None], counter + 1).log()).log()
