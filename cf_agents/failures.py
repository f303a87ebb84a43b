"""What the model raises, as typed errors, and a batch in which only those at fault fail. Knows nothing of models or threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from cf_agents.errors import CfAgentsError, SynthesisFailed

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)


def typed(error: BaseException, what: str) -> CfAgentsError:
    """The typed error as it is; anything else wrapped, with its cause."""
    if isinstance(error, CfAgentsError):
        return error
    failed = SynthesisFailed(f"{what}: {type(error).__name__}: {error}. Other streams go on; open a new one to try again.")
    failed.__cause__ = error
    return failed


def isolated(
    what: str, batch: Sequence[T], call: Callable[[Sequence[T]], Sequence[R]], fail: Callable[[T, CfAgentsError], None]
) -> list[tuple[T, R]]:
    """`call` over the batch. Where it raises, over each alone, so that `fail` is told of those at fault only."""
    results: list[tuple[T, R]] = []
    groups = [batch] if batch else []
    while groups:
        group = groups.pop(0)
        try:
            results += zip(group, call(group), strict=True)
        except Exception as error:
            logger.warning("%s of %d utterances failed.", what, len(group), exc_info=True)
            if len(group) > 1:
                groups = [[each] for each in group]
            else:
                fail(group[0], typed(error, f"{what} failed"))
    return results
