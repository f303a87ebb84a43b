"""Plain data as JSON, by its types: how a value of a kind is written, and what is taken for one when it is read.

    dataclass     ["Kind", field, field, ...]          CfAgentsError   ["Kind", message, {what else it carries}]
    tuple         [value, ...]                         bytes           null; the bytes go into the blob
    the rest      as JSON has it; int, float, str, bool, None, Literal, Mapping[str, object]

What is read is checked: a field of another type than its annotation is refused, so whoever has the value need not look again.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from cf_agents import errors
from cf_agents.errors import CfAgentsError, SynthesisFailed

_ERRORS: Mapping[str, type[CfAgentsError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, CfAgentsError)
}


class NotOfKind(Exception):
    """What was read is not a value of the type."""


@dataclass(frozen=True)
class Codec:
    """One type's. plain: a value for JSON; its bytes are appended to the blobs. value: the way back, with the blob.

    `value` raises `NotOfKind`, and what the constructor of a dataclass raises.
    """

    plain: Callable[[object, list[bytes]], object]
    value: Callable[[object, bytes], object]
    tags: tuple[str, ...] = ()
    """How what is written begins, where a list is written that says what it is."""


def codec(kind: object) -> Codec:
    """The codec of a type, made of those of its parts."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _union([(part, codec(part)) for part in parts])
    if origin is Literal:
        return _checked(lambda plain: plain in parts and type(plain) in map(type, parts), kind)
    if origin is tuple and len(parts) == 2 and parts[1] is ...:
        return _tuple(codec(parts[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _checked(lambda plain: type(plain) is dict, kind)
    if kind is float:
        return _checked(lambda plain: type(plain) in (float, int), kind)
    if kind in (int, str, bool, type(None)):
        return _checked(lambda plain: type(plain) is kind, kind)
    if kind is bytes:
        return Codec(_put_blob, lambda plain, blob: blob)
    if kind is CfAgentsError:
        return Codec(_plain_error, _error, tuple(_ERRORS))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind)
    raise AssertionError(f"{kind} cannot be part of a message")


def _checked(good: Callable[[object], bool], kind: object) -> Codec:
    def value(plain: object, blob: bytes) -> object:
        if not good(plain):
            raise NotOfKind(f"{plain!r:.100} is no {kind}")
        return plain

    return Codec(lambda value, blobs: value, value)


def _put_blob(value: object, blobs: list[bytes]) -> None:
    assert isinstance(value, bytes)
    blobs.append(value)


def _tuple(part: Codec) -> Codec:
    def plain(value: object, blobs: list[bytes]) -> object:
        assert isinstance(value, tuple)
        return [part.plain(each, blobs) for each in value]

    def value(plain: object, blob: bytes) -> object:
        if type(plain) is not list:
            raise NotOfKind(f"{plain!r:.100} is no tuple")
        return tuple([part.value(each, blob) for each in plain])

    return Codec(plain, value)


def _dataclass(kind: type) -> Codec:
    hints = typing.get_type_hints(kind)
    name = kind.__name__
    fields = [(field.name, codec(hints[field.name])) for field in dataclasses.fields(kind)]

    def plain(value: object, blobs: list[bytes]) -> object:
        return [name, *[part.plain(getattr(value, field), blobs) for field, part in fields]]

    def value(plain: object, blob: bytes) -> object:
        if type(plain) is not list or len(plain) != len(fields) + 1 or plain[0] != name:
            raise NotOfKind(f"{plain!r:.100} is no {name}")
        return kind(*[part.value(each, blob) for (_, part), each in zip(fields, plain[1:], strict=True)])

    return Codec(plain, value, (name,))


def _union(parts: list[tuple[object, Codec]]) -> Codec:
    by_class = {kind: part for kind, part in parts if isinstance(kind, type)}
    by_tag = {tag: part for _, part in parts for tag in part.tags}
    others = [(kind, part) for kind, part in parts if not part.tags]

    def plain(value: object, blobs: list[bytes]) -> object:
        part = by_class.get(type(value))
        return value if part is None else part.plain(value, blobs)

    def value(plain: object, blob: bytes) -> object:
        if type(plain) is list and plain and type(plain[0]) is str and plain[0] in by_tag:
            return by_tag[plain[0]].value(plain, blob)
        for _, part in others:
            try:
                return part.value(plain, blob)
            except NotOfKind:
                continue
        raise NotOfKind(f"{plain!r:.100} is none of {', '.join(str(kind) for kind, _ in parts)}")

    return Codec(plain, value, tuple(by_tag))


def _plain_error(value: object, blobs: list[bytes]) -> object:
    # An error of somebody else's arrives as the nearest of ours.
    kind = next(base.__name__ for base in type(value).__mro__ if _ERRORS.get(base.__name__) is base)
    state = {name: each for name, each in vars(value).items() if isinstance(each, (str, int, float))}
    return [kind, str(value), state]


def _error(plain: object, blob: bytes) -> CfAgentsError:
    match plain:
        case [str(name), str(message), dict(state)]:
            kind = _ERRORS.get(name, SynthesisFailed)
            # Past __init__: what it takes beside the message is in the state.
            error = kind.__new__(kind, message)
            vars(error).update(state)
            return error
    raise NotOfKind(f"{plain!r:.100} is no error")
