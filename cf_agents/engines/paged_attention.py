"""Attention over pages: the seam behind which kernels differ, and what torch alone makes of it.

Shapes: R requests, T queries of all requests end to end, L layers, P pages, S places of a page, H heads, E head size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cf_agents.config import T3Config
from cf_agents.engines.paged_plan import Ints, PagedPlan, RowTable, Shape
from cf_agents.models.t3 import T3, rotary_table

_KEYS_STEP = 128
"""Places are padded to a multiple of this: few shapes, so that few graphs are captured."""


class Cache:
    """Keys and values of all rows, [L, P * S, H * E] each, zeros at first and never NaN."""

    def __init__(self, config: T3Config, pages: int, page_size: int, device: torch.device, dtype: torch.dtype) -> None:
        self.page_size = page_size
        self.heads, self.head_dim = config.num_heads, config.head_dim
        shape = (config.num_layers, pages * page_size, config.num_heads * config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    def copy_page(self, source: int, target: int) -> None:
        size = self.page_size
        for side in (self.keys, self.values):
            side[:, target * size : (target + 1) * size] = side[:, source * size : (source + 1) * size]


A = TypeVar("A")

Watch = Callable[[int, Tensor], None]
"""Told of a layer and its queries [T, H, E], once its keys are in the cache."""


def blind(layer: int, q: Tensor) -> None:
    """Watches nothing."""


class Attention(Protocol[A]):
    """The layers' forward over one plan, A being what it keeps on the device of a plan.

    `begin` is host work and copies; `hidden` is device work only, so that it may be captured.
    """

    def prefix(self, cache: Cache, table: RowTable, slot: int, start: int, x: Tensor) -> Tensor:
        """Causal forward of x [n, C] at places `start` on of one row, written to the cache: hidden states [n, C]."""
        ...

    def key(self, plan: PagedPlan) -> Hashable:
        """What the work of `hidden` depends on beside the plan's shape."""
        ...

    def begin(self, plan: PagedPlan, table: RowTable, kept: A | None = None) -> A:
        """What `hidden` needs of `plan`; put into `kept`, of the same shape and key, where that is given."""
        ...

    def hidden(self, cache: Cache, kept: A, x: Tensor, positions: Tensor, places: Tensor, watch: Watch = blind) -> Tensor:
        """Embeddings [T, C], positions and flat places [T] to final hidden states [T, C]; keys and values are written."""
        ...


@dataclass(frozen=True)
class Gathered:
    """Flat places [R, keys] that each request may see, how many of them it does [R], and how its queries lie."""

    places: Tensor
    kv: Tensor
    shape: Shape


class TorchAttention:
    """SDPA over gathered pages: needs no kernel but torch's, runs anywhere, and is what other kernels are held against."""

    def __init__(self, t3: T3, positions: int) -> None:
        self._t3 = t3
        self._cos, self._sin = rotary_table(t3.config, positions, t3.device, t3.dtype)

    def prefix(self, cache: Cache, table: RowTable, slot: int, start: int, x: Tensor) -> Tensor:
        """See `Attention.prefix`."""
        count = x.shape[0]
        seen = self._put(table.places(np.array([slot]), np.arange(start + count)[None])[0])
        allowed = torch.arange(start + count, device=x.device) <= torch.arange(start, start + count, device=x.device)[:, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            sides = []
            for side, new in ((cache.keys[layer], k), (cache.values[layer], v)):
                side.index_copy_(0, seen[start:], new.flatten(1))
                sides.append(side[seen].view(start + count, cache.heads, -1).transpose(0, 1))
            return F.scaled_dot_product_attention(q.transpose(0, 1), *sides, attn_mask=allowed).transpose(0, 1).flatten(1)

        return self._t3.backbone(x, self._cos[start : start + count], self._sin[start : start + count], attend)

    def key(self, plan: PagedPlan) -> int:
        """Places that the widest request may see, rounded up."""
        return -(-int(plan.request_kv.max(initial=1)) // _KEYS_STEP) * _KEYS_STEP

    def begin(self, plan: PagedPlan, table: RowTable, kept: Gathered | None = None) -> Gathered:
        """See `Attention.begin`."""
        keys = self.key(plan)
        at = np.broadcast_to(np.arange(keys), (len(plan.request_slots), keys))
        fresh = Gathered(self._put(table.places(plan.request_slots, at)), self._put(plan.request_kv), plan.shape)
        if kept is None:
            return fresh
        kept.places.copy_(fresh.places)
        kept.kv.copy_(fresh.kv)
        return kept

    def hidden(
        self, cache: Cache, kept: Gathered, x: Tensor, positions: Tensor, places: Tensor, watch: Watch = blind
    ) -> Tensor:
        """See `Attention.hidden`."""
        unseen = torch.arange(kept.places.shape[1], device=x.device) >= kept.kv[:, None]
        mask = torch.zeros((), device=x.device, dtype=x.dtype).masked_fill(unseen, -torch.inf)[:, None, None]  # [R, 1, 1, keys]
        held, split = kept.shape.held, kept.shape.held * kept.shape.held_width

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.keys[layer].index_copy_(0, places, k.flatten(1))
            cache.values[layer].index_copy_(0, places, v.flatten(1))
            watch(layer, q)
            groups = ((q[:split], slice(0, held)), (q[split:], slice(held, None)))
            mixed = [self._attend(cache, layer, part, kept.places[rows], mask[rows]) for part, rows in groups if len(part)]
            return torch.cat(mixed)

        return self._t3.backbone(x, self._cos[positions], self._sin[positions], attend)

    def _attend(self, cache: Cache, layer: int, q: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        requests, heads = places.shape[0], cache.heads
        sides = [side[layer][places].unflatten(-1, (heads, -1)).transpose(1, 2) for side in (cache.keys, cache.values)]
        q = q.view(requests, -1, *q.shape[1:]).transpose(1, 2)  # [R, H, Q, E]
        return F.scaled_dot_product_attention(q, *sides, attn_mask=mask).transpose(1, 2).reshape(-1, heads * cache.head_dim)

    def _put(self, values: Ints) -> Tensor:
        return torch.tensor(values, device=self._t3.device)
