"""Matrix products of inference: several weights as one product, in the layout that the CPU's kernels want.

Few rows through a weight take as long as the weight takes to come from memory. Released checkpoints hold float16, so their
weights are kept so where that loses nothing, and widened to float32 in registers: the same sums from half the memory.
`python -m benchmarks.products` times the layouts. Knows nothing of networks. The operators are those of torch's own
compiler and quantisation; a build without them gets the plain product.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-12
_PACKED_ROWS = 32
"""Row count the oneDNN layout is chosen for; any other count still works."""

Product = Callable[[Tensor], Tensor]


class FusedLinear:
    """y = x [W1; W2; ...]^T for weights [O_i, I] that share their input, without bias; immutable."""

    def __init__(self, weights: Sequence[Tensor], bits: Literal[8] | None = None) -> None:
        """bits: 8 multiplies whole numbers, see `Int8Product`; call `int8_missing` first."""
        weight = torch.cat(list(weights)).detach() if len(weights) > 1 else weights[0].detach()
        self.out_features, self.in_features = weight.shape
        self.bits = bits
        self._product = Int8Product(weight) if bits == 8 else half_product(weight) or packed_product(weight)
        self.packed = self._product is not None
        self._weight = None if self.packed else weight

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """[T, I] -> [T, O], added to `onto` [T, O] where that is given."""
        if self._product is not None:
            y = self._product(x)
            return y if onto is None else y.add_(onto)
        assert self._weight is not None
        return F.linear(x, self._weight) if onto is None else torch.addmm(onto, x, self._weight.t())


class Int8Product:
    """y = x W^T in whole numbers, on a CPU: a row of W in 8 bits and a row of x in 7, each scaled by its largest value.

    Seven, because the kernel of a CPU without VNNI adds two products in 16 bits. A row has its own scale, so that it is what it
    would be alone. The operators are those of torch's quantised tensors: the fastest that torch 2.13 has on a CPU with AVX2
    (`benchmarks/products.py`), and about to go (pytorch issue 184982). `int8_missing` says so when they have.
    """

    def __init__(self, weight: Tensor) -> None:
        """weight: float32 [O, I]."""
        scale = weight.abs().amax(1).clamp_(min=_TINY) / 127
        whole = (weight / scale[:, None]).round_().to(torch.int8)
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            quantised = torch._make_per_channel_quantized_tensor(whole, scale.double(), zeros, 0)
            self._packed = torch.ops.quantized.linear_prepack(quantised, None)

    def __call__(self, x: Tensor) -> Tensor:
        """float32 [T, I] -> [T, O]."""
        scale = x.abs().amax(-1, keepdim=True).clamp_(min=_TINY)
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(x / scale, 1 / 63, 64, self._packed)
        return product.mul_(scale)


def int8_missing() -> str | None:
    """Why there is no `Int8Product` on this machine; None where there is."""
    if not {"fbgemm", "x86"} & set(torch.backends.quantized.supported_engines):
        return f"torch {torch.__version__} has no 8-bit products for this CPU"
    try:
        Int8Product(torch.ones(8, 8))(torch.ones(1, 8))
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        return f"torch {torch.__version__} has no 8-bit products for this CPU ({error})"
    return None


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
