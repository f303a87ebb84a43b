"""The part of FlashInfer that the paged engine calls, in torch, with the rules that the real one has for what it is given.

What it computes is what the package's documentation says; a graph's rules (a batch that stays, buffers that stay) are checked.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_PROCESSORS = 132
"""Of an H100 or H200."""


class BatchPrefillWithPagedKVCacheWrapper:
    def __init__(
        self,
        float_workspace_buffer: Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        qo_indptr_buf: Tensor | None = None,
        paged_kv_indptr_buf: Tensor | None = None,
        paged_kv_indices_buf: Tensor | None = None,
        paged_kv_last_page_len_buf: Tensor | None = None,
        *,
        backend: str = "auto",
    ) -> None:
        assert kv_layout == "NHD"
        assert float_workspace_buffer.dtype == torch.uint8
        self._workspace, self._plan_bytes = float_workspace_buffer, 8 * 2**20
        self._graph = use_cuda_graph
        self._buffers = [qo_indptr_buf, paged_kv_indptr_buf, paged_kv_indices_buf, paged_kv_last_page_len_buf]
        self._most_rows: int | None = None

    def reset_workspace_buffer(self, float_workspace_buffer: Tensor, int_workspace_buffer: Tensor) -> None:
        assert int_workspace_buffer.dtype == torch.uint8
        self._workspace, self._plan_bytes = float_workspace_buffer, len(int_workspace_buffer)

    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        *,
        causal: bool,
        q_data_type: torch.dtype,
        kv_data_type: torch.dtype,
    ) -> None:
        given = [qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len]
        assert all(each.dtype == torch.int32 and each.device.type == "cpu" for each in given)
        assert len(paged_kv_indices) == int(paged_kv_indptr[-1])
        assert bool(((paged_kv_last_page_len >= 1) & (paged_kv_last_page_len <= page_size)).all())
        assert len(qo_indptr) == len(paged_kv_indptr) == len(paged_kv_last_page_len) + 1
        if self._graph:
            rows = int(qo_indptr[-1])
            requests = len(qo_indptr) - 1
            # As the package's scheduler does: tiles of 128 queries, or of 64 where 64 would hold all of one request.
            tile = 128 if rows - requests + 1 > 64 else 64
            tiles = max(2 * _PROCESSORS // num_kv_heads, -(-rows // tile) + requests - 1)
            assert 4 * num_qo_heads * tiles * tile * (head_dim_qk + 1) <= len(self._workspace), "the workspace is too small"
            assert 4 * (3 * tiles + rows + 2 * requests) + tiles + 256 <= self._plan_bytes, "the plan's own memory is too small"
            self._most_rows = self._most_rows or rows
            assert rows <= self._most_rows, "more queries than when it was first planned"
            for buffer, new in zip(self._buffers, given, strict=True):
                assert buffer is not None
                if new is paged_kv_indices:
                    assert len(new) <= len(buffer)
                    buffer[: len(new)] = new
                else:
                    assert len(new) == len(buffer), "the batch of a graph stays as large as it was"
                    buffer.copy_(new)
        else:
            self._buffers = [each.clone() for each in given]
        self._causal, self._page = causal, page_size
        self._heads, self._types = (num_qo_heads, num_kv_heads, head_dim_qk), (q_data_type, kv_data_type)

    def run(self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor]) -> Tensor:
        begins, page_begins, pages, last = self._buffers
        assert begins is not None
        assert page_begins is not None
        assert pages is not None
        assert last is not None
        assert q.shape[1:] == (self._heads[0], self._heads[2])
        assert (q.dtype, paged_kv_cache[0].dtype) == self._types
        mixed = torch.empty_like(q)
        for r in range(len(begins) - 1):
            own = pages[int(page_begins[r]) : int(page_begins[r + 1])].long()
            length = (len(own) - 1) * self._page + int(last[r])
            queries = q[int(begins[r]) : int(begins[r + 1])]
            k, v = (side[own].flatten(0, 1)[:length].transpose(0, 1) for side in paged_kv_cache)
            seen = None
            if self._causal:
                seen = torch.ones(len(queries), length, dtype=torch.bool).tril(length - len(queries))
            attended = F.scaled_dot_product_attention(queries.transpose(0, 1), k, v, attn_mask=seen)
            mixed[int(begins[r]) : int(begins[r + 1])] = attended.transpose(0, 1)
        return mixed


def apply_rope_with_cos_sin_cache_inplace(
    positions: Tensor, query: Tensor, key: Tensor, head_size: int, cos_sin_cache: Tensor, is_neox: bool = True
) -> None:
    assert cos_sin_cache.dtype == torch.float32
    assert is_neox
    cos, sin = cos_sin_cache[positions.long()][:, None].chunk(2, dim=-1)
    for side in (query, key):
        a, b = side.view(len(side), -1, head_size).float().chunk(2, dim=-1)
        side.copy_(torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).view_as(side))


def fused_add_rmsnorm(input: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6) -> None:
    assert input.dtype == residual.dtype == weight.dtype
    residual += input
    input.copy_(F.rms_norm(residual, weight.shape, weight, eps))


def silu_and_mul(input: Tensor) -> Tensor:
    gate, up = input.chunk(2, dim=-1)
    return F.silu(gate) * up
