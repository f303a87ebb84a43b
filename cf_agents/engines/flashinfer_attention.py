"""FlashInfer's kernels under the paged engine: attention that reads pages; norms, rotation and gating of one kernel each.

Needs the package flashinfer-python, a CUDA device of compute capability 8.0 or newer and, because the kernels are compiled on
first use, nvcc (see `backends`). Imported in its factory only. What differs from `TorchAttention` is here and nothing else.

Shapes: R requests, T queries of all requests end to end, H heads, E head size, C hidden size.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cf_agents.engines.paged_attention import Cache, Watch, blind
from cf_agents.engines.paged_plan import Ints, PagedPlan, RowTable, page_lists
from cf_agents.models.t3 import T3, Layer, RMSNorm, rotary_table

_LEAST_WORKSPACE = 32 * 2**20
"""Bytes: what a plan that fills a GPU once needs, whatever it holds."""
_PLAN_BYTES = 2**20
"""Of each plan's own arrays; the package sets aside eight times as much, here and in pinned memory, for every shape."""
_TILE = 128
"""Queries of one thread block at most."""
_KERNELS = "fa2"
"""The family that takes any plan under a captured graph; queries are 16 or 32 a request, too few for Hopper's own to pay."""


@dataclass(frozen=True)
class FlashInferPlan:
    """A planned wrapper over one shape's fixed buffers."""

    wrapper: Any
    """flashinfer.BatchPrefillWithPagedKVCacheWrapper; the package has no types."""


