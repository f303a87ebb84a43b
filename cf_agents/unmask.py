"""How the open positions of a block are filled, one function per idea.

Every block starts as masks. A denoising step samples a token for every position, ranks the masked positions by how much the
context raised their token's probability over the prior, and opens the best of them. Knows nothing of engines or utterances.

Shapes: N utterances, D positions of the widest open block, V vocabulary, P positions of all utterances that are looked at.
Sources: Chatterbox-Flash (prior-calibrated score, early decoding), OmniVoice section 3.4 (schedule, position noise).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

_FLOOR = math.log(1e-8)


@functools.lru_cache(maxsize=1024)
def schedule(size: int, steps: int, shift: float) -> tuple[int, ...]:
    """How many of `size` positions each of `steps` steps opens at least.

    Cumulative share after step s of K: r(s/K) with r(x) = t x / (1 + (t - 1) x), t = `shift` (OmniVoice eq. 3), rounded half to
    even; the last step opens the rest.
    """
    counts: list[int] = []
    for step in range(1, steps + 1):
        x = step / steps
        target = size if step == steps else round(size * (shift * x / (1.0 + (shift - 1.0) * x)))
        counts.append(max(0, min(target, size) - sum(counts)))
    return tuple(counts)


def early_quantile(step: int, steps: int, early: float) -> float:
    """q = max(0, 1 - alpha (k + 1) / K): scores at or above this quantile open even if the schedule does not ask for it."""
    return max(0.0, 1.0 - early * (step + 1) / steps)


def guide(conditional: Tensor, null: Tensor, weight: Tensor) -> Tensor:
    """log p_c + w (log p_c - log p_u), not normalised: [P, V] twice and w [P] to [P, V]."""
    return torch.lerp(null, conditional, 1.0 + weight[:, None])


def sample(log_probs: Tensor, temperature: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [P] from log-probabilities [P, V] by inverting the distribution at `uniform` [P].

    `temperature` [P] divides the log-probabilities; 0 takes the most likely token.
    """
    top, likely = log_probs.max(dim=-1)
    heat = torch.where(temperature > 0, temperature, 1.0)[:, None]
    # In place: fresh memory for a vocabulary per position costs as much as the arithmetic.
    cumulative = (log_probs - top[:, None]).div_(heat).exp_().cumsum_(dim=-1)
    point = uniform[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, point, right=True)[:, 0].clamp(max=log_probs.shape[-1] - 1)
    return torch.where(temperature > 0, drawn, likely)


def calibrate(log_probs: Tensor, prior: Tensor, tokens: Tensor) -> Tensor:
    """log p(x) - log prior(x) of the sampled tokens, both floored at log 1e-8.

    [P, V], the tokens' own probabilities under the prior [P], and the tokens [P] to [P].
    """
    return log_probs.gather(-1, tokens[:, None])[:, 0].clamp(min=_FLOOR) - prior.clamp(min=1e-8).log()


def combine(conditional: Tensor, null: Tensor, weight: Tensor) -> Tensor:
    """(1 + w) s_c - w s_u on the score's scale, all of them [P]."""
    return (1.0 + weight) * conditional - weight * null


def block_marginal(log_probs: Tensor, present: Tensor) -> Tensor:
    """The block's mean distribution [N, V], the alternative prior: [N, D, V] and which positions exist [N, D]."""
    share = present / present.sum(dim=1, keepdim=True)
    return (log_probs.exp() * share[..., None]).sum(dim=1)


class Ranked(NamedTuple):
    """Masked positions by their score."""

    scores: Tensor
    """[N, D], the highest first; -inf behind the masked ones."""
    order: Tensor
    """[N, D] the positions they belong to."""
    masked: Tensor
    """[N, D] bool, by position."""


def rank(score: Tensor, masked: Tensor) -> Ranked:
    """Scores [N, D] of masked positions [N, D]; of equals the earlier position comes first."""
    return Ranked(*torch.where(masked, score, -math.inf).sort(dim=1, descending=True, stable=True), masked)


def quantile_count(ranked: Ranked, quantile: Tensor) -> Tensor:
    """How many masked positions score at or above their row's `quantile` [N] (linear interpolation): to [N].

    A quantile above 1 counts none.
    """
    last = ranked.masked.sum(dim=1) - 1
    place = quantile.clamp(max=1.0) * last.clamp(min=0)
    below = (last - place.floor().long()).clamp(min=0)[:, None]
    above = (last - place.ceil().long()).clamp(min=0)[:, None]
    threshold = torch.lerp(ranked.scores.gather(1, below), ranked.scores.gather(1, above), (place - place.floor())[:, None])
    at_least = (ranked.scores >= threshold) & (ranked.scores > -math.inf)
    return (at_least & (quantile <= 1.0)[:, None]).sum(dim=1)


def best(ranked: Ranked, count: Tensor) -> Tensor:
    """The `count` [N] masked positions that score highest, as a mask [N, D]."""
    places = torch.arange(ranked.order.shape[1], device=ranked.order.device).expand_as(ranked.order)
    return ranked.masked & (torch.empty_like(ranked.order).scatter_(1, ranked.order, places) < count[:, None])


def before_stop(tokens: Tensor, stop_id: int) -> Tensor:
    """Positions in front of the first stop token, as a mask [N, D]: what lies behind it will not be heard."""
    return (tokens == stop_id).cumsum(dim=1) == 0
