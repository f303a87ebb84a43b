"""Captured device work: a function is recorded once for each kind of input and replayed after that, without its launches.

Knows nothing of decoding. The function must be device work alone, read its inputs where they were at the capture, and leave
what it has changed as it would be after any number of runs: it is run before it is captured.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

import torch

Out = TypeVar("Out")

_WARM_UPS = 2
"""Runs before a capture, in which libraries choose and load their kernels."""


class Captured(Protocol):
    """A recording."""

    def replay(self) -> None:
        """Run it again: its outputs are written where they were."""
        ...


class Capture(Protocol):
    """How work is recorded."""

    def __call__(self, work: Callable[[], Out]) -> tuple[Captured, Out]:
        """Record `work`; its outputs keep their memory as long as the recording lives."""
        ...


class CudaCapture:
    """CUDA graphs that share one pool of memory: one is replayed at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Out]) -> tuple[Captured, Out]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    work()
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                out = work()
        # A capture records and does not run.
        graph.replay()
        return graph, out


class Graphs(Generic[Out]):
    """Recordings by key."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._known: dict[Hashable, tuple[Captured, Out]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def run(self, key: Hashable, work: Callable[[], Out]) -> Out:
        """The outputs of `work`, which is recorded if `key` is new. They are overwritten by the next run of that key, or, since
        recordings share their memory, of any."""
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._capture(work)
        else:
            known[0].replay()
        return known[1]
