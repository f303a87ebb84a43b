"""What the flow's causal parts keep of the past: keys and values, convolution tails, and who may attend to whom.

A `FlowCache` is one row's past; a `FlowPass` holds several rows' pasts side by side for one forward. Rows are aligned at the
border between past and new, which makes distances the same for all of them:

    row 0  [ . . past past past | new new new ]
    row 1  [ past past past past | new new .  ]     '.' is masked

Knows nothing of layers' contents.

Letters: N rows, L layers, S Euler steps, H heads, D head width, T new positions, K positions attended to, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

TAIL = 2
"""Positions a causal convolution keeps: every one of them has a kernel of three (or five at doubled rate)."""
SPARE = 64
"""Tokens of room made at once for a row that is alone."""


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

    def within(self, border: int, past: Tensor, new: Tensor, device: torch.device) -> Reach:
        """The same where each row has so many positions before the border and so many behind it, int64 [N] both."""
        place = torch.arange(self.index.shape[-1], device=past.device)
        seen = (place >= border - past[:, None]) & (place < border + new[:, None])  # [N, K]
        return Reach(seen.to(device)[:, None, None], self.index, self.low, self.high)

    def doubled(self) -> Reach:
        """The same at twice the rate: a token's two frames see what the token sees."""
        mask = None if self.mask is None else _double(self.mask)
        half = torch.arange(2, device=self.index.device)
        query = half.repeat(self.index.shape[-2])[:, None]
        key = half.repeat(self.index.shape[-1])[None, :]
        return Reach(mask, 2 * _double(self.index) + query - key + 1, 2 * self.low - 1, 2 * self.high + 1)


@dataclass(frozen=True, eq=False)
class Memory:
    """Keys and values of every layer for the same tokens.

    tokens: [L, 2, H, length, D] of the encoder's layers before its upsampling, frames: [L, 2, H, 2 length, D] of those after,
    estimator: [S, L, 2, H, 2 length, D]. With several rows side by side each has an N before its H.
    """

    tokens: Tensor
    frames: Tensor
    estimator: Tensor

    @property
    def length(self) -> int:
        return self.tokens.shape[-2]

    def each(self, change: Callable[[Tensor, int], Tensor]) -> Memory:
        """`change` applied to each tensor, told its places per token."""
        return Memory(change(self.tokens, 1), change(self.frames, 2), change(self.estimator, 2))

    def cut(self, start: int, stop: int) -> Memory:
        """A view of tokens start to stop - 1."""
        return self.each(lambda part, rate: part[..., rate * start : rate * stop, :])

    def row(self, row: int) -> Memory:
        """A view of one of several rows."""
        return self.each(lambda part, _: part.select(-4, row))

    def copied(self) -> Memory:
        """A copy that owns its storage."""
        return self.each(lambda part, _: part.clone())


