"""Matrix products of inference: several weights as one product, in the layout that the CPU's kernels want.

Knows nothing of networks. The oneDNN operators are those that torch's own compiler emits; a build without them gets the plain
product. On one core of a CPU with AVX-512, 32 rows through a packed float32 weight take half to six tenths of the plain
product's time (`benchmarks/first_audio.py --step` times both).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_PACKED_ROWS = 32
"""Row count the packed layout is chosen for; any other count still works."""


class FusedLinear:
    """y = x [W1; W2; ...]^T for weights [O_i, I] that share their input, without bias; immutable."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        weight = torch.cat(list(weights)).detach() if len(weights) > 1 else weights[0].detach()
        self.out_features, self.in_features = weight.shape
        packed = _onednn_packed(weight)
        self.packed = packed is not None
        self._weight = weight if packed is None else packed

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """[T, I] -> [T, O], added to `onto` [T, O] where that is given."""
        if self.packed:
            y = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
            return y if onto is None else y.add_(onto)
        return F.linear(x, self._weight) if onto is None else torch.addmm(onto, x, self._weight.t())


def _onednn_packed(weight: Tensor) -> Tensor | None:
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACKED_ROWS)
        torch.ops.mkldnn._linear_pointwise(weight.new_zeros(1, weight.shape[1]), packed, None, "none", [], "")
    except (RuntimeError, AttributeError, NotImplementedError):
        return None
    return packed
