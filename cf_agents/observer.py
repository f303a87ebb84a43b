"""Who is told of streams as they begin and end: the seam of metrics and tracing. Knows nothing of either."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from cf_agents.stats import StreamStats

logger = logging.getLogger(__name__)

Over = Callable[[], object]
T = TypeVar("T")


class StreamObserver(Protocol):
    """Told of every stream of a `TTS`, on the event loop: return at once. What it raises is logged, and speech goes on.

    Of a stream that was dropped unclosed it hears where that is collected, on any thread.
    """

    def opened(self, stats: StreamStats) -> Over:
        """A stream was asked for; called in the context of whoever asks. What is returned is called once, when the stream is
        over and `stats` is final: at once, where there was no room for it.
        """
        ...


def tell_opened(observers: Sequence[StreamObserver], stats: StreamStats) -> Over:
    """Tell all; the result tells them all that the stream is over."""
    told = [_safely(partial(observer.opened, stats)) for observer in observers]
    over = [each for each in told if each is not None]

    def tell_over() -> None:
        for each in over:
            _safely(each)

    return tell_over


def _safely(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except Exception:
        logger.exception("An observer of streams failed; speech goes on without it.")
        return None
