"""Streams by the hundreds, all at once, with everything that may happen to one: what is whole is whole, and nothing is left."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import numpy as np
import pytest

from cf_agents.audio import AudioChunk
from cf_agents.errors import Busy, SynthesisFailed, TextError
from cf_agents.links.base import Segment
from cf_agents.links.far import FarLink
from cf_agents.links.seats import Seat
from cf_agents.stream import Stream
from cf_agents.utterance import Speech, Utterance
from tests.fakes import SAMPLES_PER_TOKEN, fake_ids, fake_sound
from tests.links.studios import Kind, Studio, open_studio, until
from tests.links.test_links import write

pytestmark = pytest.mark.anyio

SENTENCES = (
    "Good morning, and welcome to the station. ",
    "The first train leaves at nine. ",
    "Is that clear? ",
    "The second one, which costs a little more, never does! ",
)
TOGETHER = 48
MAX_STREAMS = 32
"""Fewer than those that come, so that the house is full now and then."""
ERRORS = {"stumble": SynthesisFailed, "croak": SynthesisFailed, "explode": SynthesisFailed, "unspeakable": TextError}


@dataclass
class Course:
    """What one stream is given and what becomes of it."""

    seed: int
    source: random.Random
    segments: list[Segment] = field(default_factory=list)
    chunks: list[AudioChunk] = field(default_factory=list)

    def text(self, error: str | None) -> str:
        sentences = [self.source.choice(SENTENCES) for _ in range(self.source.randrange(1, 4))]
        if error is not None:
            sentences.insert(self.source.randrange(len(sentences) + 1), f"Now {error} please. ")
        return "".join(sentences)

    def listen_to(self, stream: Stream) -> None:
        submit = stream._session.submit

        def noted(segment: Segment) -> None:
            self.segments.append(segment)
            submit(segment)

        stream._session.submit = noted  # type: ignore[method-assign]

    def check(self, whole: bool) -> None:
        """Every segment's sound is its own, in order, up to the place where the stream ended."""
        pieces: dict[int, list[AudioChunk]] = {}
        for chunk in self.chunks:
            pieces.setdefault(chunk.segment, []).append(chunk)
        assert list(pieces) == sorted(pieces) == list(range(len(pieces)))
        assert not whole or len(pieces) == len(self.segments)
        for segment, (index, chunks) in zip(self.segments, pieces.items(), strict=False):
            sound = np.concatenate([chunk.samples for chunk in chunks])
            samples = 3 * len(fake_ids(segment.text).ids) * SAMPLES_PER_TOKEN
            done = whole or index < len(pieces) - 1
            assert [chunk.last for chunk in chunks[:-1]] == [False] * (len(chunks) - 1)
            assert chunks[-1].last == (len(sound) == samples)
            assert chunks[-1].last or not done
            made = np.rint(fake_sound(segment.seed, 0, len(sound)).astype(np.float64) * 32767).astype(np.int16)
            np.testing.assert_array_equal(sound, made)


async def follow(studio: Studio, course: Course, refused: Counter[int]) -> str:
    """One stream from its first attempt to its end. refused: how often the house was full, by seed."""
    source = course.source
    error = source.choice(sorted(ERRORS)) if source.random() < 0.2 else None
    fate = source.choice(["whole", "whole", "slow", "cancelled", "left", "task cancelled"])
    while True:
        try:
            stream = studio.stream(course.seed, lead_s=source.choice([0.3, 1e9]) if fate != "whole" else 1e9)
            break
        except Busy:
            refused[course.seed] += 1
            await anyio.sleep(source.uniform(0.0, 0.01))
    course.listen_to(stream)
    enough = source.randrange(0, 6)
    with anyio.move_on_after(source.uniform(0.0, 0.05) if fate == "task cancelled" else 600.0) as scope:
        async with stream:
            write(stream, course.text(error))
            try:
                async for chunk in stream:
                    course.chunks.append(chunk)
                    if fate == "slow":
                        await anyio.sleep(source.uniform(0.0, 0.004))
                    if fate in ("cancelled", "left", "slow") and len(course.chunks) > enough:
                        break
                else:
                    assert error is None
                    course.check(whole=True)
                    return "whole"
                if fate == "cancelled":
                    await stream.cancel()
                    assert [chunk async for chunk in stream] == []
            except (SynthesisFailed, TextError) as failure:
                fate = "failed" if error is not None and isinstance(failure, ERRORS[error]) else f"failed: {failure}"
    course.check(whole=False)
    assert fate != "whole"
    return "cut off" if scope.cancelled_caught else fate


def left_over() -> Counter[str]:
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in (Stream, Speech, Utterance, Seat))


@pytest.fixture
def nothing_is_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No thread, file or process more than before, and none of our objects."""
    caplog.set_level("CRITICAL", "cf_agents")  # its records hold on to what raised

    def count() -> tuple[object, ...]:
        threads = sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("cf-agents"))
        children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
        begun = children.read_text().split() if children.exists() else []
        return threads, begun, open_files("self"), left_over()

    before = count()
    yield
    assert count() == before


@pytest.mark.parametrize(("kind", "streams"), [("thread", 1000), ("process", 150)])
async def test_random_streams_leave_nothing(kind: Kind, streams: int, tmp_path: Path, nothing_is_left: None) -> None:
    outcomes, refused = Counter[str](), Counter[int]()
    waiting = iter(range(streams))
    source = random.Random(2026)

    async def come_and_go(studio: Studio) -> None:
        for seed in waiting:
            outcomes[await follow(studio, Course(seed, random.Random(source.random())), refused)] += 1

    async with open_studio(kind, tmp_path, max_streams=MAX_STREAMS, pool=2 * MAX_STREAMS + 2) as studio:
        files: list[int] = []
        async with anyio.create_task_group() as group:
            for _ in range(TOGETHER):
                group.start_soon(come_and_go, studio)
            if isinstance(studio.link, FarLink):
                files.append(open_files(studio.process.pid))
        await until(lambda: studio.rows_used == 0)
        if isinstance(studio.link, FarLink):
            assert open_files(studio.process.pid) == files[0]
        # All seats are free again.
        for seed in range(MAX_STREAMS):
            await studio.stream(seed).aclose()
    assert outcomes.total() == streams
    assert refused
    # How often each came about is left to chance; that each did is what makes this a soak.
    assert min(outcomes[fate] for fate in ("whole", "slow", "cancelled", "left", "cut off", "failed")) > streams / 200, outcomes


def open_files(process: object) -> int:
    """How many, where that can be seen, but for those that a studio maps."""
    folder, places = Path(f"/proc/{process}/fd"), []
    for entry in folder.iterdir() if folder.exists() else ():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            places.append(os.readlink(entry))
    return sum(Path(place).name != "board" for place in places)


async def test_memory_does_not_grow_with_the_streams_that_were(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "cf_agents")
    source = random.Random(7)
    blocks: list[int] = []
    async with open_studio("thread", tmp_path, max_streams=8, pool=18) as studio:
        for seed in range(150):
            await follow(studio, Course(seed, random.Random(source.random())), Counter())
            if seed % 50 == 49:
                gc.collect()
                blocks.append(sys.getallocatedblocks())
        assert studio.rows_used == 0
    # A stream that stayed would be thousands of blocks.
    assert blocks[2] - blocks[1] < 2000
    assert not left_over()
