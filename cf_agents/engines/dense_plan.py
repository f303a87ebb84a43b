"""Where every query of a dense forward lies: index tensors built on the host from the rows' lengths.

Rows of any length, some with a block held back, are laid end to end. Knows nothing of networks, keys or values.

Shapes: N rows, D open tokens, Q queries of a row, T queries of all rows end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(eq=False)
class DenseRow:
    """One slot of the cache in use."""

    slot: int
    capacity: int
    cached: int = 0
    """Places of the slot that hold the past."""
    folded: int = 0
    """Positions that have no place of their own: a null row's zeros."""
    text: int = 1
    """Places of the prefix's text; a null row, which has none of its own, is given one."""
    held: tuple[int, ...] = ()
    """A finished block that the next forward carries."""
    is_open: bool = True

    @property
    def length(self) -> int:
        return self.cached + self.folded + len(self.held)

    @property
    def room(self) -> int:
        return self.capacity - self.cached - len(self.held)


@dataclass(frozen=True)
class Plan:
    """Where the queries of one forward lie; used by every layer."""

    rows: int
    queries: int
    keys: int
    positions: Tensor
    """[T] rotary positions."""
    places: Tensor
    """[T] flat cache places to write."""
    slots: Tensor | slice
    limit: Tensor
    """[N, Q] how many places each query sees."""
    pad: Tensor | None
    """[N * Q] query of each padded place, None where every row has Q."""
    unpad: Tensor | None
    """[T] the way back."""


@dataclass(frozen=True)
class ScorePlan:
    """A forward that scores open blocks, with what rows hold back riding in front; kept while the batch does not change."""

    plan: Plan
    order: Tensor | None
    """[N] rows sorted by slot, None where they came so."""
    back: Tensor | None
    """[N] the way back to the caller's order."""
    text: int
    """Places of the longest text."""
    text_seen: Tensor
    """[N, 1, text] bool: places of each row's own text, by slot order."""
    ids: Tensor
    """[T] speech ids of held blocks; open places are filled in."""
    local: Tensor
    """[T] block-local positions."""
    open_at: Tensor
    """[N * D] where open ids go in [T]."""
    open_queries: Tensor
    """[N, Q] bool: queries of the open block."""
    head_at: Tensor
    """[N * D] hidden states the logits come from, rows as the caller gave them, in [T hidden | N shift states]."""
    slots: Tensor
    """[N] by slot order."""
    clean_at: Tensor | None
    """Last clean hidden state of each row that carries a block, and the slots they belong to."""
    clean_slots: Tensor | None


@dataclass(frozen=True)
class Layout:
    """The cache's shape: `max_rows` slots of `max_length` places and one more that nobody reads."""

    max_rows: int
    max_length: int
    positions: int
    """Length of the rotary tables."""
    device: torch.device

    def plan(self, rows: list[DenseRow], counts: list[int], limits: list[np.ndarray] | None = None) -> Plan:
        """Lay out `counts` new queries behind each row's past; causal unless `limits` says what each query sees."""
        count, past = np.array(counts), np.array([row.cached for row in rows])
        first = np.cumsum(count) - count
        owner = np.repeat(np.arange(len(rows)), count)  # [T]
        offset = np.arange(count.sum()) - first[owner]
        place = past[owner] + offset
        slot = np.array([row.slot for row in rows])
        flat = np.where(place < self.max_length, slot[owner] * self.max_length + place, self.max_rows * self.max_length)
        position = place + np.array([row.folded for row in rows])[owner]
        queries = int(count.max())
        limit = np.ones((len(rows), queries), np.int64)
        limit[owner, offset] = place + 1 if limits is None else np.concatenate(limits)
        ragged = bool((count != queries).any())
        padded = np.zeros((len(rows), queries), np.int64)
        padded[owner, offset] = np.arange(len(owner))
        in_a_run = slot[-1] - slot[0] == len(slot) - 1 and bool((np.diff(slot) > 0).all())

        return Plan(
            rows=len(rows),
            queries=queries,
            keys=min(int((past + count).max()), self.max_length),
            positions=self._put(np.minimum(position, self.positions - 1)),
            places=self._put(flat),
            slots=slice(int(slot[0]), int(slot[-1]) + 1) if in_a_run else self._put(slot),
            limit=self._put(limit),
            pad=self._put(padded.ravel()) if ragged else None,
            unpad=self._put(owner * queries + offset) if ragged else None,
        )

    def score_plan(self, batch: list[DenseRow], size: int) -> ScorePlan:
        """Lay out the block each row holds back, if it does, and `size` open places behind it."""
        order = sorted(range(len(batch)), key=lambda i: batch[i].slot)
        rows = [batch[i] for i in order]
        held = [len(row.held) for row in rows]
        limits, ids, local, open_at, open_queries, head, clean = [], [], [], [], [], [], []
        total = sum(held) + size * len(rows)
        widest = max(held) + size
        start = 0
        for n, (row, carried) in enumerate(zip(rows, held, strict=True)):
            end = row.cached + carried
            limits.append(np.full(carried + size, end))
            ids += [*row.held, *[0] * size]
            local += [*range(carried), *range(size)]
            open_at += range(start + carried, start + carried + size)
            open_queries.append([carried <= q < carried + size for q in range(widest)])
            before = start + carried - 1 if carried else total + n
            head.append([before, *range(start + carried, start + carried + size - 1)])
            if carried:
                clean.append((start + carried - 1, row.slot))
            start += carried + size
        head_of = dict(zip(order, head, strict=True))
        sorted_already = order == list(range(len(batch)))
        texts = np.array([row.text for row in rows])

        return ScorePlan(
            plan=self.plan(rows, [carried + size for carried in held], limits),
            order=None if sorted_already else self._put(order),
            back=None if sorted_already else self._put(np.argsort(order)),
            text=int(texts.max()),
            text_seen=self._put(np.arange(texts.max()) < texts[:, None, None]),
            ids=self._put(ids),
            local=self._put(local),
            open_at=self._put(open_at),
            open_queries=self._put(open_queries),
            head_at=self._put([at for i in range(len(batch)) for at in head_of[i]]),
            slots=self._put([row.slot for row in rows]),
            clean_at=self._put([at for at, _ in clean]) if clean else None,
            clean_slots=self._put([slot for _, slot in clean]) if clean else None,
        )

    def _put(self, values: np.ndarray | Sequence[object]) -> Tensor:
        return torch.tensor(values, device=self.device)
