"""The reference back-end: torch SDPA over one preallocated cache, on CPU, CUDA or MPS.

    cache of a layer   [ slot 0: max_length places | slot 1 | ... | one place nobody reads ]
    a row's slot       [ prefix | committed blocks | block held back | open block | free ]
                         `cached` places of the past ^

A finished block is held back until the row's next `score`, whose forward then carries both: the clean block, which does not see
the open one, and the open block, which sees everything. All rows are laid end to end for the products and padded only for
attention, so a batch may mix rows that carry a block with rows that do not.

A null row of guidance has zero embeddings before SOS. Without biases every layer keeps a zero there, so each of those n places
has key 0 and value 0 and adds exp(0) to the softmax's denominator: two zero places with biases that sum to log n stand for all
of them, exactly, and only SOS needs a forward.

Shapes: N rows, D open tokens, Q queries of a row, T queries of all rows end to end, L cache places, H heads, E head size.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cf_agents.config import T3Config
from cf_agents.engines.aligned import AlignedScores
from cf_agents.engines.base import Conditioning, Prefix, Row, Scored
from cf_agents.engines.dense_plan import DenseRow, Layout, Plan, ScorePlan
from cf_agents.engines.pool import MOST_NULLS, MOST_VOICES, Recent, check_free, check_prefix, heads_by_layer
from cf_agents.models.t3 import T3, prior, rotary_table

_NULL_PLACES = 2

Watch = Callable[[int, Tensor, Tensor], None]
"""Told of a layer, its queries [T, H, E] and the keys [N, H, L, E] they meet."""


def _blind(layer: int, q: Tensor, k: Tensor) -> None:
    """Watches nothing."""


@dataclass(frozen=True)
class _Shared:
    """Keys and values [layers, places, H * E] that rows have in common, and the last hidden state [C] where it is needed."""

    keys: Tensor
    values: Tensor
    hidden: Tensor | None


class DenseEngine:
    """`Engine` on torch's own attention; what every other back-end is held against."""

    def __init__(self, t3: T3, *, max_rows: int = 16, max_length: int = 1024) -> None:
        """Take over `t3` (its products are fused and packed) and set aside `max_rows` slots of `max_length` places."""
        t3.fuse()
        self._t3 = t3
        self._max_rows, self._max_length = max_rows, max_length
        config, device, dtype = t3.config, t3.device, t3.dtype
        self._inner = config.num_heads * config.head_dim
        shape = (config.num_layers, max_rows * max_length + 1, self._inner)
        # Zeros, not garbage: a masked place still meets a weight of 0, and 0 x NaN is NaN.
        self._keys = torch.zeros(shape, device=device, dtype=dtype)
        self._values = torch.zeros(shape, device=device, dtype=dtype)
        self._shift = torch.zeros(max_rows, config.hidden_size, device=device, dtype=dtype)
        self._bias = torch.zeros(max_rows, _NULL_PLACES, device=device)
        self._free = list(range(max_rows))
        longest = max_length + config.max_text_tokens + config.conditioning_length
        self._cos, self._sin = rotary_table(config, longest, device, dtype)
        self._layout = Layout(max_rows, max_length, longest, device)
        self._voices: Recent[str, _Shared] = Recent(MOST_VOICES)
        self._nulls: Recent[int, _Shared] = Recent(MOST_NULLS)
        self._priors: dict[int, Tensor] = {}
        self._last: tuple[object, ScorePlan] | None = None
        self._aligned = heads_by_layer(config)

    @property
    def config(self) -> T3Config:
        return self._t3.config

    @property
    def rows_free(self) -> int:
        return len(self._free)

    @torch.inference_mode()
    def open(self, prefixes: Sequence[Prefix]) -> list[Row]:
        check_free(len(prefixes), len(self._free), self._max_rows)
        for prefix in prefixes:
            check_prefix(prefix, self.config, self._max_length)
        opened = [DenseRow(heapq.heappop(self._free), self._max_length) for _ in prefixes]
        try:
            self._prefill(opened, prefixes)
        except BaseException:
            for row in opened:
                self.close(row)
            raise
        return list(opened)

    @torch.inference_mode()
    def score(self, rows: Sequence[Row], tokens: Tensor) -> Scored:
        batch = _dense(rows)
        key = (tokens.shape[1], tuple((row.slot, row.cached, row.folded, row.text, row.held) for row in batch))
        if self._last is None or self._last[0] != key:
            self._last = (key, self._layout.score_plan(batch, tokens.shape[1]))
        score = self._last[1]
        tokens = tokens if score.order is None else tokens[score.order]
        ids = score.ids.index_copy(0, score.open_at, tokens.flatten().clamp(min=0))
        sizes = (tokens >= 0).sum(dim=1, keepdim=True)  # [N, 1]
        plan = score.plan
        limit = torch.where(score.open_queries, plan.limit + sizes, plan.limit)
        aligned = AlignedScores(score.text_seen) if self._aligned else None
        first, shape = self.config.conditioning_length, tokens.shape

        def watch(layer: int, q: Tensor, k: Tensor) -> None:
            if aligned is not None and layer in self._aligned:
                texts = k[:, :, first : first + score.text].transpose(1, 2)
                aligned.add(self._aligned[layer], q[score.open_at].view(*shape, *q.shape[1:]), texts)

        hidden = self._forward(plan, self._t3.embed_speech(ids, score.local), limit, watch)
        states = torch.cat([hidden, self._shift[score.slots]])
        before = states[score.head_at].view(*shape, -1)
        if score.clean_at is not None:
            assert score.clean_slots is not None
            self._shift.index_copy_(0, score.clean_slots, hidden[score.clean_at])
        for row in batch:
            row.cached += len(row.held)
            row.held = ()

        def places(aligned: AlignedScores) -> Tensor:
            return aligned.places() if score.back is None else aligned.places()[score.back]

        return Scored(before, None if aligned is None else functools.partial(places, aligned), self._t3.head)

    @torch.inference_mode()
    def commit(self, rows: Sequence[Row], blocks: Sequence[Sequence[int]]) -> None:
        batch = _dense(rows)
        behind = [row for row in batch if row.held]
        if behind:
            self.score(behind, torch.full((len(behind), 1), -1, device=self._t3.device))
        for row, block in zip(batch, blocks, strict=True):
            assert len(block) <= row.room, "the block does not fit in its row"
            row.held = tuple(block)

    def close(self, row: Row) -> None:
        (dense,) = _dense([row], closed=True)
        if dense.is_open:
            dense.is_open = False
            heapq.heappush(self._free, dense.slot)

    @torch.inference_mode()
    def prior(self, block_size: int) -> Tensor:
        if block_size not in self._priors:
            self._priors[block_size] = prior(self._t3, block_size)
        return self._priors[block_size]

    # Prefill

    def _prefill(self, rows: list[DenseRow], prefixes: Sequence[Prefix]) -> None:
        todo: list[DenseRow] = []
        embedded: list[Tensor] = []
        unseen: list[tuple[DenseRow, Conditioning]] = []
        config, t3 = self.config, self._t3
        sos = t3.embed_speech(
            torch.tensor([config.start_speech], device=t3.device), torch.zeros(1, dtype=torch.long, device=t3.device)
        )
        for row, prefix in zip(rows, prefixes, strict=True):
            if prefix.conditioning is None:
                shared = self._open_null(row, config.conditioning_length + len(prefix.text_ids))
                if shared is None:
                    todo.append(row)
                    embedded.append(sos)
                continue
            self._bias[row.slot] = 0.0
            row.text = len(prefix.text_ids)
            parts = [t3.embed_text(torch.tensor(prefix.text_ids, device=t3.device)), sos]
            shared = self._voices.get(prefix.conditioning.key)
            if shared is None:
                parts.insert(0, self._embed_voice(prefix.conditioning))
                unseen.append((row, prefix.conditioning))
            else:
                self._adopt(row, 0, shared)
            todo.append(row)
            embedded.append(torch.cat(parts))
        if not todo:
            return
        counts = [part.shape[0] for part in embedded]
        starts = [row.cached for row in todo]
        plan = self._layout.plan(todo, counts)
        last = torch.tensor(np.cumsum(counts) - 1, device=t3.device)
        hidden = self._forward(plan, torch.cat(embedded), plan.limit, kept=last)
        self._shift.index_copy_(0, torch.tensor([row.slot for row in todo], device=t3.device), hidden)
        for row, start, count in zip(todo, starts, counts, strict=True):
            row.cached = start + count
            if row.folded:
                self._nulls.put(row.length - 1, self._share(row, _NULL_PLACES, _NULL_PLACES + 1, hidden_too=True))
        for row, conditioning in unseen:
            self._voices.put(conditioning.key, self._share(row, 0, config.conditioning_length))

    def _open_null(self, row: DenseRow, zeros: int) -> _Shared | None:
        row.cached, row.folded = _NULL_PLACES, zeros - _NULL_PLACES
        base = row.slot * self._max_length
        self._keys[:, base : base + _NULL_PLACES] = 0
        self._values[:, base : base + _NULL_PLACES] = 0
        self._bias[row.slot] = torch.tensor(_log_split(zeros, self._keys.dtype), device=self._bias.device)
        shared = self._nulls.get(zeros)
        if shared is not None:
            self._adopt(row, _NULL_PLACES, shared)
        return shared

    def _embed_voice(self, conditioning: Conditioning) -> Tensor:
        t3 = self._t3
        speaker = torch.tensor(conditioning.speaker, device=t3.device)
        prompt = torch.tensor(conditioning.prompt_tokens, device=t3.device)
        return t3.embed_conditioning(speaker, prompt, conditioning.exaggeration)

    def _share(self, row: DenseRow, start: int, stop: int, *, hidden_too: bool = False) -> _Shared:
        base = row.slot * self._max_length
        places = slice(base + start, base + stop)
        hidden = self._shift[row.slot].clone() if hidden_too else None
        return _Shared(self._keys[:, places].clone(), self._values[:, places].clone(), hidden)

    def _adopt(self, row: DenseRow, at: int, shared: _Shared) -> None:
        base = row.slot * self._max_length + at
        count = shared.keys.shape[1]
        self._keys[:, base : base + count] = shared.keys
        self._values[:, base : base + count] = shared.values
        if shared.hidden is not None:
            self._shift[row.slot] = shared.hidden
        row.cached = at + count

    # The forward

    def _forward(self, plan: Plan, x: Tensor, limit: Tensor, watch: Watch = _blind, kept: Tensor | None = None) -> Tensor:
        cos, sin = self._cos[plan.positions], self._sin[plan.positions]
        mask = self._mask(plan, limit).to(x.dtype)
        rows, length, heads = self._max_rows, self._max_length, self.config.num_heads

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            sides = []
            for cache, new in ((self._keys[layer], k), (self._values[layer], v)):
                cache.index_copy_(0, plan.places, new.flatten(1))
                sides.append(cache[:-1].view(rows, length, heads, -1)[plan.slots, : plan.keys].transpose(1, 2))  # [N, H, L, E]
            watch(layer, q, sides[0])
            q = q if plan.pad is None else q[plan.pad]
            q = q.view(plan.rows, plan.queries, heads, -1).transpose(1, 2)  # [N, H, Q, E]
            mixed = F.scaled_dot_product_attention(q, *sides, attn_mask=mask).transpose(1, 2).reshape(-1, self._inner)
            return mixed if plan.unpad is None else mixed[plan.unpad]

        return self._t3.backbone(x, cos, sin, attend, kept)

    def _mask(self, plan: Plan, limit: Tensor) -> Tensor:
        place = torch.arange(plan.keys, device=limit.device)
        mask = torch.zeros(1, device=limit.device).masked_fill((place >= limit[..., None])[:, None], -math.inf)  # [N, 1, Q, L]
        mask[..., :_NULL_PLACES] += self._bias[plan.slots][:, None, None]
        return mask


def _dense(rows: Sequence[Row], *, closed: bool = False) -> list[DenseRow]:
    batch = [row for row in rows if isinstance(row, DenseRow)]
    assert len(batch) == len(rows), "these rows belong to another engine"
    assert closed or all(row.is_open for row in batch), "a row was closed"
    return batch


def _log_split(count: int, dtype: torch.dtype) -> tuple[float, float]:
    """Two biases whose exponentials sum to `count`, the first exact in `dtype`: one alone is off by its rounding."""
    first = float(torch.tensor(math.log(count) * (1 - torch.finfo(dtype).eps), dtype=dtype))
    return first, math.log(count - math.exp(first))
