"""Pages: who shares them, and that none is lost; and plans that are padded to a bucket."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cf_agents.engines.base import Row
from cf_agents.engines.paged import PAGE_SIZE, PagedEngine, PagedRow
from cf_agents.engines.paged_attention import Gathered
from cf_agents.engines.paged_plan import RowTable, Shape, bucketed, own_shape, rows_bucket, score_plan
from cf_agents.engines.pages import SCRATCH_PAGE, ZERO_PAGE, PagePool
from cf_agents.errors import EngineFull
from tests.engines.test_engine import block, half_open, whole
from tests.small import SMALL, prefix, small_engine, small_paged_engine, small_t3


def pages_of(row: Row) -> list[int]:
    assert isinstance(row, PagedRow)
    return row.pages


def near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return float((found - wanted).abs().max()) < 5e-5


@given(st.lists(st.integers(0, 9), max_size=60))
@settings(deadline=None)
def test_a_page_is_free_exactly_when_nobody_uses_it(moves: list[int]) -> None:
    pool = PagePool(8)
    held: list[list[int]] = []
    for move in moves:
        if move < 5:
            try:
                held.append(pool.take(move))
            except EngineFull:
                assert move > pool.free
        elif held and move < 8:
            pool.share(held[0])
            held.append(held[0])
        elif held:
            pool.give_back(held.pop(move % len(held)))
        assert pool.free == 6 - len({page for pages in held for page in pages})
        assert not {ZERO_PAGE, SCRATCH_PAGE} & {page for pages in held for page in pages}


def test_rows_of_a_voice_share_its_full_pages_and_write_in_their_own() -> None:
    engine = small_paged_engine()
    rows = [engine.open([prefix(20 + n, n, voice=3)])[0] for n in range(3)]
    full = SMALL.conditioning_length // PAGE_SIZE
    first, second, third = (pages_of(row) for row in rows)
    assert second[:full] == third[:full] == first[:full]
    assert not set(second[full:]) & set(third[full:])


def test_null_rows_stand_on_the_page_of_zeros_whatever_their_length() -> None:
    engine = small_paged_engine()
    for length in (5, 90):
        (row,) = engine.open([prefix(length).null()])
        zeros = SMALL.conditioning_length + length + 2
        pages = pages_of(row)
        assert pages[: zeros // PAGE_SIZE] == [ZERO_PAGE] * (zeros // PAGE_SIZE)
        assert ZERO_PAGE not in pages[zeros // PAGE_SIZE :]
    assert float(engine._cache.keys[:, :PAGE_SIZE].abs().max()) == 0.0


def test_a_row_sets_aside_what_its_prefix_says_may_follow() -> None:
    engine = small_paged_engine()
    (whole_row,) = engine.open([prefix(9)])
    (short,) = engine.open([replace(prefix(9), speech_tokens=40)])
    assert short.room == 40
    assert len(pages_of(short)) == -(-(short.length + 40) // PAGE_SIZE) < len(pages_of(whole_row))
    engine.commit([short], [block(1)])
    assert short.room == 24


def test_what_is_remembered_makes_way_and_nothing_is_lost() -> None:
    """A pool with room for two rows and little more, met by many voices and lengths."""
    engine = small_paged_engine(max_rows=4, max_length=128, pages=2 + 2 * 8 + 3)
    t3 = small_t3()
    everything = engine.pages_free
    for n in range(12):
        what = prefix(5 + n, n, voice=n)
        rows = engine.open([what, what.null()])
        for row, each in zip(rows, (what, what.null()), strict=True):
            assert near(engine.score([row], torch.tensor([half_open(n)])).logits[0], whole(t3, each, [half_open(n)]))
            engine.close(row)
    with pytest.raises(EngineFull, match="pages are needed"):
        engine.open([prefix(5, n, voice=20 + n) for n in range(3)])
    assert engine.rows_free == 4
    engine._voices.clear()
    engine._nulls.clear()
    assert engine.pages_free == everything


def test_padding_changes_no_row() -> None:
    """More rows and more held blocks than the batch has: real rows score as ever, real caches stay."""
    engine, plain = small_paged_engine(pad_held=True), small_engine()
    whats = [prefix(7, 1), prefix(31, 2).null(), prefix(12, 3)]
    rows, others = engine.open(whats), plain.open(whats)
    opens = torch.tensor([half_open(5), [*half_open(6, 9), *[-1] * 7], half_open(7)])
    sizes = [16, 9, 16]
    for held, past in ((0, None), (2, 11), (8, 12)):
        if past is not None:
            some = slice(1) if held == 2 else slice(3)
            engine.commit(rows[some], [block(past)] * len(rows[some]))
            plain.commit(others[some], [block(past)] * len(rows[some]))
        prepared = engine.prepare([*rows, *[None] * 5], [*sizes, *[0] * 5], 16)
        assert prepared.shape == Shape(8, held, 16, 16 if held else 0)
        found = engine.forward(prepared, torch.cat([opens, torch.zeros(5, 16, dtype=torch.long)])).logits
        engine.settle(rows)
        wanted = plain.score(others, opens).logits
        for n, size in enumerate(sizes):
            assert near(found[n, :size], wanted[n, :size])


def test_one_memory_serves_all_plans_of_a_shape() -> None:
    engine = small_paged_engine()
    whats = [prefix(7, 1), prefix(31, 2), prefix(12, 3), prefix(60, 4)]
    rows = engine.open(whats)
    inputs = set()
    for pair in ((0, 1), (2, 3), (3, 0)):
        prepared = engine.prepare([rows[n] for n in pair], [16, 16], 16)
        inputs.add(prepared.inputs.data_ptr())
        found = engine.forward(prepared, torch.tensor([half_open(1), half_open(2)])).logits
        for at, n in enumerate(pair):
            assert near(found[at], whole(small_t3(), whats[n], [half_open(1 + at)]))
    assert len(inputs) == 1


def test_buckets_hold_their_batch_and_are_few() -> None:
    for rows in range(1, 513):
        assert rows <= rows_bucket(rows) <= max(8, 1.25 * rows)
        for held in range(rows + 1):
            assert held <= bucketed(Shape(rows, held, 16, 16)).held <= rows
    assert len({rows_bucket(rows) for rows in range(1, 513)}) <= 32


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_a_plan_writes_where_its_rows_are_and_nowhere_else(data: st.DataObject) -> None:
    """Against the same in plain loops."""
    rows = data.draw(st.integers(1, 5))
    table = RowTable.empty(6, 96, 8, 16)
    slots = data.draw(st.permutations(range(6)))[:rows]
    for slot in range(6):
        table.begin(slot, [2 + 12 * slot + n for n in range(12)], data.draw(st.integers(1, 60)))
        count = data.draw(st.sampled_from([0, 0, 7, 16]))
        table.held_count[slot] = count
        table.held[slot, :count] = np.arange(count) + 100 * slot
    sizes = data.draw(st.lists(st.integers(0, 16), min_size=rows, max_size=rows))
    plan = score_plan(table, np.array(slots), np.array(sizes), own_shape(table, np.array(slots), 16))

    def place(slot: int, position: int) -> int:
        return int(table.pages[slot, position // 8]) * 8 + position % 8

    written, heads, ids = [], [], []
    carrying = [slot for slot in slots if table.held_count[slot]]
    widest = max((int(table.held_count[slot]) for slot in carrying), default=0)
    total = len(carrying) * widest + rows * 16
    for slot in carrying:
        count, cached = int(table.held_count[slot]), int(table.cached[slot])
        ids += [*table.held[slot, :count].tolist(), *[0] * (widest - count)]
        written += [place(slot, cached + n) if n < count else SCRATCH_PAGE * 8 for n in range(widest)]
    for n, slot in enumerate(slots):
        begin = int(table.cached[slot] + table.held_count[slot])
        written += [place(slot, begin + i) if i < sizes[n] else SCRATCH_PAGE * 8 for i in range(16)]
        first = len(carrying) * widest + 16 * n
        before = carrying.index(slot) * widest + int(table.held_count[slot]) - 1 if slot in carrying else total + n
        heads += [before, *range(first, first + 15)]
    assert plan.places.tolist() == written
    assert plan.head_at.tolist() == heads
    assert plan.ids.tolist() == ids
    assert plan.request_kv.tolist() == [
        *(int(table.cached[slot] + table.held_count[slot]) for slot in carrying),
        *(int(table.cached[slot] + table.held_count[slot]) + size for slot, size in zip(slots, sizes, strict=True)),
    ]


def test_a_row_that_takes_over_a_slot_is_not_scored_by_the_old_plan() -> None:
    engine: PagedEngine[Gathered] = small_paged_engine(max_rows=1)
    (first,) = engine.open([prefix(12, 1, voice=1)])
    engine.score([first], torch.tensor([half_open(1)]))
    engine.close(first)
    (second,) = engine.open([prefix(12, 2, voice=2)])
    scored = engine.score([second], torch.tensor([half_open(1)]))
    assert near(scored.logits[0], whole(small_t3(), prefix(12, 2, voice=2), [half_open(1)]))
