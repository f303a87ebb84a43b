"""The paged back-end: one pool of cache pages for all rows, made for graphs and for kernels that read pages.

    a row's pages   [ of its voice, shared | its own ... ]
    a null row's    [ the zero page, again and again | its own ... ]

A voice's prefix is attended to once: its full pages are shared by every row that speaks with it, and the page that the prefix
ends in is copied. A null row of guidance has zero keys and values in front of SOS, so one page of zeros stands for all of them,
whatever their number. A row sets aside pages for what its prefix says may follow it, not for the longest there could be.

As in the dense engine a finished block rides with the next `score`. What a forward needs is laid out on the host (`plan`); the
rest (`forward`) is device work alone that a graph may hold. How attention is computed is behind `paged_attention.Attention`.

Shapes: N rows, D open tokens, T queries end to end, C hidden size, V vocabulary.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from cf_agents.config import T3Config
from cf_agents.engines.aligned import AlignedScores
from cf_agents.engines.base import Prefix, Row, Scored
from cf_agents.engines.paged_attention import A, Attention, Cache
from cf_agents.engines.paged_plan import PagedPlan, RowTable, Shape, bucketed, own_shape, score_plan
from cf_agents.engines.pages import ZERO_PAGE, PagePool
from cf_agents.engines.pool import MOST_NULLS, MOST_VOICES, Recent, check_free, check_prefix, heads_by_layer
from cf_agents.errors import EngineFull
from cf_agents.models.t3 import T3, prior

K = TypeVar("K", bound=Hashable)

PAGE_SIZE = 16
"""Places of a page: a block of the released model."""
MAX_LENGTH = 1024
"""Places of a row unless said otherwise."""
MOST_BLOCK = 128
"""The largest block that decoding knobs allow."""
_MOST_SHAPES = 256
_INPUTS = (
    *("slots", "ids", "positions", "local", "places", "head_at", "clean_at", "clean_slots"),
    *("text_places", "text_counts"),
)


@dataclass(eq=False)
class PagedRow:
    """A slot in use and its pages."""

    slot: int
    pages: list[int]
    capacity: int
    table: RowTable
    is_open: bool = True

    @property
    def length(self) -> int:
        return int(self.table.cached[self.slot] + self.table.held_count[self.slot])

    @property
    def room(self) -> int:
        return self.capacity - self.length


@dataclass(frozen=True)
class _Template:
    """A prefix that rows begin with: its pages, of which the last is copied unless it is full, and where it leaves off."""

    pages: tuple[int, ...]
    places: int
    hidden: Tensor | None
    """[C] the last state, where nothing comes between this prefix and speech."""


@dataclass(eq=False)
class Prepared(Generic[A]):
    """A plan on the device."""

    shape: Shape
    key: Hashable
    attention: A
    inputs: Tensor
    """int64, all index arrays end to end: one copy to the device."""
    views: dict[str, Tensor]
    """The arrays of the plan, by name."""


class PagedEngine(Generic[A]):
    """`Engine` over pages."""

    def __init__(
        self,
        t3: T3,
        attention: Attention[A],
        *,
        max_rows: int = 16,
        max_length: int = MAX_LENGTH,
        pages: int | None = None,
        pad_held: bool = False,
    ) -> None:
        """Take over `t3` (its products are fused and packed).

        pages: of `PAGE_SIZE` places each; by default as many as `max_rows` full rows and what is remembered need.
        pad_held: let batches that hold back different numbers of blocks have few shapes, so that few graphs are captured.
        """
        t3.fuse()
        self._pad_held = pad_held
        self._t3, self._attention = t3, attention
        self._max_rows, self._max_length = max_rows, max_length
        config = t3.config
        if pages is None:
            pages = 2 + max_rows * _pages(max_length) + MOST_VOICES * _pages(config.conditioning_length) + MOST_NULLS
        self._pool = PagePool(pages)
        self._cache = Cache(config, pages, PAGE_SIZE, t3.device, t3.dtype)
        self._table = RowTable.empty(max_rows, max_length, PAGE_SIZE, MOST_BLOCK)
        self._aligned = heads_by_layer(config)
        first = config.conditioning_length
        most = min(config.max_text_tokens, max_length - first) if self._aligned else 0
        self._texts = range(first, first + most)
        self._shift = torch.zeros(max_rows + 1, config.hidden_size, device=t3.device, dtype=t3.dtype)
        self._free = list(range(max_rows))
        self._voices: Recent[str, _Template] = Recent(MOST_VOICES, self._forget)
        self._nulls: Recent[int, _Template] = Recent(MOST_NULLS, self._forget)
        self._priors: dict[int, Tensor] = {}
        self._prepared: Recent[tuple[Shape, Hashable], Prepared[A]] = Recent(_MOST_SHAPES)
        self._last: tuple[Hashable, Prepared[A]] | None = None

    @property
    def config(self) -> T3Config:
        return self._t3.config

    @property
    def rows_free(self) -> int:
        return len(self._free)

    @property
    def pages_free(self) -> int:
        """Pages that no row and no remembered prefix uses."""
        return self._pool.free

    @torch.inference_mode()
    def open(self, prefixes: Sequence[Prefix]) -> list[Row]:
        check_free(len(prefixes), len(self._free), self._max_rows)
        for prefix in prefixes:
            check_prefix(prefix, self.config, self._max_length)
        opened: list[PagedRow] = []
        try:
            for prefix in prefixes:
                opened.append(self._open(prefix))
        except BaseException:
            for row in opened:
                self.close(row)
            raise
        return list(opened)

    @torch.inference_mode()
    def score(self, rows: Sequence[Row], tokens: Tensor) -> Scored:
        sizes = (tokens >= 0).sum(dim=1).tolist()
        scored = self.forward(self.prepare(rows, sizes, tokens.shape[1]), tokens)
        self.settle(rows)
        return scored

    @torch.inference_mode()
    def commit(self, rows: Sequence[Row], blocks: Sequence[Sequence[int]]) -> None:
        batch = [row for row in _paged(rows) if row is not None]
        behind = [row for row in batch if self._table.held_count[row.slot]]
        if behind:
            self.score(behind, torch.full((len(behind), 1), -1, device=self._t3.device))
        for row, block in zip(batch, blocks, strict=True):
            assert len(block) <= row.room, "the block does not fit in its row"
            self._table.held[row.slot, : len(block)] = block
            self._table.held_count[row.slot] = len(block)

    def close(self, row: Row) -> None:
        (paged,) = _paged([row], closed=True)
        if paged is not None and paged.is_open:
            paged.is_open = False
            self._release(paged)

    @torch.inference_mode()
    def prior(self, block_size: int) -> Tensor:
        if block_size not in self._priors:
            self._priors[block_size] = prior(self._t3, block_size)
        return self._priors[block_size]

    # A score in its parts, for whoever captures the middle one

    def prepare(self, rows: Sequence[Row | None], sizes: Sequence[int], width: int, shape: Shape | None = None) -> Prepared[A]:
        """Host work: lay out a `score` of open blocks of `sizes` tokens, padded to `width`. None is padding, of any size.

        shape: to lay it out in, the batch's own or larger, where the engine is not to choose it. What comes out is good until
        the next call, which may fill the same memory: one graph holds the `forward` of all that are equal in `shape` and `key`.
        """
        slots = np.array([self._table.scratch if row is None else row.slot for row in _paged(rows)], np.int64)
        counts = np.array(sizes, np.int64)
        lengths = np.stack([counts, self._table.cached[slots], self._table.held_count[slots]])
        # The rows themselves, not their slots: another row in a slot has other pages.
        batch = (width, tuple(rows), lengths.tobytes(), shape)
        if self._last is not None and self._last[0] == batch:
            return self._last[1]
        if shape is None:
            own = own_shape(self._table, slots, width)
            shape = bucketed(own) if self._pad_held else own
        plan = score_plan(self._table, slots, counts, shape, self._texts)
        key = self._attention.key(plan)
        kept = self._prepared.get((plan.shape, key))
        self._last = None
        if kept is None:
            views, inputs = _on_device(plan, self._t3.device)
            kept = Prepared(plan.shape, key, self._attention.begin(plan, self._table), inputs, views)
            self._prepared.put((plan.shape, key), kept)
        else:
            kept.inputs.copy_(_flat(plan), non_blocking=True)
            kept.attention = self._attention.begin(plan, self._table, kept.attention)
        self._last = (batch, kept)
        return kept

    @torch.inference_mode()
    def forward(self, prepared: Prepared[A], tokens: Tensor) -> Scored:
        """Device work of a `score`: open blocks int64 [N, D], N and D of the prepared shape."""
        views, shape = prepared.views, prepared.shape
        ids = torch.cat([views["ids"], tokens.flatten().clamp(min=0)])
        x = self._t3.embed_speech(ids, views["local"])
        aligned = None
        if self._aligned:
            seen = torch.arange(len(self._texts), device=x.device) < views["text_counts"][:, None, None]
            aligned = AlignedScores(seen)

        def watch(layer: int, q: Tensor) -> None:
            if aligned is not None and layer in self._aligned:
                keys = self._cache.keys[layer][views["text_places"]].view(shape.rows, -1, *q.shape[1:])
                asked = q[len(q) - shape.rows * shape.width :].view(shape.rows, shape.width, *q.shape[1:])
                aligned.add(self._aligned[layer], asked, keys)

        hidden = self._attention.hidden(self._cache, prepared.attention, x, views["positions"], views["places"], watch)
        states = torch.cat([hidden, self._shift[views["slots"]]])
        before = states[views["head_at"]].view(shape.rows, shape.width, -1)
        if shape.held:
            self._shift.index_copy_(0, views["clean_slots"], hidden[views["clean_at"]])
        places = None if aligned is None else aligned.places()
        return Scored(before, places, self._t3.head)

    def settle(self, rows: Sequence[Row | None]) -> None:
        """Host work after `forward`: what rows held back is now their past."""
        slots = np.array([row.slot for row in _paged(rows) if row is not None], np.int64)
        self._table.cached[slots] += self._table.held_count[slots]
        self._table.held_count[slots] = 0

    # Prefill

    def _open(self, prefix: Prefix) -> PagedRow:
        zeros = self.config.conditioning_length + len(prefix.text_ids)
        capacity = self._max_length
        if prefix.speech_tokens is not None:
            capacity = min(capacity, zeros + 1 + max(self.config.block_size, prefix.speech_tokens))
        template = self._template(prefix)
        if template is not None:
            start, begun = template.places, template.pages
        elif prefix.conditioning is None:
            start, begun = zeros, (ZERO_PAGE,) * _pages(zeros)
        else:
            start, begun = 0, ()
        full = start // PAGE_SIZE
        # All that it begins with is held until the row is filled, whatever has to make way for its own pages.
        self._pool.share(begun)
        try:
            own = self._take(_pages(capacity) - full)
        except EngineFull:
            self._pool.give_back(begun)
            raise
        row = PagedRow(heapq.heappop(self._free), [*begun[:full], *own], capacity, self._table)
        try:
            text = 1 if prefix.conditioning is None else len(prefix.text_ids)
            self._table.begin(row.slot, row.pages, start, text)
            if len(begun) > full:
                self._cache.copy_page(begun[full], row.pages[full])
            if template is not None and template.hidden is not None:
                self._shift[row.slot] = template.hidden
            else:
                self._prefill(row, prefix, start)
        except BaseException:
            self._release(row)
            raise
        finally:
            self._pool.give_back(begun[full:])
        return row

    def _prefill(self, row: PagedRow, prefix: Prefix, start: int) -> None:
        t3, config = self._t3, self.config
        sos = t3.embed_speech(
            torch.tensor([config.start_speech], device=t3.device), torch.zeros(1, dtype=torch.long, device=t3.device)
        )
        given, parts = prefix.conditioning, [sos]
        if given is not None:
            parts.insert(0, t3.embed_text(torch.tensor(prefix.text_ids, device=t3.device)))
            if start == 0:
                speaker = torch.tensor(given.speaker, device=t3.device)
                prompt = torch.tensor(given.prompt_tokens, device=t3.device)
                parts.insert(0, t3.embed_conditioning(speaker, prompt, given.exaggeration))
        x = torch.cat(parts)
        hidden = self._attention.prefix(self._cache, self._table, row.slot, start, x)
        self._shift[row.slot] = hidden[-1]
        self._table.cached[row.slot] = start + len(x)
        if given is None:
            self._remember(self._nulls, len(prefix.text_ids), row, start + 1, hidden[-1].clone())
        elif start == 0:
            self._remember(self._voices, given.key, row, config.conditioning_length, None)

    def _template(self, prefix: Prefix) -> _Template | None:
        if prefix.conditioning is None:
            return self._nulls.get(len(prefix.text_ids))
        return self._voices.get(prefix.conditioning.key)

    def _remember(self, known: Recent[K, _Template], key: K, row: PagedRow, places: int, hidden: Tensor | None) -> None:
        """Keep the first `places` of a row; not where the pool has no page left for the part that rows go on writing in."""
        full, rest = divmod(places, PAGE_SIZE)
        pages = row.pages[:full]
        if rest and not self._pool.free:
            return
        self._pool.share(pages)
        if rest:
            pages += self._pool.take(1)
            self._cache.copy_page(row.pages[full], pages[-1])
        known.put(key, _Template(tuple(pages), places, hidden))

    def _take(self, count: int) -> list[int]:
        """Pages for a row; what is only remembered makes way."""
        while True:
            try:
                return self._pool.take(count)
            except EngineFull:
                if not (self._nulls.drop_oldest() or self._voices.drop_oldest()):
                    raise

    def _forget(self, template: _Template) -> None:
        self._pool.give_back(template.pages)

    def _release(self, row: PagedRow) -> None:
        self._pool.give_back(row.pages)
        self._table.clear(row.slot)
        heapq.heappush(self._free, row.slot)


def _pages(places: int) -> int:
    return -(-places // PAGE_SIZE)


def _flat(plan: PagedPlan) -> Tensor:
    return torch.from_numpy(np.concatenate([getattr(plan, name) for name in _INPUTS]))


def _on_device(plan: PagedPlan, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    inputs = _flat(plan).to(device)
    parts = inputs.split([len(getattr(plan, name)) for name in _INPUTS])
    return dict(zip(_INPUTS, parts, strict=True)), inputs


def _paged(rows: Sequence[Row | None], *, closed: bool = False) -> list[PagedRow | None]:
    batch = [row for row in rows if row is None or isinstance(row, PagedRow)]
    assert len(batch) == len(rows), "these rows belong to another engine"
    assert closed or all(row is None or row.is_open for row in batch), "a row was closed"
    return batch
