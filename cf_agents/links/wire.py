"""What crosses a socket between a link and the process that speaks, and how it is written down.

    frame:  header bytes (u32) | blob bytes (u32) | header, JSON | blob

Little-endian. A header is one message: its kind and its plain fields, nested, or tuples of them. The one `bytes` field that a
message may have is the blob as it is. Nothing that runs is ever read. Knows nothing of sockets, threads or models.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cf_agents import errors
from cf_agents.backends import Choice
from cf_agents.config import DecodeParams
from cf_agents.errors import CfAgentsError, SynthesisFailed
from cf_agents.links.base import Audio, Block, Closed, Event, Failed, Segment
from cf_agents.serving import Served

WIRE_VERSION = 2
"""Goes up with every change of a message. Both ends are the same installation, until one is upgraded under a running agent."""
MAX_HEADER_BYTES = 4 * 2**20
MAX_BLOB_BYTES = 65 * 2**20
"""The largest voice file, and a little more."""

_LENGTHS = struct.Struct("<II")


class WireError(Exception):
    """The other end does not keep to the format. Nothing more can be read from it."""


@dataclass(frozen=True)
class Hello:
    """The first message of both ends."""

    version: int = WIRE_VERSION


@dataclass(frozen=True)
class Progress:
    """To the link: what loading is at."""

    message: str


@dataclass(frozen=True)
class Ready:
    """To the link: speech can begin. about: what the factory says of what it built, plain or a `Served`."""

    sample_rate: int
    max_streams: int
    about: object


@dataclass(frozen=True)
class LoadFailed:
    """To the link: the last message of a process that has nothing to speak with, or not for this client."""

    error: CfAgentsError


@dataclass(frozen=True)
class Know:
    """To what speaks: a voice as `Voice.to_bytes` wrote it, sent once and then named by its digest."""

    digest: str
    data: bytes


@dataclass(frozen=True)
class Forget:
    """To what speaks: no session will ask for this voice again."""

    digest: str


@dataclass(frozen=True)
class Open:
    """To what speaks: begin a session."""

    session: int
    digest: str
    lead_s: float


@dataclass(frozen=True)
class Submit:
    """To what speaks: `Session.submit`."""

    session: int
    segment: Segment


@dataclass(frozen=True)
class Position:
    """To what speaks: `Session.report_position`."""

    session: int
    seconds: float


@dataclass(frozen=True)
class Close:
    """To what speaks: `Session.close`."""

    session: int


@dataclass(frozen=True)
class Happened:
    """To the link: an event of a session."""

    session: int
    event: Event


Message = Hello | Progress | Ready | LoadFailed | Know | Forget | Open | Submit | Position | Close | Happened

_PARTS = (*typing.get_args(Message), Served, Choice, Segment, DecodeParams, Audio, Block, Failed, Closed)
_KINDS: Mapping[str, type] = {kind.__name__: kind for kind in _PARTS}
_ERRORS: Mapping[str, type[CfAgentsError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, CfAgentsError)
}


def encode(message: Message) -> bytes:
    """A message as one frame. Raises `WireError` for one past the bounds."""
    blobs: list[bytes] = []
    header = json.dumps(_plain(message, blobs), separators=(",", ":")).encode()
    assert len(blobs) <= 1, "a message has one field of bytes at most"
    blob = blobs[0] if blobs else b""
    _check(len(header), len(blob))
    return b"".join((_LENGTHS.pack(len(header), len(blob)), header, blob))


def read_message(read: Callable[[int], bytes]) -> Message | None:
    """The next message of a stream of bytes; None where it ends between two. Raises `WireError` for anything else.

    read: gives so many bytes, and less only at the end.
    """
    lengths = read(_LENGTHS.size)
    if not lengths:
        return None
    if len(lengths) < _LENGTHS.size:
        raise WireError("the stream ended within a frame")
    header_bytes, blob_bytes = _LENGTHS.unpack(lengths)
    _check(header_bytes, blob_bytes)
    header, blob = read(header_bytes), read(blob_bytes)
    if len(header) < header_bytes or len(blob) < blob_bytes:
        raise WireError("the stream ended within a frame")
    try:
        message = _object(json.loads(header), blob)
    except (CfAgentsError, KeyError, TypeError, ValueError) as error:
        raise WireError(f"no message: {error!r}") from error
    if not isinstance(message, Message):
        raise WireError(f"no message: {type(message).__name__}")
    return message


def _check(header_bytes: int, blob_bytes: int) -> None:
    if header_bytes > MAX_HEADER_BYTES or blob_bytes > MAX_BLOB_BYTES:
        raise WireError(f"a frame of {header_bytes} and {blob_bytes} bytes is past the bounds")


def _plain(value: object, blobs: list[bytes]) -> object:
    """A value for JSON. Objects become lists of their kind and their fields by name; a plain dictionary stays one."""
    if isinstance(value, bytes):
        blobs.append(value)
        return ["bytes"]
    if isinstance(value, CfAgentsError):
        # An error of somebody else's arrives as the nearest of ours.
        kind = next(base.__name__ for base in type(value).__mro__ if _ERRORS.get(base.__name__) is base)
        state = {name: each for name, each in vars(value).items() if isinstance(each, (str, int, float))}
        return ["error", kind, str(value), state]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        assert _KINDS.get(type(value).__name__) is type(value), f"{type(value).__name__} is no part of a message"
        fields = {field.name: _plain(getattr(value, field.name), blobs) for field in dataclasses.fields(value)}
        return ["object", type(value).__name__, fields]
    if isinstance(value, tuple):
        return ["tuple", *(_plain(each, blobs) for each in value)]
    return value


def _object(value: object, blob: bytes) -> object:
    match value:
        case ["bytes"]:
            return blob
        case ["error", str(name), str(message), dict(state)]:
            kind = _ERRORS.get(name, SynthesisFailed)
            # Past __init__: what it takes beside the message is in the state.
            error = kind.__new__(kind, message)
            vars(error).update(state)
            return error
        case ["tuple", *parts]:
            return tuple(_object(each, blob) for each in parts)
        case ["object", str(name), dict(fields)]:
            return _KINDS[name](**{key: _object(each, blob) for key, each in fields.items()})
        case list():
            raise WireError(f"no value: {value!r}")
    return value
