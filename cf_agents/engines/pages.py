"""A pool of cache pages: who uses which, counted, so that rows may share what they have in common.

Knows nothing of tensors, rows or attention: a page is a number.
"""

from __future__ import annotations

from collections.abc import Sequence

from cf_agents.errors import EngineFull

ZERO_PAGE = 0
"""Holds zeros for ever: what the zero prefix of every null row is made of, whatever its length."""
SCRATCH_PAGE = 1
"""Takes what nobody reads: the writes of padding."""
_RESERVED = 2


class PagePool:
    """Numbers 0 to `pages - 1`; the first two are set apart for good and may be shared without counting."""

    def __init__(self, pages: int) -> None:
        assert pages > _RESERVED, "a pool has pages to give"
        self.pages = pages
        self._free = list(range(pages - 1, _RESERVED - 1, -1))
        self._users = [0] * pages

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """`count` pages with one user each, all of them or none. Raises `EngineFull`."""
        if count > len(self._free):
            raise EngineFull(
                f"{count} cache pages are needed and {len(self._free)} of {self.pages - _RESERVED} are free: "
                "close a stream, or load with a larger max_streams."
            )
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self._users[page] = 1
        return taken

    def share(self, pages: Sequence[int]) -> None:
        """One more user for each of `pages`."""
        for page in pages:
            if page >= _RESERVED:
                assert self._users[page] > 0, "a free page cannot be shared"
                self._users[page] += 1

    def give_back(self, pages: Sequence[int]) -> None:
        """One user less for each of `pages`; a page without users is free."""
        for page in pages:
            if page >= _RESERVED:
                assert self._users[page] > 0, "a page was given back twice"
                self._users[page] -= 1
                if self._users[page] == 0:
                    self._free.append(page)
