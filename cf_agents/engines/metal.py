"""The MLX back-end: Apple silicon's GPU, or any CPU that MLX runs on; `engines.dense` written for another library.

    cache of a layer   [ slot 0: max_length places | slot 1 | ... | one place nobody reads ], head by head
    a row's slot       [ prefix | committed blocks | block held back | open block | free ]

Rows are planned by the same code as the dense engine's, so what rides with what, and where it is written, is the same: finished
blocks ride with the next score, rows lie end to end for the products, a null prefix is two zero places with biases.

MLX describes first and computes at `mx.eval`. Each call here computes once, at its end, and reads no value before that. Arrays
are values: an update is a new array, which takes over the old one's memory when nobody else holds it. Hence one cache array per
layer, whose views live no longer than the layer, and copies of what rows share. What is left unevaluated belongs to the thread
that described it; nothing is left so, and the thread that built an engine need not be the one that uses it.

Shapes: N rows, D open tokens, Q queries of a row, T queries of all rows end to end, L cache places, H heads, E head size, V
speech vocabulary.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import torch
from torch import Tensor

from cf_agents.config import T3Config
from cf_agents.engines.base import Conditioning, Prefix, Row, Scored
from cf_agents.engines.dense_plan import DenseRow, Layout, Plan, ScorePlan
from cf_agents.engines.metal_t3 import MetalT3
from cf_agents.engines.pool import MOST_NULLS, MOST_VOICES, Recent, check_free, check_prefix, heads_by_layer

_NULL_PLACES = 2


@dataclass(frozen=True)
class _Shared:
    """Keys and values [layers, H, places, E] that rows have in common, and the last hidden state [C] where it is needed."""

    keys: mx.array
    values: mx.array
    hidden: mx.array | None


@dataclass(frozen=True)
class _Forward:
    """A `Plan` as MLX takes it."""

    rows: int
    queries: int
    keys: int
    positions: mx.array
    places: mx.array
    slots: mx.array | slice
    pad: mx.array | None
    unpad: mx.array | None

    @staticmethod
    def of(plan: Plan) -> _Forward:
        return _Forward(
            plan.rows,
            plan.queries,
            plan.keys,
            _indices(plan.positions),
            _indices(plan.places),
            plan.slots if isinstance(plan.slots, slice) else _indices(plan.slots),
            None if plan.pad is None else _indices(plan.pad),
            None if plan.unpad is None else _indices(plan.unpad),
        )


@dataclass(frozen=True)
class _Score:
    """A `ScorePlan`: what depends on the open tokens is finished on the host, the rest is there already."""

    host: ScorePlan
    forward: _Forward
    local: mx.array
    head_at: mx.array
    slots: mx.array
    clean_at: mx.array | None
    clean_slots: mx.array | None
    open_at: mx.array
    text_seen: mx.array
    back: mx.array | None

    @staticmethod
    def of(plan: ScorePlan) -> _Score:
        return _Score(
            plan,
            _Forward.of(plan.plan),
            _indices(plan.local),
            _indices(plan.head_at),
            _indices(plan.slots),
            None if plan.clean_at is None else _indices(plan.clean_at),
            None if plan.clean_slots is None else _indices(plan.clean_slots),
            _indices(plan.open_at),
            mx.array(plan.text_seen.numpy()),
            None if plan.back is None else _indices(plan.back),
        )


class _Spoken:
    """Gathers the alignment heads' scores of open positions over their rows' texts, layer by layer."""

    def __init__(self, score: _Score, shape: torch.Size) -> None:
        self._score = score
        self._shape = tuple(shape)
        self._scores: list[mx.array] = []

    def add(self, heads: Sequence[int], q: mx.array, k: mx.array, first: int) -> None:
        """q [T, H, E] and k [N, H, L, E] of a layer that has aligned `heads`; the text begins at place `first`."""
        asked = mx.unflatten(q[self._score.open_at], 0, self._shape).astype(mx.float32)  # [N, D, H, E]
        keys = k[:, :, first : first + self._score.host.text].astype(mx.float32)
        self._scores += [asked[:, :, head] @ keys[:, head].swapaxes(1, 2) * q.shape[-1] ** -0.5 for head in heads]

    def places(self) -> mx.array:
        """`Scored.places`, rows as the caller gave them."""
        score = mx.stack(self._scores).mean(axis=0)  # [N, D, text]
        share = mx.softmax(mx.where(self._score.text_seen, score, -math.inf), axis=-1)
        places = share @ mx.arange(self._score.host.text, dtype=mx.float32)
        return places if self._score.back is None else places[self._score.back]


class MetalEngine:
    """`Engine` on MLX. Logits and priors are torch tensors on the CPU that share MLX's memory."""

    def __init__(self, t3: MetalT3, *, max_rows: int = 16, max_length: int = 1024) -> None:
        """Set aside `max_rows` slots of `max_length` places."""
        config = t3.config
        self._t3 = t3
        self._max_rows, self._max_length = max_rows, max_length
        shape = (config.num_heads, max_rows * max_length + 1, config.head_dim)
        # Zeros, not garbage: a masked place still meets a weight of 0, and 0 x NaN is NaN.
        self._keys = [mx.zeros(shape, t3.dtype) for _ in range(config.num_layers)]
        self._values = [mx.zeros(shape, t3.dtype) for _ in range(config.num_layers)]
        self._shift = mx.zeros((max_rows, config.hidden_size), t3.dtype)
        self._bias = np.zeros((max_rows, _NULL_PLACES), np.float32)
        self._free = list(range(max_rows))
        longest = max_length + config.max_text_tokens + config.conditioning_length
        self._layout = Layout(max_rows, max_length, longest, torch.device("cpu"))
        self._voices: Recent[str, _Shared] = Recent(MOST_VOICES)
        self._nulls: Recent[int, _Shared] = Recent(MOST_NULLS)
        self._priors: dict[int, Tensor] = {}
        self._last: tuple[object, _Score] | None = None
        self._aligned = heads_by_layer(config)
        self._settle()

    @property
    def config(self) -> T3Config:
        return self._t3.config

    @property
    def rows_free(self) -> int:
        return len(self._free)

    def open(self, prefixes: Sequence[Prefix]) -> list[Row]:
        check_free(len(prefixes), len(self._free), self._max_rows)
        for prefix in prefixes:
            check_prefix(prefix, self.config, self._max_length)
        opened = [DenseRow(heapq.heappop(self._free), self._max_length) for _ in prefixes]
        try:
            self._prefill(opened, prefixes)
            self._settle()
        except BaseException:
            for row in opened:
                self.close(row)
            raise
        return list(opened)

    def score(self, rows: Sequence[Row], tokens: Tensor) -> Scored:
        batch = _own(rows)
        key = (tokens.shape[1], tuple((row.slot, row.cached, row.folded, row.text, row.held) for row in batch))
        if self._last is None or self._last[0] != key:
            self._last = (key, _Score.of(self._layout.score_plan(batch, tokens.shape[1])))
        score = self._last[1]
        host = score.host
        tokens = tokens if host.order is None else tokens[host.order]
        ids = host.ids.index_copy(0, host.open_at, tokens.flatten().clamp(min=0))
        sizes = (tokens >= 0).sum(dim=1, keepdim=True)  # [N, 1]
        limit = torch.where(host.open_queries, host.plan.limit + sizes, host.plan.limit)
        mask = self._mask(host.plan, limit)
        spoken = _Spoken(score, tokens.shape) if self._aligned else None
        hidden = self._forward(score.forward, self._t3.embed_speech(_indices(ids), score.local), mask, spoken)
        states = mx.concatenate([hidden, self._shift[score.slots]])
        logits = self._t3.head(states[score.head_at]).astype(mx.float32)
        if score.clean_at is not None:
            assert score.clean_slots is not None
            self._shift[score.clean_slots] = hidden[score.clean_at]
        places = None if spoken is None else spoken.places()
        mx.eval(logits, self._shift, *([] if places is None else [places]))
        for row in batch:
            row.cached += len(row.held)
            row.held = ()
        return Scored(_torch(logits).view(*tokens.shape, -1), None if places is None else _torch(places))

    def commit(self, rows: Sequence[Row], blocks: Sequence[Sequence[int]]) -> None:
        batch = _own(rows)
        behind = [row for row in batch if row.held]
        if behind:
            self.score(behind, torch.full((len(behind), 1), -1))
        for row, block in zip(batch, blocks, strict=True):
            assert len(block) <= row.room, "the block does not fit in its row"
            row.held = tuple(block)

    def close(self, row: Row) -> None:
        (own,) = _own([row], closed=True)
        if own.is_open:
            own.is_open = False
            heapq.heappush(self._free, own.slot)

    def prior(self, block_size: int) -> Tensor:
        if block_size not in self._priors:
            self._priors[block_size] = _torch(self._t3.prior(block_size))
        return self._priors[block_size]

    # Prefill

    def _prefill(self, rows: list[DenseRow], prefixes: Sequence[Prefix]) -> None:
        todo: list[DenseRow] = []
        embedded: list[mx.array] = []
        unseen: list[tuple[DenseRow, Conditioning]] = []
        config, t3 = self.config, self._t3
        sos = t3.embed_speech(mx.array([config.start_speech]), mx.array([0]))
        for row, prefix in zip(rows, prefixes, strict=True):
            if prefix.conditioning is None:
                shared = self._open_null(row, config.conditioning_length + len(prefix.text_ids))
                if shared is None:
                    todo.append(row)
                    embedded.append(sos)
                continue
            self._bias[row.slot] = 0.0
            row.text = len(prefix.text_ids)
            given = prefix.conditioning
            parts = [t3.embed_text(np.array(prefix.text_ids, np.int32)), sos]
            shared = self._voices.get(given.key)
            if shared is None:
                parts.insert(0, t3.embed_conditioning(given.speaker, given.prompt_tokens, given.exaggeration))
                unseen.append((row, given))
            else:
                self._adopt(row, 0, shared)
            todo.append(row)
            embedded.append(mx.concatenate(parts))
        if not todo:
            return
        counts = [part.shape[0] for part in embedded]
        starts = [row.cached for row in todo]
        plan = self._layout.plan(todo, counts)
        hidden = self._forward(_Forward.of(plan), mx.concatenate(embedded), self._mask(plan, plan.limit))
        self._shift[mx.array([row.slot for row in todo])] = hidden[mx.array(np.cumsum(counts) - 1)]
        for row, start, count in zip(todo, starts, counts, strict=True):
            row.cached = start + count
            if row.folded:
                self._nulls.put(row.length - 1, self._share(row, _NULL_PLACES, _NULL_PLACES + 1, hidden_too=True))
        for row, conditioning in unseen:
            self._voices.put(conditioning.key, self._share(row, 0, config.conditioning_length))

    def _open_null(self, row: DenseRow, zeros: int) -> _Shared | None:
        row.cached, row.folded = _NULL_PLACES, zeros - _NULL_PLACES
        base = row.slot * self._max_length
        for cache in (*self._keys, *self._values):
            cache[:, base : base + _NULL_PLACES] = 0
        self._bias[row.slot] = _log_split(zeros, self._t3.dtype)
        shared = self._nulls.get(zeros)
        if shared is not None:
            self._adopt(row, _NULL_PLACES, shared)
        return shared

    def _share(self, row: DenseRow, start: int, stop: int, *, hidden_too: bool = False) -> _Shared:
        base = row.slot * self._max_length
        places = slice(base + start, base + stop)
        keys, values = (mx.stack([cache[:, places] for cache in side]) for side in (self._keys, self._values))
        # Not a view: one that lives on would make every later update copy the whole array it looks at.
        hidden = mx.contiguous(self._shift[mx.array([row.slot])])[0] if hidden_too else None
        mx.eval([part for part in (keys, values, hidden) if part is not None])
        return _Shared(keys, values, hidden)

    def _adopt(self, row: DenseRow, at: int, shared: _Shared) -> None:
        base = row.slot * self._max_length + at
        count = shared.keys.shape[2]
        for side, known in ((self._keys, shared.keys), (self._values, shared.values)):
            for cache, layer in zip(side, known, strict=True):
                cache[:, base : base + count] = layer
        if shared.hidden is not None:
            self._shift[row.slot] = shared.hidden
        row.cached = at + count

    def _settle(self) -> None:
        mx.eval(self._shift, self._keys, self._values)

    # The forward

    def _forward(self, plan: _Forward, x: mx.array, mask: mx.array, spoken: _Spoken | None = None) -> mx.array:
        scale = self.config.head_dim**-0.5

        def attend(layer: int, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
            sides = []
            for cache, new in ((self._keys[layer], k), (self._values[layer], v)):
                cache[:, plan.places] = new.swapaxes(0, 1)
                slots = mx.unflatten(cache[:, :-1], 1, (self._max_rows, self._max_length))[:, :, : plan.keys]
                sides.append(slots[:, plan.slots].swapaxes(0, 1))  # [N, H, L, E]
            if spoken is not None and layer in self._aligned:
                spoken.add(self._aligned[layer], q, sides[0], self.config.conditioning_length)
            q = q if plan.pad is None else q[plan.pad]
            q = mx.unflatten(q, 0, (plan.rows, plan.queries)).swapaxes(1, 2)  # [N, H, Q, E]
            mixed = mx.fast.scaled_dot_product_attention(q, *sides, scale=scale, mask=mask)
            mixed = mixed.swapaxes(1, 2).flatten(2).flatten(0, 1)  # [N * Q, H * E]
            return mixed if plan.unpad is None else mixed[plan.unpad]

        return self._t3.backbone(x, plan.positions, attend)

    def _mask(self, plan: Plan, limit: Tensor) -> mx.array:
        seen = mx.arange(plan.keys) < _indices(limit)[:, None, :, None]  # [N, 1, Q, L]
        bias = np.zeros((plan.rows, 1, 1, plan.keys), np.float32)
        bias[..., :_NULL_PLACES] = self._bias[_host(plan.slots)][:, None, None]
        return mx.where(seen, mx.array(bias), -math.inf).astype(self._t3.dtype)


def _own(rows: Sequence[Row], *, closed: bool = False) -> list[DenseRow]:
    batch = [row for row in rows if isinstance(row, DenseRow)]
    assert len(batch) == len(rows), "these rows belong to another engine"
    assert closed or all(row.is_open for row in batch), "a row was closed"
    return batch


def _indices(values: Tensor) -> mx.array:
    return mx.array(values.numpy().astype(np.int32))


def _host(slots: Tensor | slice) -> np.ndarray | slice:
    return slots if isinstance(slots, slice) else slots.numpy()


def _torch(values: mx.array) -> Tensor:
    """Computed now, in the memory MLX put it in, which CPU and GPU share."""
    mx.eval(values)
    return torch.from_numpy(np.array(values, copy=False))


def _log_split(count: int, dtype: mx.Dtype) -> tuple[float, float]:
    """Two biases whose exponentials sum to `count`, the first exact in `dtype`: one alone is off by its rounding."""
    eps = {mx.float32: 2**-23, mx.bfloat16: 2**-7, mx.float16: 2**-10}[dtype]
    first = mx.array(math.log(count) * (1 - eps), dtype).item()
    assert isinstance(first, float)
    return first, math.log(count - math.exp(first))
