"""What every pool of rows does the same way: refuse what does not fit, and remember what rows share.

Knows nothing of tensors, so that a back-end of any library can use it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cf_agents.config import T3Config
from cf_agents.engines.base import Prefix
from cf_agents.errors import EngineFull, TextError

MOST_VOICES = 32
"""Voices whose prefix an engine remembers."""
MOST_NULLS = 512
"""Lengths whose null prefix an engine remembers."""

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class Recent(Generic[_Key, _Value]):
    """The last `most` values that were asked for or put in. `dropped` is told of each that goes."""

    def __init__(self, most: int, dropped: Callable[[_Value], None] | None = None) -> None:
        self._most = most
        self._dropped = dropped
        self._values: OrderedDict[_Key, _Value] = OrderedDict()

    def get(self, key: _Key) -> _Value | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: _Key, value: _Value) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._most:
            self.drop_oldest()

    def clear(self) -> None:
        """Let all of them go."""
        while self.drop_oldest():
            pass

    def drop_oldest(self) -> bool:
        """Let the value go that was not asked for the longest; False where there is none."""
        if not self._values:
            return False
        _, value = self._values.popitem(last=False)
        if self._dropped is not None:
            self._dropped(value)
        return True


def heads_by_layer(config: T3Config) -> dict[int, list[int]]:
    """The config's alignment heads, by the layer they are in."""
    layers: dict[int, list[int]] = {}
    for layer, head in config.alignment_heads:
        layers.setdefault(layer, []).append(head)
    return layers


def check_free(wanted: int, free: int, of: int) -> None:
    """Raise `EngineFull` when fewer than `wanted` rows are free."""
    if wanted > free:
        raise EngineFull(
            f"{wanted} decoder rows are needed and {free} of {of} are free: close a stream, or load with a larger max_streams."
        )


def check_prefix(prefix: Prefix, config: T3Config, max_length: int) -> None:
    """Raise `TextError` for a prefix longer than the model takes, or that leaves a row no room for a block."""
    if len(prefix.text_ids) > config.max_text_tokens:
        raise TextError(
            f"The segment has {len(prefix.text_ids)} text tokens; the model takes {config.max_text_tokens}. Split it."
        )
    needed = config.conditioning_length + len(prefix.text_ids) + 1 + config.block_size
    if needed > max_length:
        raise TextError(
            f"The segment has {len(prefix.text_ids)} text tokens and a row has {max_length} places, which leaves "
            "no room for speech: split the text, or load with a larger max_length."
        )
