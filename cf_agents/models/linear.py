"""Matrix products of inference: several weights as one product, in the layout that the CPU's kernels want.

Few rows through a weight take as long as the weight takes to come from memory. Released checkpoints hold float16, so their
weights are kept so where that loses nothing, and widened to float32 in registers: the same sums from half the memory.
`python -m benchmarks.products` times the layouts. Knows nothing of networks. The operators are those of torch's own
compiler and quantisation; a build without them gets the plain product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_PACKED_ROWS = 32
"""Row count the oneDNN layout is chosen for; any other count still works."""

Product = Callable[[Tensor], Tensor]


class FusedLinear:
    """y = x [W1; W2; ...]^T for weights [O_i, I] that share their input, without bias; immutable."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        weight = torch.cat(list(weights)).detach() if len(weights) > 1 else weights[0].detach()
        self.out_features, self.in_features = weight.shape
        self._product = half_product(weight) or packed_product(weight)
        self.packed = self._product is not None
        self._weight = None if self.packed else weight

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """[T, I] -> [T, O], added to `onto` [T, O] where that is given."""
        if self._product is not None:
            y = self._product(x)
            return y if onto is None else y.add_(onto)
        assert self._weight is not None
        return F.linear(x, self._weight) if onto is None else torch.addmm(onto, x, self._weight.t())


def half_product(weight: Tensor) -> Product | None:
    """Products of float32 with a weight kept in float16; None where that would round it, or where there is no kernel."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not torch.equal(weight.half().float(), weight):
        return None
    try:
        packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), None)
        product: Product = lambda x: torch.ops.quantized.linear_dynamic_fp16(x, packed)  # noqa: E731
        return product if _right(product, weight) else None
    except (RuntimeError, AttributeError, NotImplementedError):
        return None


def packed_product(weight: Tensor) -> Product | None:
    """Products with a weight in the layout of oneDNN; None where there is no kernel."""
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACKED_ROWS)
        product: Product = lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")  # noqa: E731
        product(weight.new_zeros(1, weight.shape[1]))
    except (RuntimeError, AttributeError, NotImplementedError):
        return None
    return product


def _right(product: Product, weight: Tensor) -> bool:
    """Whether a kernel adds up in float32: one that rounded on the way would be off by far more."""
    x = torch.linspace(-1.0, 1.0, weight.shape[1])[None]
    wanted = F.linear(x, weight)
    return bool((product(x) - wanted).abs().max() <= 1e-5 * max(1.0, float(F.linear(x.abs(), weight.abs()).max())))
