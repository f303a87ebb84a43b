"""Messages survive the wire, and nothing else is taken for one."""

from __future__ import annotations

import io
import json
import math
import struct
from dataclasses import replace

import pytest

from cf_agents import errors
from cf_agents.backends import Choice
from cf_agents.config import DecodeParams
from cf_agents.errors import Busy, CfAgentsError, SynthesisFailed, TextError
from cf_agents.links.base import Audio, Block, Closed, Failed, Segment
from cf_agents.links.wire import (
    MAX_BLOB_BYTES,
    Close,
    Forget,
    Happened,
    Hello,
    Know,
    LoadFailed,
    Message,
    Open,
    Position,
    Progress,
    Ready,
    Submit,
    WireError,
    encode,
    read_message,
)
from cf_agents.serving import Served

BLOCK = Block(16, 7, 12.000000000000123, 12.5, 13.25)
MESSAGES: list[Message] = [
    Hello(),
    Progress("Reading the decoder"),
    Ready(24_000, 8, {"why": "é"}),
    Ready(24_000, 8, Served("x y", Choice("dense", "cpu", "float32", "as asked"))),
    Know("0f", bytes(range(256)) * 100),
    Forget("0f"),
    Open(2**40, "0f", math.inf),
    Submit(1, Segment(3, "naïve 😀", replace(DecodeParams(), max_tokens=5, prior="marginal", temperature=0.1), 2**63 - 1)),
    Position(0, 0.1 + 0.2),
    Close(0),
    Happened(1, Audio(0, b"\x00\xff" * 999, False, BLOCK)),
    Happened(1, Audio(0, b"", True, BLOCK)),
    Happened(1, Audio(0, b"\x01\x02", True, BLOCK, (0.25, 3.0, 2.99))),
    Happened(1, Audio(0, b"", True, BLOCK, ())),
    Happened(1, Closed()),
]
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CfAgentsError)]


def read_all(data: bytes) -> list[Message]:
    file, found = io.BytesIO(data), []
    while (message := read_message(file.read)) is not None:
        found.append(message)
    return found


def test_messages_arrive_as_they_were() -> None:
    assert read_all(b"".join(map(encode, MESSAGES))) == MESSAGES
    assert {type(message) for message in MESSAGES} == set(Message.__args__) - {LoadFailed}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_arrive_with_their_type_and_words(kind: type[CfAgentsError]) -> None:
    sent = Busy("Come back.", 1.5) if kind is Busy else kind("Come back.")
    (first, second) = read_all(encode(Happened(4, Failed(sent))) + encode(LoadFailed(sent)))
    assert isinstance(first, Happened)
    assert isinstance(first.event, Failed)
    assert isinstance(second, LoadFailed)
    for error in (first.event.error, second.error):
        assert type(error) is kind
        assert str(error) == "Come back."
        assert not isinstance(error, Busy) or error.retry_after_s == 1.5


def test_an_error_of_somebody_elses_arrives_as_the_nearest_of_ours() -> None:
    class MyTextError(TextError):
        pass

    (got,) = read_all(encode(LoadFailed(MyTextError("No."))))
    assert isinstance(got, LoadFailed)
    assert type(got.error) is TextError


def frame(header: object, blob: bytes = b"") -> bytes:
    data = json.dumps(header).encode()
    return struct.pack("<II", len(data), len(blob)) + data + blob


SEGMENT = ["Segment", 0, "Hi.", ["DecodeParams", 8, 0.2, 0.5, 1.0, 0.5, 1.0, "causal", None, None, 3], 5]


@pytest.mark.parametrize(
    "data",
    [
        b"\x01",
        encode(Close(0))[:-1],
        encode(Know("a", b"12345"))[:-1],
        struct.pack("<II", 2**31, 0),
        struct.pack("<II", 2, MAX_BLOB_BYTES + 1),
        struct.pack("<II", 3, 0) + b"\xff{}",
        frame(3),
        frame({"session": 1}),
        frame([]),
        frame([[]]),
        frame(["Path"]),
        frame(["Close"]),
        frame(["Close", 1, 2]),
        frame(["Close", "1"]),
        frame(["Close", True]),
        frame(["Close", [1]]),
        frame(["Block", 1, 1, 0, 0, 0]),
        frame(["Open", 1, "0f", "2"]),
        frame(["Open", 1, None, 2.0]),
        frame(["Submit", 1, [*SEGMENT[:2], 7, *SEGMENT[3:]]]),
        frame(["Submit", 1, [*SEGMENT[:3], ["DecodeParams", 0, 0.2, 0.5, 1.0, 0.5, 1.0, "causal", None, None, 3], 5]]),
        frame(["Submit", 1, [*SEGMENT[:3], ["DecodeParams", 8, 0.2, 0.5, 1.0, 0.5, 1.0, "usual", None, None, 3], 5]]),
        frame(["Submit", 1, [*SEGMENT[:3], None, 5]]),
        frame(["Submit", 1, [*SEGMENT[:4], 5.5]]),
        frame(["Happened", 1, ["Close", 1]]),
        frame(["Happened", 1, ["Failed", "no"]]),
        frame(["Happened", 1, ["Failed", ["TextError", "no", []]]]),
        frame(["call", "os.system", "true"]),
        struct.pack("<II", 100_000, 0) + b"[" * 100_000,
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        read_all(data)


def test_what_is_refused_is_else_a_message() -> None:
    """The cases above fail for what is wrong in them, and not for their form."""
    (got,) = read_all(frame(["Submit", 1, SEGMENT]))
    assert got == Submit(1, Segment(0, "Hi.", replace(DecodeParams.preset("paper"), guidance=1.0), 5))


def test_frames_are_bounded_where_they_are_made() -> None:
    with pytest.raises(WireError, match="bounds"):
        encode(Know("a", bytes(MAX_BLOB_BYTES + 1)))


def test_an_unknown_error_is_still_one() -> None:
    (got,) = read_all(frame(["LoadFailed", ["FromTheFuture", "Hm.", {}]]))
    assert isinstance(got, LoadFailed)
    assert type(got.error) is SynthesisFailed
