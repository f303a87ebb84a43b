"""What a stream may rely on, whichever link it has: every test runs over a scheduler in this
process, one in a child and one in a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import numpy as np
import pytest

from cf_agents.audio import AudioChunk
from cf_agents.config import DecodeParams
from cf_agents.errors import Busy, StreamClosed, SynthesisFailed, TextError
from cf_agents.links.base import Audio, Closed, Event, Failed, Segment
from cf_agents.stream import Stream, _segment_seed
from tests.fakes import SAMPLE_RATE, fake_sound, fake_voice
from tests.links.studios import Kind, Studio, open_studio, until

pytestmark = pytest.mark.anyio

TEXT = "Good morning, and welcome to the station. The first train leaves at nine; the second, which costs more, never does! "


@pytest.fixture(params=["thread", "process", "attached"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind], Studio]]:
    """One of each for all tests and for both event loops: a link belongs to no loop."""
    opened: dict[Kind, Studio] = {}

    def get(kind: Kind) -> Studio:
        if kind not in opened:
            opened[kind] = Studio(kind, tmp_path_factory.mktemp(kind))
        return opened[kind]

    yield get
    for studio in opened.values():
        studio.link.close()


@pytest.fixture
def studio(shared: Callable[[Kind], Studio], kind: Kind) -> Iterator[Studio]:
    opened = shared(kind)
    opened.burn(0.0)
    assert opened.rows_used == 0
    yield opened
    assert opened.rows_used == 0


class Listener:
    """The events of a session."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.over = anyio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Closed):
            self.over.set()

    async def until(self, count: int) -> None:
        await until(lambda: len(self.events) >= count)


async def collect(stream: Stream) -> list[AudioChunk]:
    return [chunk async for chunk in stream]


def write(stream: Stream, text: str) -> Stream:
    for at in range(0, len(text), 7):
        stream.write(text[at : at + 7])
    stream.end()
    return stream


def check_sound(chunks: list[AudioChunk], seed: int) -> None:
    """Every segment's sound is what its seed makes, once and in order."""
    order = [chunk.segment for chunk in chunks]
    assert order == sorted(order)
    for segment in sorted(set(order)):
        pieces = [chunk for chunk in chunks if chunk.segment == segment]
        assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        sound = np.concatenate([piece.samples for piece in pieces])
        made = np.rint(fake_sound(_segment_seed(seed, segment), 0, len(sound)).astype(np.float64) * 32767).astype(np.int16)
        np.testing.assert_array_equal(sound, made)


async def test_a_session_gives_its_segments_in_order_and_then_closes(studio: Studio) -> None:
    listener = Listener()
    session = studio.link.open(fake_voice(), 1e9, listener)
    for index, seed in enumerate((11, 22)):
        session.submit(Segment(index, "eight ch", DecodeParams(steps=3), seed))
    await listener.until(4)
    session.close()
    session.close()
    await listener.over.wait()
    *audio, closed = listener.events
    assert closed == Closed()
    pieces = [event for event in audio if isinstance(event, Audio)]
    assert [(piece.segment, piece.last, piece.block.tokens, piece.block.steps) for piece in pieces] == [
        (0, False, 4, 3),
        (0, True, 2, 3),
        (1, False, 4, 3),
        (1, True, 2, 3),
    ]
    now = time.monotonic()
    assert all(now - 10 < p.block.began_s <= p.block.decoded_s <= p.block.sent_s < now for p in pieces)
    assert [b"".join(p.pcm for p in pieces if p.segment == index) for index in (0, 1)] == [
        np.rint(fake_sound(seed, 0, 6 * 960).astype(np.float64) * 32767).astype("<i2").tobytes() for seed in (11, 22)
    ]
    assert studio.link.sample_rate == SAMPLE_RATE
    await anyio.sleep(0.02)
    assert listener.events[-1] == Closed()
    assert listener.events.count(Closed()) == 1


async def test_nothing_comes_back_while_a_method_runs(studio: Studio) -> None:
    listener = Listener()
    session = studio.link.open(fake_voice(), 1.0, listener)
    session.submit(Segment(0, "unspeakable", DecodeParams(), 1))
    assert listener.events == []
    await listener.until(1)
    (failed,) = listener.events
    assert isinstance(failed, Failed)
    assert type(failed.error) is TextError
    session.close()
    await listener.over.wait()


async def test_many_streams_speak_at_once(studio: Studio) -> None:
    sounds: dict[int, list[AudioChunk]] = {}

    async def one(seed: int) -> None:
        async with studio.stream(seed) as stream:
            sounds[seed] = await collect(write(stream, TEXT))

    async with anyio.create_task_group() as group:
        for seed in range(8):
            group.start_soon(one, seed)
    for seed, chunks in sounds.items():
        check_sound(chunks, seed)
        assert "".join(word.text for chunk in chunks for word in chunk.words) == TEXT.rstrip() + " "
    assert len({b"".join(chunk.pcm for chunk in chunks) for chunks in sounds.values()}) == 8


async def test_cancel_frees_the_rows_and_delivers_nothing_more(studio: Studio) -> None:
    studio.burn(0.005)
    async with studio.stream(1) as cancelled, studio.stream(2) as other:
        write(cancelled, TEXT * 20)
        write(other, TEXT)
        await anext(cancelled)
        await cancelled.cancel()
        assert [chunk async for chunk in cancelled] == []
        await until(lambda: studio.rows_used <= 4)
        check_sound(await collect(other), 2)


