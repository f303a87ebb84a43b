"""A link over fakes, in this process, in a child or in a server, with a view of what is inside, for tests run over all of them.

What the far side shows and is told goes through a small file that both processes map.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import anyio

from cf_agents.config import DecodeParams
from cf_agents.engines.base import Prefix
from cf_agents.errors import BackendUnavailable, CheckpointDamaged, TextError
from cf_agents.links.attached import AttachedLink, Start
from cf_agents.links.far import FarLink
from cf_agents.links.host import Speaker
from cf_agents.links.process import ProcessLink
from cf_agents.links.thread import ThreadLink
from cf_agents.scheduler import Scheduler
from cf_agents.stream import Stream
from cf_agents.text_ids import TextIds
from tests.fakes import SAMPLE_RATE, FakeDecoder, FakeVocoder, fake_ids, fake_voice

Kind = Literal["thread", "process", "attached"]

_MARKS = {"stumble": 777, "croak": 888}
FACTORY = "tests.links.studios:build"
_ROWS, _STEPS, _STEP_S, _VOICES = (slice(at, at + 8) for at in range(0, 32, 8))


class Board:
    """Four numbers in a file: rows in use, steps taken, seconds that a step burns, voices prepared."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(32))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 32)

    def read(self, place: slice) -> float:
        return struct.unpack("d", self._map[place])[0]

    def write(self, place: slice, value: float) -> None:
        self._map[place] = struct.pack("d", value)

    def close(self) -> None:
        self._map.close()


class BoardDecoder(FakeDecoder):
    """Writes its rows and steps on a board, and reads from it how long a step takes."""

    def __init__(self, board: Board, pool: int) -> None:
        self.board = board
        super().__init__(pool)
        self.on_step = self._look

    def _look(self, seeds: list[int]) -> None:
        self.step_s = self.board.read(_STEP_S)
        self.board.write(_STEPS, self.board.read(_STEPS) + 1)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "rows_free" and isinstance(value, int):
            self.board.write(_ROWS, self.pool - value)


def tokenise(text: str) -> TextIds:
    """`fake_ids`. Some words stand for errors: of the text, of opening, of a step, of the vocoder."""
    if "unspeakable" in text:
        raise TextError("This cannot be said.")
    if "explode" in text:
        return TextIds(text, (666,), (0,))
    ids = fake_ids(text)
    for word, mark in _MARKS.items():
        if word in text:
            return TextIds(text, (mark, *ids.ids[1:]), ids.starts)
    return ids


def build(arguments: Mapping[str, object], progress: Callable[[str], None]) -> Speaker:
    """The factory, wherever it runs. In the arguments, `error`: fail so; `once`: a file that makes the second load fail;
    `builds`: a file that grows by a byte each time."""
    progress("Building fakes")
    if "builds" in arguments:
        with Path(str(arguments["builds"])).open("ab") as file:
            file.write(b".")
    match arguments.get("error"):
        case "damaged":
            raise CheckpointDamaged("t3.safetensors is truncated; download it again.")
        case "untyped":
            raise RuntimeError("no kernel image")
        case "slow":
            time.sleep(60)
    once = arguments.get("once")
    if once is not None:
        if Path(str(once)).exists():
            raise BackendUnavailable("The device is gone.")
        Path(str(once)).write_text("")
    board, pool = Board(Path(str(arguments["board"]))), arguments.get("pool", 64)
    assert isinstance(pool, int)
    board.write(_ROWS, 0)
    decoder, vocoder = BoardDecoder(board, pool), FakeVocoder()

    look, unwell = decoder.on_step, {mark: set[int]() for mark in _MARKS.values()}

    def on_open(prefix: Prefix, seed: int) -> None:
        if prefix.text_ids == (666,):
            raise RuntimeError("cuBLAS is unwell")
        if prefix.text_ids[0] in unwell:
            unwell[prefix.text_ids[0]].add(seed)

    def refuse(mark: int, seeds: list[int]) -> None:
        if not unwell[mark].isdisjoint(seeds):
            raise RuntimeError("the device is unwell")

    def on_step(seeds: list[int]) -> None:
        look(seeds)
        refuse(_MARKS["stumble"], seeds)

    decoder.on_open, decoder.on_step = on_open, on_step
    vocoder.on_step = lambda seeds: refuse(_MARKS["croak"], seeds)
    vocoder.on_open = lambda seed: board.write(_VOICES, len(vocoder.prepared))
    max_streams = arguments.get("max_streams", 64)
    assert isinstance(max_streams, int)
    link = ThreadLink(Scheduler(decoder, vocoder, SAMPLE_RATE), tokenise, SAMPLE_RATE, max_streams)
    return Speaker(link, {"pool": pool})


def accept(about: object) -> None:
    """The check of a link that takes what there is."""


class Studio:
    """A link of any kind and its board. idle_s: of the server, for the attached kind."""

    def __init__(self, kind: Kind, folder: Path, idle_s: float = 0.05, **arguments: object) -> None:
        self.board = Board(folder / "board")
        arguments["board"] = str(folder / "board")
        self.told: list[str] = []
        self.link: ThreadLink | FarLink
        if kind == "thread":
            self.link = build(arguments, self.told.append).link
        elif kind == "process":
            self.link = ProcessLink(FACTORY, arguments, self.told.append)
        else:
            start = Start(FACTORY, arguments, idle_s)
            self.link = AttachedLink(folder / "socket", start, self.told.append, accept)
        if isinstance(self.link, FarLink):
            self.link.wait()

    def stream(self, seed: int = 7, lead_s: float = 1e9, steps: int = 2, name: str = "fake") -> Stream:
        return Stream(self.link, fake_voice(name), params=DecodeParams(steps=steps), seed=seed, lead_s=lead_s)

    @property
    def rows_used(self) -> int:
        return int(self.board.read(_ROWS))

    @property
    def steps(self) -> int:
        return int(self.board.read(_STEPS))

    @property
    def voices_prepared(self) -> int:
        return int(self.board.read(_VOICES))

    def burn(self, step_s: float) -> None:
        """Let every step take this long from now on."""
        self.board.write(_STEP_S, step_s)

    @property
    def process(self) -> ProcessLink:
        assert isinstance(self.link, ProcessLink)
        return self.link

    @property
    def attached(self) -> AttachedLink:
        assert isinstance(self.link, AttachedLink)
        return self.link


@asynccontextmanager
async def open_studio(kind: Kind, folder: Path, idle_s: float = 0.05, **arguments: object) -> AsyncIterator[Studio]:
    studio = await anyio.to_thread.run_sync(lambda: Studio(kind, folder, idle_s, **arguments))
    try:
        yield studio
    finally:
        await studio.link.aclose()


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that tells nobody, on another thread or in another process."""
    with anyio.fail_after(60):
        while not true():  # noqa: ASYNC110
            await anyio.sleep(0.002)
