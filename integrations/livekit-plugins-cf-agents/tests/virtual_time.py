"""An event loop whose clock jumps to the next timer instead of waiting: minutes of dialogue in a moment, the same each time.

Only for what lives on the loop alone; while a thread is worked for, use a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import time
from collections.abc import Callable, Iterator

import pytest

START = 1000.0
"""Small, so that sums of times lose nothing a timer would wait for."""


class _JumpingSelector(selectors.DefaultSelector):
    now = START
    jumps = True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0 if timeout is not None and self.jumps else timeout)
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at `START`."""

    def __init__(self) -> None:
        self.clock = _JumpingSelector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for timers as other loops do, for what another thread does meanwhile."""
        self.clock.jumps = False
        try:
            yield
        finally:
            self.clock.jumps = True

    async def shutdown_default_executor(self, *patience: float | None) -> None:
        """Its threads live by other clocks; from Python 3.12 on they are given a time, which would be over at once."""
        with self.waiting():
            await super().shutdown_default_executor(*patience)


@pytest.fixture
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clocks of `time` tell the virtual loop's time to whoever runs on one."""

    def clock(real: Callable[[], float]) -> Callable[[], float]:
        def now() -> float:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                loop = None
            return loop.time() if isinstance(loop, VirtualLoop) else real()

        return now

    for name in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, clock(getattr(time, name)))
