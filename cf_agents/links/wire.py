"""What crosses a socket between a link and the process that speaks, and how it is written down.

    frame:  header bytes (u32) | blob bytes (u32) | header, JSON | blob

Little-endian. A header is one message: its kind and its plain fields, nested, or tuples of them. The one `bytes` field that a
message may have is the blob as it is. Nothing that runs is ever read. Knows nothing of sockets, threads or models.
"""

from __future__ import annotations

import json
import struct
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cf_agents.errors import CfAgentsError
from cf_agents.links.base import Event, Segment
from cf_agents.links.codec import NotOfKind, codec
from cf_agents.serving import Served

WIRE_VERSION = 5
"""Goes up with every change of a message. Both ends are the same installation, until one is upgraded under a running agent."""
MAX_HEADER_BYTES = 4 * 2**20
MAX_BLOB_BYTES = 65 * 2**20
"""The largest voice file, and a little more."""

About: TypeAlias = Served | Mapping[str, object]
"""What is said of what speaks in a process."""

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
    """To the link: speech can begin. about: what the factory says of what it built; a mapping is plain JSON."""

    sample_rate: int
    max_streams: int
    about: About


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

_CODEC = codec(Message)


def encode(message: Message) -> bytes:
    """A message as one frame. Raises `WireError` for one past the bounds."""
    blobs: list[bytes] = []
    header = json.dumps(_CODEC.plain(message, blobs), separators=(",", ":")).encode()
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
        return typing.cast(Message, _CODEC.value(json.loads(header), blob))
    except (CfAgentsError, NotOfKind, RecursionError, ValueError) as error:
        raise WireError(f"no message: {error!r}") from error


def _check(header_bytes: int, blob_bytes: int) -> None:
    if header_bytes > MAX_HEADER_BYTES or blob_bytes > MAX_BLOB_BYTES:
        raise WireError(f"a frame of {header_bytes} and {blob_bytes} bytes is past the bounds")
