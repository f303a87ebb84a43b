"""What the flow's causal parts keep of the past: keys and values, convolution tails, and who may attend to whom.

A `FlowCache` is one row's past; a `FlowPass` holds several rows' pasts side by side for one forward. Rows are aligned at the
border between past and new, which makes distances the same for all of them:

    row 0  [ . . past past past | new new new ]
    row 1  [ past past past past | new new .  ]     '.' is masked

Knows nothing of layers' contents.

Letters: N rows, L layers, S Euler steps, H heads, D head width, T new positions, K positions attended to, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TAIL = 2
"""Positions a causal convolution keeps: every one of them has a kernel of three (or five at doubled rate)."""


@dataclass(frozen=True, eq=False)
class Reach:
    """Who attends to whom in one forward, at one rate.

    mask: bool [N or 1, 1, T, K], None when all is seen. index: int64 [N or 1, 1, T, K], query minus key position minus `low`,
    between 0 and `high - low`.
    """

    mask: Tensor | None
    index: Tensor
    low: int
    high: int

    def doubled(self) -> Reach:
        """The same at twice the rate: a token's two frames see what the token sees."""
        mask = None if self.mask is None else _double(self.mask)
        half = torch.arange(2, device=self.index.device)
        query = half.repeat(self.index.shape[-2])[:, None]
        key = half.repeat(self.index.shape[-1])[None, :]
        return Reach(mask, 2 * _double(self.index) + query - key + 1, 2 * self.low - 1, 2 * self.high + 1)


@dataclass(frozen=True, eq=False)
class FlowCache:
    """One row's past, immutable: `length` tokens, and twice as many frames.

    token_memory: [L, 2, H, length, D] keys and values of the encoder's layers; frame_memory: the same of its layers after
    upsampling; estimator_memory: [S, L, 2, H, 2 length, D]; token_tail: [TAIL, C]; estimator_tail: [S, TAIL, C].
    """

    length: int
    token_memory: Tensor
    frame_memory: Tensor
    estimator_memory: Tensor
    token_tail: Tensor
    estimator_tail: Tensor

    def without(self, start: int, stop: int) -> FlowCache:
        """The past with tokens start to stop - 1 forgotten; what is left closes up."""
        if stop <= start:
            return self
        return FlowCache(
            self.length - (stop - start),
            _cut(self.token_memory, start, stop),
            _cut(self.frame_memory, 2 * start, 2 * stop),
            _cut(self.estimator_memory, 2 * start, 2 * stop),
            self.token_tail,
            self.estimator_tail,
        )


class Tails:
    """The inputs that a chain of causal convolutions saw last, taken and replaced in the order of the calls."""

    def __init__(self, past: Tensor, lengths: Tensor | None) -> None:
        """past: [N, TAIL, sum of C]. lengths: int64 [N] valid new positions, None when all are."""
        self._past = past
        self._lengths = lengths
        self._taken = 0
        self._seen: list[Tensor] = []

    def extend(self, x: Tensor) -> Tensor:
        """[N, T, C] with its tail in front: [N, TAIL + T, C]."""
        channels = x.shape[-1]
        past = self._past[..., self._taken : self._taken + channels]
        self._taken += channels
        x = torch.cat([past, x], 1)
        self._seen.append(x)
        return x

    def left(self) -> Tensor:
        """[N, TAIL, sum of C] for the pass after this one."""
        if self._lengths is None:
            return torch.cat([x[:, -TAIL:] for x in self._seen], -1)
        places = self._lengths[:, None] + torch.arange(TAIL, device=self._lengths.device)
        return torch.cat([x.gather(1, places[..., None].expand(-1, -1, x.shape[-1])) for x in self._seen], -1)


