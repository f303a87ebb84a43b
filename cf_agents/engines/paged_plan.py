"""Where every query of a paged forward lies: arrays built on the host from the rows' lengths, with no loop over rows.

    queries   [ held blocks: M x W, one group | open blocks: N x D, the other ]

Each group is requests of equal width to the attention, which sees a request's first `kv` places and no mask: the clean block of
a row sees its past and itself, its open block sees both and itself. Batches are padded to few shapes, so that a captured graph
fits many; what pads is the scratch row, whose only page nobody reads. Knows nothing of networks, keys or values.

Shapes: N rows, M of them holding a block back, D open and W held places of a row, T = M W + N D queries, P pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cf_agents.engines.pages import SCRATCH_PAGE

Ints = NDArray[np.int64]
Int32s = NDArray[np.int32]


class Shape(NamedTuple):
    """How large a forward is: what a captured graph is known by."""

    rows: int
    """N."""
    held: int
    """M."""
    width: int
    """D."""
    held_width: int
    """W; 0 where nothing is held."""

    @property
    def queries(self) -> int:
        return self.held * self.held_width + self.rows * self.width


@dataclass
class RowTable:
    """What is known of each slot, and of one more, the scratch row, as arrays: slot s of `pages` is [places / page_size]."""

    page_size: int
    pages: Ints
    """[slots + 1, most pages] page of each stretch of places."""
    cached: Ints
    """[slots + 1] places of the past."""
    held: Ints
    """[slots + 1, most block] a finished block that the next forward carries."""
    held_count: Ints
    """[slots + 1]"""
    text: Ints
    """[slots + 1] places of the row's text, at least 1."""

    @classmethod
    def empty(cls, slots: int, max_length: int, page_size: int, most_block: int) -> RowTable:
        pages = np.full((slots + 1, -(-max_length // page_size)), SCRATCH_PAGE, np.int64)
        zeros = np.zeros(slots + 1, np.int64)
        return cls(page_size, pages, zeros, np.zeros((slots + 1, most_block), np.int64), zeros.copy(), zeros + 1)

    @property
    def scratch(self) -> int:
        """The slot of the scratch row."""
        return len(self.cached) - 1

    def begin(self, slot: int, pages: Sequence[int], cached: int, text: int = 1) -> None:
        """Slot `slot` now holds a row that begins with `cached` places of `pages`; its text takes `text` of them."""
        self.clear(slot)
        self.text[slot] = text
        self.pages[slot, : len(pages)] = pages
        self.cached[slot] = cached

    def clear(self, slot: int) -> None:
        """What `slot` held is gone."""
        self.pages[slot] = SCRATCH_PAGE
        self.cached[slot] = self.held_count[slot] = 0
        self.text[slot] = 1

    def places(self, slots: Ints, positions: Ints) -> Ints:
        """Flat places in the pool of positions [n, q] of slots [n]; a position past the table's end is the scratch page's."""
        column, offset = positions // self.page_size, positions % self.page_size
        known = column < self.pages.shape[1]
        page = np.where(known, self.pages[slots[:, None], np.where(known, column, 0)], SCRATCH_PAGE)
        return page * self.page_size + offset


@dataclass(frozen=True)
class PagedPlan:
    """One forward, all arrays int64. Everything but `shape` may change under a captured graph."""

    shape: Shape
    slots: Ints
    """[N] of the rows, as the caller gave them."""
    ids: Ints
    """[M W] speech ids of held blocks."""
    positions: Ints
    """[T] rotary positions; a place is its own position."""
    local: Ints
    """[T] block-local positions."""
    places: Ints
    """[T] flat places of the pool to write."""
    request_slots: Ints
    """[M + N] row of each request."""
    request_kv: Ints
    """[M + N] places that each request sees, at least 1."""
    head_at: Ints
    """[N D] states that the logits come from, in [T hidden | N shift states]."""
    clean_at: Ints
    """[M] last clean state of each row that carries a block."""
    clean_slots: Ints
    """[M] and the slots they belong to."""
    text_places: Ints
    """[N W] flat places of the rows' texts, where they are asked for."""
    text_counts: Ints
    """[N] how many of them are of the row's own text."""


def rows_bucket(rows: int) -> int:
    """The padded number of rows: powers of two up to 8, then a quarter more at most."""
    whole = 1 << (rows - 1).bit_length()
    return whole if rows <= 8 else -(-rows // (whole // 8)) * (whole // 8)


def held_buckets(rows: int) -> tuple[int, ...]:
    """The numbers of held blocks that are laid out among `rows`: none, a quarter, all."""
    return (0, -(-rows // 4), rows)


def own_shape(table: RowTable, slots: Ints, width: int) -> Shape:
    """The shape of a score of `slots` [N] as they are."""
    carried = table.held_count[slots]
    return Shape(len(slots), int((carried > 0).sum()), width, int(carried.max(initial=0)))


def bucketed(shape: Shape) -> Shape:
    """`shape` with more held blocks than there are, so that N rows have three shapes."""
    return shape._replace(held=next(held for held in held_buckets(shape.rows) if held >= shape.held))


def score_plan(table: RowTable, slots: Ints, sizes: Ints, shape: Shape, texts: range = range(0)) -> PagedPlan:
    """Lay out the blocks that `slots` [N] hold back, where they do, and open blocks of `sizes` [N] tokens behind them.

    shape: `own_shape` or larger. texts: positions at which texts lie, the longest there may be; none if nobody looks at them.
    """
    carried = table.held_count[slots]
    (who,) = np.nonzero(carried)
    assert shape.rows == len(slots)
    assert shape.held >= len(who)
    assert shape.held_width >= carried.max(initial=0)
    scratch = table.scratch
    held_rows = np.concatenate([slots[who], np.full(shape.held - len(who), scratch, np.int64)])
    held_sizes = table.held_count[held_rows]

    across, held_across = np.arange(shape.width), np.arange(shape.held_width)
    begins = table.cached[slots] + carried
    open_positions = begins[:, None] + across  # [N, D]
    held_positions = table.cached[held_rows][:, None] + held_across  # [M, W]
    open_places = np.where(across < sizes[:, None], table.places(slots, open_positions), _scratch_place(table))
    held_places = np.where(held_across < held_sizes[:, None], table.places(held_rows, held_positions), _scratch_place(table))

    first_open = shape.held * shape.held_width
    before = shape.queries + np.arange(shape.rows)  # the shift state, unless the row carries a block
    clean_at = np.arange(shape.held) * shape.held_width + np.maximum(held_sizes - 1, 0)
    before[who] = clean_at[: len(who)]
    head_at = first_open + np.arange(shape.rows * shape.width).reshape(shape.rows, shape.width) - 1
    if shape.width:
        head_at[:, 0] = before

    return PagedPlan(
        shape=shape,
        slots=slots,
        ids=np.where(held_across < held_sizes[:, None], table.held[held_rows, : shape.held_width], 0).ravel(),
        positions=np.concatenate([held_positions.ravel(), open_positions.ravel()]),
        local=np.concatenate([np.tile(held_across, shape.held), np.tile(across, shape.rows)]),
        places=np.concatenate([held_places.ravel(), open_places.ravel()]),
        request_slots=np.concatenate([held_rows, slots]),
        request_kv=np.maximum(np.concatenate([table.cached[held_rows] + held_sizes, begins + sizes]), 1),
        head_at=head_at.ravel(),
        clean_at=clean_at,
        clean_slots=held_rows,
        text_places=table.places(slots, np.tile(np.array(texts, np.int64), (len(slots), 1))).ravel(),
        text_counts=table.text[slots],
    )


def page_lists(table: RowTable, slots: Ints, lengths: Ints, widths: Ints) -> tuple[Int32s, Int32s, Int32s, Int32s]:
    """Requests [R] of `widths` queries that see `lengths` places, as kernels read them, int32.

    Where each request's queries begin [R + 1], where its pages begin [R + 1], the pages of all end to end, and how many places
    of its last page it sees [R].
    """
    counts = -(-lengths // table.page_size)
    known = np.arange(table.pages.shape[1]) < counts[:, None]
    arrays = (
        np.concatenate([[0], np.cumsum(widths)]),
        np.concatenate([[0], np.cumsum(counts)]),
        table.pages[slots][known],
        lengths - (counts - 1) * table.page_size,
    )
    begins, page_begins, pages, last = (each.astype(np.int32) for each in arrays)
    return begins, page_begins, pages, last


def _scratch_place(table: RowTable) -> int:
    return SCRATCH_PAGE * table.page_size