class Room:
    """Storage longer than the memory in it, so that one row's new keys and values go behind the old ones without a copy.

    Who appends must claim the end first, and releases the end it leaves. Whatever else shares the storage is not at that end
    any more, is refused, and makes room of its own: a shared voice and a copied state stay what they are.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._end: list[int] = []  # one place; pop and append are atomic

    @classmethod
    def holding(cls, parts: Sequence[Memory], spare: int) -> Room:
        """A copy of `parts` one after the other, and `spare` tokens more; unclaimed by anyone but the caller."""
        first = parts[0]
        length = sum(part.length for part in parts)
        room = first.each(lambda part, rate: part.new_empty((*part.shape[:-2], rate * (length + spare), part.shape[-1])))
        begin = 0
        for part in parts:
            end = begin + part.length
            _fill(room.cut(begin, end), part)
            begin = end
        return cls(room)

    def claim(self, length: int, new: int) -> bool:
        """Whether `new` tokens may be written behind the first `length`; True binds the caller to release."""
        try:
            end = self._end.pop()
        except IndexError:
            return False
        if end == length and length + new <= self.memory.length:
            return True
        self._end.append(end)
        return False

    def release(self, length: int) -> None:
        """Let what comes next be written behind the first `length` tokens."""
        self._end.append(length)


@dataclass(frozen=True, eq=False)
class FlowCache:
    """One row's past, immutable: what its layers remember, and the tails of its convolutions.

    token_tail: [TAIL, C], estimator_tail: [S, TAIL, C]. room: the storage that `memory` is a view of, if there is more of it.
    """

    memory: Memory
    token_tail: Tensor
    estimator_tail: Tensor
    room: Room | None = None

    @property
    def length(self) -> int:
        """Tokens; there are twice as many frames."""
        return self.memory.length

    def without(self, start: int, stop: int) -> FlowCache:
        """The past with tokens start to stop - 1 forgotten; what is left closes up."""
        if stop <= start:
            return self
        room = Room.holding([self.memory.cut(0, start), self.memory.cut(stop, self.length)], SPARE)
        left = self.length - (stop - start)
        room.release(left)
        return FlowCache(room.memory.cut(0, left), self.token_tail, self.estimator_tail, room)


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


class Past(Protocol):
    """What the layers of one forward read of the past, and write for what comes after."""

    @property
    def memory(self) -> Memory: ...
    @property
    def token_tails(self) -> Tails: ...
    @property
    def estimator_tails(self) -> Sequence[Tails]: ...


class FlowPass:
    """Several rows' pasts and the room for their new positions, for one forward."""

    def __init__(self, caches: Sequence[FlowCache], new: Sequence[int]) -> None:
        """new: tokens that each row is about to see."""
        self._new = list(new)
        self._past = [cache.length for cache in caches]
        self.past = max(self._past)
        self.new = max(self._new)
        device = caches[0].token_tail.device
        self._room: Room | None = None
        self.memory = self._alone(caches[0]) if len(caches) == 1 else _side_by_side(caches, self.past, self.new)
        same_past = len(set(self._past)) == 1
        same_new = len(set(self._new)) == 1
        lengths = None if same_new else torch.tensor(self._new).to(device)
        frames = None if lengths is None else 2 * lengths
        self.token_tails = Tails(torch.stack([cache.token_tail for cache in caches]), lengths)
        estimator_tail = torch.stack([cache.estimator_tail for cache in caches], 1)  # [S, N, TAIL, C]
        self.estimator_tails = [Tails(tail, frames) for tail in estimator_tail]
        self.reach = reach(self.past, self.new, device)
        if not (same_past and same_new):
            self.reach = self.reach.within(self.past, torch.tensor(self._past), torch.tensor(self._new), device)

    def caches(self) -> list[FlowCache]:
        """Each row's past after the forward: the old one and its new positions. Ends the pass."""
        token_tail = self.token_tails.left()
        estimator_tail = torch.stack([tails.left() for tails in self.estimator_tails], 1)  # [N, S, TAIL, C]
        if self._room is not None:
            self._room.release(self.past + self.new)
            memory = self._room.memory.cut(0, self.past + self.new)
            return [FlowCache(memory, token_tail[0], estimator_tail[0], self._room)]
        caches = []
        for row, (past, new) in enumerate(zip(self._past, self._new, strict=True)):
            # a view would keep every other row of this pass alive
            memory = self.memory.row(row).cut(self.past - past, self.past + new).copied()
            caches.append(FlowCache(memory, token_tail[row].clone(), estimator_tail[row].clone()))
        return caches

    def forget(self) -> None:
        """End the pass without a trace: the pasts stay what they were."""
        if self._room is not None:
            self._room.release(self.past)

    def _alone(self, cache: FlowCache) -> Memory:
        self._room = cache.room
        if self._room is None or not self._room.claim(self.past, self.new):
            self._room = Room.holding([cache.memory], max(self.new, SPARE))
        return self._room.memory.cut(0, self.past + self.new).each(lambda part, _: part.unsqueeze(-4))


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


def _side_by_side(caches: Sequence[FlowCache], past: int, new: int) -> Memory:
    """Rows right-aligned at `past`, with `new` tokens of room behind."""
    ragged = any(cache.length != past for cache in caches)

    def room(part: Tensor, rate: int) -> Tensor:
        shape = (*part.shape[:-3], len(caches), part.shape[-3], rate * (past + new), part.shape[-1])
        # masked places must be finite: a weight of zero times NaN is NaN
        return part.new_zeros(shape) if ragged else part.new_empty(shape)

    memory = caches[0].memory.each(room)
    align(memory, caches, past)
    return memory


def align(memory: Memory, caches: Sequence[FlowCache], border: int) -> None:
    """Put the rows' pasts in front of place `border` of `memory`."""
    for row, cache in enumerate(caches):
        _fill(memory.row(row).cut(border - cache.length, border), cache.memory)


def _fill(places: Memory, values: Memory) -> None:
    places.tokens.copy_(values.tokens)
    places.frames.copy_(values.frames)
    places.estimator.copy_(values.estimator)


def _double(x: Tensor) -> Tensor:
    if x.shape[-2] > 1:
        x = x.repeat_interleave(2, -2)
    return x.repeat_interleave(2, -1)