class FlowPass:
    """Several rows' pasts and the room for their new positions, for one forward."""

    def __init__(self, caches: Sequence[FlowCache], new: Sequence[int]) -> None:
        """new: tokens that each row is about to see."""
        self._new = list(new)
        self._past = [cache.length for cache in caches]
        self.past = max(self._past)
        self.new = max(self._new)
        device = caches[0].token_tail.device
        same_past = len(set(self._past)) == 1
        same_new = len(set(self._new)) == 1
        lengths = None if same_new else torch.tensor(self._new).to(device)
        self.token_memory = _side_by_side([c.token_memory for c in caches], self.past, self.new)
        self.frame_memory = _side_by_side([c.frame_memory for c in caches], 2 * self.past, 2 * self.new)
        self.estimator_memory = _side_by_side([c.estimator_memory for c in caches], 2 * self.past, 2 * self.new)
        self.token_tails = Tails(torch.stack([c.token_tail for c in caches]), lengths)
        estimator_tail = torch.stack([c.estimator_tail for c in caches], 1)  # [S, N, TAIL, C]
        frames = None if lengths is None else 2 * lengths
        self.estimator_tails = [Tails(tail, frames) for tail in estimator_tail]
        self.reach = reach(self.past, self.new, device)
        if not (same_past and same_new):
            place = torch.arange(self.past + self.new)
            first = self.past - torch.tensor(self._past)[:, None]
            after = self.past + torch.tensor(self._new)[:, None]
            seen = (place >= first) & (place < after)  # [N, K]
            self.reach = Reach(seen.to(device)[:, None, None], self.reach.index, self.reach.low, self.reach.high)

    def caches(self) -> list[FlowCache]:
        """Each row's past after the forward: the old one and its new positions."""
        token_tail = self.token_tails.left()
        estimator_tail = torch.stack([tails.left() for tails in self.estimator_tails], 1)  # [N, S, TAIL, C]
        return [
            FlowCache(
                past + new,
                self._row(self.token_memory, row, 1),
                self._row(self.frame_memory, row, 2),
                self._row(self.estimator_memory, row, 2),
                token_tail[row],
                estimator_tail[row],
            )
            for row, (past, new) in enumerate(zip(self._past, self._new, strict=True))
        ]

    def _row(self, memory: Tensor, row: int, rate: int) -> Tensor:
        start, stop = rate * (self.past - self._past[row]), rate * (self.past + self._new[row])
        kept = memory.select(-4, row)[..., start:stop, :]
        # a view would keep every other row of this pass alive
        return kept if memory.shape[-4] == 1 else kept.clone()


def reach(past: int, new: int, device: torch.device) -> Reach:
    """Every new position attends to the past and to every new one."""
    query = torch.arange(past, past + new, device=device)
    key = torch.arange(past + new, device=device)
    index = query[:, None] - key[None, :] + (new - 1)
    return Reach(None, index[None, None], 1 - new, past + new - 1)


def remember(memory: Tensor | None, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Put a layer's new keys and values [N, H, T, D] behind its past, memory [2, N, H, K, D]; return all of them."""
    if memory is None:
        return key, value
    new = key.shape[2]
    memory[0, :, :, -new:] = key
    memory[1, :, :, -new:] = value
    return memory[0], memory[1]


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, tails: Tails | None) -> Tensor:
    """[N, T, C] to [N, T, O] by a causal convolution of three taps, zeros before the first position of all."""
    x = F.pad(x, (0, 0, TAIL, 0)) if tails is None else tails.extend(x)
    return F.conv1d(x.transpose(1, 2), weight, bias).transpose(1, 2)


def _side_by_side(parts: Sequence[Tensor], past: int, new: int) -> Tensor:
    """[..., H, past_i, D] of each row to [..., N, H, past + new, D], right-aligned at `past`."""
    first = parts[0]
    shape = (*first.shape[:-3], len(parts), first.shape[-3], past + new, first.shape[-1])
    ragged = any(part.shape[-2] != past for part in parts)
    # masked places must be finite: a weight of zero times NaN is NaN
    memory = first.new_zeros(shape) if ragged else first.new_empty(shape)
    for row, part in enumerate(parts):
        memory.select(-4, row)[..., past - part.shape[-2] : past, :] = part
    return memory


def _double(x: Tensor) -> Tensor:
    if x.shape[-2] > 1:
        x = x.repeat_interleave(2, -2)
    return x.repeat_interleave(2, -1)


def _cut(memory: Tensor, start: int, stop: int) -> Tensor:
    return torch.cat([memory[..., :start, :], memory[..., stop:, :]], -2)