class FlashInferAttention:
    """`paged_attention.Attention` on FlashInfer."""

    def __init__(self, t3: T3, positions: int) -> None:
        """positions: how many the rotation is tabulated for. Raises `ImportError` without FlashInfer."""
        self._kernels: Any = importlib.import_module("flashinfer")
        self._t3 = t3
        cos, sin = rotary_table(t3.config, positions, t3.device, torch.float32)
        self._rotation = torch.cat([cos[:, 0], sin[:, 0]], dim=-1).contiguous()  # [positions, E], cosines first
        self._workspace = torch.zeros(_LEAST_WORKSPACE, dtype=torch.uint8, device=t3.device)
        self._prefix = self._kernels.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD", backend=_KERNELS)

    def prefix(self, cache: Cache, table: RowTable, slot: int, start: int, x: Tensor) -> Tensor:
        """See `Attention.prefix`."""
        count = x.shape[0]
        slots, lengths = np.array([slot]), np.array([start + count])
        if x.is_cuda:
            # A plan's way to the device begins in memory that the next plan writes to: the one before it must be there.
            torch.cuda.current_stream(x.device).synchronize()
        self._plan(self._prefix, table, slots, lengths, np.array([count]), causal=True)
        positions = torch.arange(start, start + count, device=x.device)
        places = torch.tensor(table.places(slots, np.arange(start, start + count)[None])[0], device=x.device)
        return self._forward(cache, self._prefix, x, positions, places)

    def key(self, plan: PagedPlan) -> None:
        """A shape is all that a captured forward depends on."""
        return

    def begin(self, plan: PagedPlan, table: RowTable, kept: FlashInferPlan | None = None) -> FlashInferPlan:
        """See `Attention.begin`."""
        shape = plan.shape
        kept = kept or FlashInferPlan(self._fixed(len(plan.request_slots), shape.queries, table))
        widths = np.repeat([shape.held_width, shape.width], [shape.held, shape.rows])
        self._plan(kept.wrapper, table, plan.request_slots, plan.request_kv, widths, causal=False)
        return kept

    def hidden(
        self, cache: Cache, kept: FlashInferPlan, x: Tensor, positions: Tensor, places: Tensor, watch: Watch = blind
    ) -> Tensor:
        """See `Attention.hidden`."""
        return self._forward(cache, kept.wrapper, x, positions, places, watch)

    def _forward(
        self,
        cache: Cache,
        wrapper: Any,
        x: Tensor,
        positions: Tensor,
        places: Tensor,
        watch: Watch = blind,
    ) -> Tensor:
        """The backbone of `T3`, with the residual added where the next norm reads it."""
        heads, inner = cache.heads, cache.heads * cache.head_dim
        positions = positions.int()
        residual, x = x, torch.zeros_like(x)
        for layer in self._t3.tfmr.layers:
            assert isinstance(layer, Layer)
            into_qkv, out, into_ffn, down = layer.products
            h = self._add_and_norm(x, residual, layer.input_layernorm)
            q, k, v = into_qkv(h).split(inner, dim=-1)
            q, k = q.contiguous(), k.contiguous()
            self._kernels.apply_rope_with_cos_sin_cache_inplace(positions, q, k, cache.head_dim, self._rotation)
            keys, values = cache.keys[layer.index], cache.values[layer.index]
            keys.index_copy_(0, places, k)
            values.index_copy_(0, places, v)
            paged = tuple(side.view(-1, cache.page_size, heads, cache.head_dim) for side in (keys, values))
            q = q.view(-1, heads, cache.head_dim)
            watch(layer.index, q)
            mixed = wrapper.run(q, paged)
            h = self._add_and_norm(out(mixed.flatten(1)), residual, layer.post_attention_layernorm)
            x = down(self._kernels.silu_and_mul(into_ffn(h)))
        return self._add_and_norm(x, residual, self._t3.tfmr.norm)

    def _add_and_norm(self, x: Tensor, residual: Tensor, norm: RMSNorm) -> Tensor:
        """residual += x, in place, and its norm, in the memory of x."""
        self._kernels.fused_add_rmsnorm(x, residual, norm.weight, norm.eps)
        return x

    def _fixed(self, requests: int, queries: int, table: RowTable) -> Any:
        """A wrapper whose buffers stay where they are, so that a graph may hold its kernels."""
        needed = split_bytes(requests, queries, self._t3.config.num_heads, self._t3.config.head_dim)
        if needed > len(self._workspace):
            # Wrappers there are keep theirs; twice as much each time, so that all together take twice the last at most.
            self._workspace = torch.zeros(1 << (needed - 1).bit_length(), dtype=torch.uint8, device=self._t3.device)

        def buffer(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int32, device=self._t3.device)

        wrapper = self._kernels.BatchPrefillWithPagedKVCacheWrapper(
            self._workspace,
            "NHD",
            use_cuda_graph=True,
            qo_indptr_buf=buffer(requests + 1),
            paged_kv_indptr_buf=buffer(requests + 1),
            paged_kv_indices_buf=buffer(requests * table.pages.shape[1]),
            paged_kv_last_page_len_buf=buffer(requests),
            backend=_KERNELS,
        )
        plans = torch.zeros(_PLAN_BYTES, dtype=torch.uint8, device=self._t3.device)
        wrapper.reset_workspace_buffer(self._workspace, plans)
        return wrapper

    def _plan(
        self,
        wrapper: Any,
        table: RowTable,
        slots: Ints,
        lengths: Ints,
        widths: Ints,
        *,
        causal: bool,
    ) -> None:
        config, dtype = self._t3.config, self._t3.dtype
        arrays = page_lists(table, slots, lengths, widths)
        wrapper.plan(
            *(torch.from_numpy(each) for each in arrays),
            config.num_heads,
            config.num_heads,
            config.head_dim,
            table.page_size,
            causal=causal,
            q_data_type=dtype,
            kv_data_type=dtype,
        )


def split_bytes(requests: int, queries: int, heads: int, head_dim: int) -> int:
    """Workspace in bytes that a plan under a graph takes: there the package always splits the keys of a request, and puts a
    float32 output and its normaliser aside for every query of every tile (its `PrefillPlan`)."""
    tiles = -(-queries // _TILE) + requests - 1
    return 4 * heads * tiles * _TILE * (head_dim + 1) + 2 * 16
