"""The seam between decoding and a back-end: speech ids in, logits out.

An engine owns a pool of rows. A row is a prefix that has been attended to plus the blocks of speech tokens committed since,
and its open block is scored as often as needed without a trace. Token shift, embeddings, heads, caches and dtype are inside;
scores, guidance, text and audio are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cf_agents.config import T3Config

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the decoder is told of a speaker.

    speaker: float32 [256], prompt_tokens: int64 [P <= 150], exaggeration: 0 to 2 (0.5 is neutral).
    """

    speaker: NDArray[np.float32]
    prompt_tokens: NDArray[np.int64]
    exaggeration: float = 0.5

    @cached_property
    def key(self) -> str:
        """Digest of the content: rows whose keys are equal may share the KV of these positions."""
        digest = hashlib.sha256(np.ascontiguousarray(self.speaker, np.float32).tobytes())
        digest.update(np.ascontiguousarray(self.prompt_tokens, np.int64).tobytes())
        digest.update(np.float64(self.exaggeration).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Prefix:
    """What a row attends to before its first block: `[conditioning | text | SOS]`.

    `text_ids` include the start and stop ids. `conditioning=None` is the null row of guidance: conditioning and text
    embeddings are zero, the length is that of the conditional row.
    """

    conditioning: Conditioning | None
    text_ids: tuple[int, ...]
    speech_tokens: int | None = None
    """How many speech tokens may follow at most, where that is known: an engine may set aside no more."""

    def null(self) -> Prefix:
        """The guidance twin of this prefix."""
        return replace(self, conditioning=None)


class Row(Protocol):
    """A handle that `Engine.open` gave out; it is good until `Engine.close`."""

    @property
    def length(self) -> int:
        """Positions of the past: the prefix and every committed token."""
        ...

    @property
    def room(self) -> int:
        """Speech tokens that still fit, the open block included."""
        ...


class Scored:
    """What one forward says of each row's open block. N rows, D positions, C hidden size, V vocabulary.

    Logits are made when they are asked for, and of the positions asked for: a vocabulary's product is much of a small model's
    step, and open positions alone need it. So are places, which a block's last step alone needs. Both before the engine is
    called again.
    """

    def __init__(
        self,
        states: torch.Tensor,
        places: torch.Tensor | Callable[[], torch.Tensor] | None = None,
        head: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """states: [N, D, C], of which `head` makes logits, [P, C] to [P, V]; without it they are the logits [N, D, V].

        places: `places`, or what makes them.
        """
        self._states = states
        self._head = head
        self._places = places

    @property
    def places(self) -> torch.Tensor | None:
        """float32 [N, D], the place in the prefix's `text_ids` that each open position attends to, often between two.

        The mean under the softmax, over the row's text alone, of the alignment heads' mean score; None where the config names
        none.
        """
        if callable(self._places):
            self._places = self._places()
        return self._places

    @property
    def logits(self) -> torch.Tensor:
        """float32 [N, D, V]"""
        return self.logits_at(None).view(*self._states.shape[:2], -1)

    def logits_at(self, positions: torch.Tensor | None) -> torch.Tensor:
        """float32 [P, V] of positions int64 [P], counted through all rows (n D + d); None is all of them."""
        states = self._states.flatten(0, 1)
        states = states if positions is None else states[positions]
        return (states if self._head is None else self._head(states)).float()


class Engine(Protocol):
    """A pool of decoder rows. Not thread-safe: one thread owns it.

    Rows in one call may have any lengths and be at any block; each gets what it would get alone.
    """

    @property
    def config(self) -> T3Config: ...

    @property
    def rows_free(self) -> int: ...

    def open(self, prefixes: Sequence[Prefix]) -> list[Row]:
        """Attend to prefixes, all of them or none.

        Positions that depend on a voice alone, and null rows of a length met before, are not computed again. Raises
        `EngineFull` when too few rows are free, `TextError` when a prefix leaves no room for a block.
        """
        ...

    def score(self, rows: Sequence[Row], tokens: torch.Tensor) -> Scored:
        """Look at each row's open block: int64 [N, D] (-1 past the end of a shorter block).

        The logits of position i come from position i - 1, those of position 0 from the last clean token; its place is its own.
        What lies past a block's end is not attended to, and what is said of it, or of a null row's places, means nothing. The
        open block leaves no trace in the cache.
        """
        ...

    def commit(self, rows: Sequence[Row], blocks: Sequence[Sequence[int]]) -> None:
        """Make finished blocks the past.

        An engine may hold them back and attend to them in the forward of the next `score`, so that a commit costs no
        forward of its own; `Row.length` counts them at once.
        """
        ...

    def close(self, row: Row) -> None:
        """Give the row back. Closing twice is fine."""
        ...

    def prior(self, block_size: int) -> torch.Tensor:
        """The unconditional distribution float32 [V] of `models.t3.prior`, computed once per block size."""
        ...
