"""Values computed once from weights that never change while a model speaks, and again if they were replaced after all.

Knows nothing of what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Derived(Generic[T]):
    """Keeps one value; not part of a module's state."""

    def __init__(self) -> None:
        self._sources: list[Tensor] = []
        self._versions: list[int] = []
        self._size = 0
        self._value: T | None = None

    def get(self, weights: Sequence[Tensor], compute: Callable[[], T], size: int = 0) -> T:
        """The kept value, computed anew when a weight was replaced, moved or written to, or when it was made for another
        `size`. While gradients flow to the weights nothing is kept."""
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
            return compute()
        versions = [0 if weight.is_inference() else weight._version for weight in weights]
        if self._value is None or self._size != size or versions != self._versions or not self._same(weights):
            self._value = compute()
            self._size = size
            # an alias holds the storage, so that no new weight can be mistaken for it
            self._sources = [weight.detach() for weight in weights]
            self._versions = versions
        return self._value

    def _same(self, weights: Sequence[Tensor]) -> bool:
        return len(weights) == len(self._sources) and all(
            now.data_ptr() == then.data_ptr() and now.dtype == then.dtype and now.device == then.device
            for now, then in zip(weights, self._sources, strict=True)
        )