async def test_after_aclose_the_rows_are_free(studio: Studio) -> None:
    studio.burn(0.01)
    async with studio.stream() as stream:
        write(stream, TEXT * 20)
        await anext(stream)
        assert studio.rows_used
    assert studio.rows_used == 0


async def test_an_error_of_one_stream_is_its_own(studio: Studio) -> None:
    async with studio.stream(1) as bad, studio.stream(2) as good:
        write(bad, "Please explode.")
        write(good, TEXT)
        with pytest.raises(SynthesisFailed, match="RuntimeError: cuBLAS is unwell"):
            await collect(bad)
        check_sound(await collect(good), 2)


async def test_text_the_model_cannot_take_is_a_typed_error(studio: Studio) -> None:
    async with studio.stream() as stream:
        with pytest.raises(TextError, match="cannot be said"):
            await collect(write(stream, "An unspeakable thing."))


async def test_synthesis_keeps_to_the_lead_and_to_the_position_reported(studio: Studio) -> None:
    """The lead is far longer than the test takes, on any machine: only a report can bring more than one lead of audio."""
    began = time.monotonic()
    async with studio.stream(lead_s=60.0) as stream:
        write(stream, TEXT * 60)
        await until(lambda: stream.stats.audio_s > 60.0)
        made = stream.stats.audio_s
        # A block of 0.16 s is begun while the lead is within bounds.
        assert made < 60.0 + 0.16 + time.monotonic() - began
        async for chunk in stream:
            if chunk.start_s + chunk.duration_s >= made:
                break
        stream.report_position(made)
        await until(lambda: stream.stats.audio_s > made + 59.0)


async def test_closing_the_link_ends_its_streams(kind: Kind, tmp_path: Path) -> None:
    async with open_studio(kind, tmp_path) as studio:
        studio.burn(0.002)
        async with studio.stream() as stream:
            write(stream, TEXT * 50)
            await anext(stream)
            await studio.link.aclose()
            await studio.link.aclose()
            with pytest.raises(StreamClosed):
                await collect(stream)
        with pytest.raises(StreamClosed, match=r"TTS\.load"):
            studio.stream()


async def test_cancels_at_any_time_leave_nothing(studio: Studio) -> None:
    random = np.random.default_rng(5)

    async def one(seed: int, wait_s: float) -> None:
        async with studio.stream(seed) as stream:
            write(stream, TEXT)
            with anyio.move_on_after(wait_s):
                check_sound(await collect(stream), seed)

    async with anyio.create_task_group() as group:
        for seed in range(60):
            group.start_soon(one, seed, float(random.uniform(0.0, 0.1)))
            await anyio.sleep(float(random.uniform(0.0, 0.01)))
    assert studio.rows_used == 0


async def test_a_loop_that_ends_without_closing_gives_the_rows_back(studio: Studio, anyio_backend_name: str) -> None:
    studio.burn(0.002)
    left: list[Stream] = []

    async def forget() -> None:
        left.append(write(studio.stream(), TEXT * 50))
        await anext(left[0])

    await anyio.to_thread.run_sync(lambda: anyio.run(forget, backend=anyio_backend_name))
    await until(lambda: not studio.rows_used)
    left[0]._released = True


async def test_a_full_house_says_busy_at_once_and_a_cancel_makes_room_at_once(kind: Kind, tmp_path: Path) -> None:
    async with open_studio(kind, tmp_path, max_streams=2, pool=4) as studio:
        assert studio.link.max_streams == 2
        studio.burn(0.001)
        async with studio.stream(1) as first, studio.stream(2) as second:
            write(first, TEXT)
            await anext(first)
            with pytest.raises(Busy, match="max_streams") as caught:
                studio.stream(3)
            assert 0.0 < caught.value.retry_after_s < 10.0
            await second.cancel()
            async with studio.stream(4) as third:
                check_sound(await collect(write(third, TEXT)), 4)
            await collect(first)
        # One that has said all leaves by itself, and so does one that failed.
        done, failed = studio.stream(5), studio.stream(6)
        await collect(write(done, TEXT))
        with pytest.raises(SynthesisFailed):
            await collect(write(failed, "Please explode."))
        async with studio.stream(7) as first, studio.stream(8):
            check_sound(await collect(write(first, TEXT)), 7)
        await done.aclose()
        await failed.aclose()


async def test_a_thousand_cancels_and_no_chunk_after_any(kind: Kind, studio: Studio) -> None:
    """In which state a stream is caught is left to chance; the session under it is watched too."""
    random = np.random.default_rng(1)
    after: list[Event] = []
    states: set[str] = set()

    async def one(seed: int) -> None:
        stream = studio.stream(seed)
        write(stream, TEXT)
        deliver = stream._deliver
        chunks = 0
        for _ in range(int(random.integers(0, 4))):
            await anext(stream)
            chunks += 1
        await anyio.sleep(float(random.choice([0.0, 0.001])))
        states.add(f"{chunks} taken, {bool(stream._ready)} ready")
        stream.cancel_nowait()
        stream._deliver = lambda *given, **named: (after.append(given), deliver(*given, **named))  # type: ignore[method-assign,arg-type]
        assert [chunk async for chunk in stream] == []
        await stream.aclose()
        assert not stream._ready

    for at in range(0, 1000 if kind == "thread" else 200, 20):
        async with anyio.create_task_group() as group:
            for seed in range(at, at + 20):
                group.start_soon(one, seed)
    assert after == []
    assert len(states) > 3
    assert studio.rows_used == 0
