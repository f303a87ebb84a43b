"""A stream over a fake decoder and vocoder, through the real link and scheduler, on both event loops."""

from __future__ import annotations

import gc
import random
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray

from cf_agents.audio import AudioChunk, Word, resample
from cf_agents.config import DecodeParams
from cf_agents.encoding import Encoding, decode, encode, encode_s16
from cf_agents.errors import ConfigError, StreamClosed, SynthesisFailed, TextError
from cf_agents.fade import fade_out
from cf_agents.links.thread import ThreadLink
from cf_agents.scheduler import Scheduler
from cf_agents.stream import MOST_PIECES, RUNAWAY, Stream, _segment_seed
from cf_agents.text_ids import TextIds
from cf_agents.timing import speaking_time_s
from tests.fakes import (
    SAMPLE_RATE,
    SAMPLES_PER_TOKEN,
    FakeClock,
    FakeDecoder,
    FakeVocoder,
    fake_ids,
    fake_places,
    fake_sound,
    fake_voice,
)

pytestmark = pytest.mark.anyio

TEXT = (
    "Good morning, and welcome to the station. The first train leaves at nine; the second, which costs $5 million 😀, "
    "never does! Is that   clear?\n\nThen **let us** go — slowly. "
)


class Studio:
    """A link over fakes, and what is inside it."""

    def __init__(self, pool: int = 64) -> None:
        self.decoder = FakeDecoder(pool)
        self.vocoder = FakeVocoder()
        self.texts: list[str] = []
        self.link = ThreadLink(Scheduler(self.decoder, self.vocoder, SAMPLE_RATE), self._tokenise, SAMPLE_RATE, max_streams=64)

    def _tokenise(self, text: str) -> TextIds:
        if "unspeakable" in text:
            raise TextError("This cannot be said.")
        self.texts.append(text)
        return fake_ids(text)

    def stream(
        self,
        seed: int = 7,
        lead_s: float = 1e9,
        steps: int = 2,
        sample_rate: int | None = None,
        encoding: Encoding = "s16le",
        fade_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> Stream:
        params = DecodeParams(steps=steps)
        return Stream(
            self.link,
            fake_voice(),
            params=params,
            seed=seed,
            lead_s=lead_s,
            sample_rate=sample_rate,
            encoding=encoding,
            fade_s=fade_s,
            clock=clock,
        )

    async def idle(self) -> None:
        """Wait until no row is taken."""
        for _ in range(5000):
            if not self.rows_used:
                return
            await anyio.sleep(0.001)
        raise AssertionError("rows are never given back")

    @property
    def rows_used(self) -> int:
        return self.decoder.pool - self.decoder.rows_free


@asynccontextmanager
async def open_studio(pool: int = 64) -> AsyncIterator[Studio]:
    studio = Studio(pool)
    try:
        yield studio
    finally:
        await studio.link.aclose()
        assert studio.rows_used == 0
        assert "cf-agents-scheduler" not in [thread.name for thread in threading.enumerate()]


async def collect(stream: Stream) -> list[AudioChunk]:
    return [chunk async for chunk in stream]


def write_in_pieces(stream: Stream, text: str, size: int = 5) -> None:
    for at in range(0, len(text), size):
        stream.write(text[at : at + size])
    stream.end()


def drop(kept: list[Stream]) -> None:
    kept.clear()
    gc.collect()


def words_of(chunks: Iterable[AudioChunk]) -> list[Word]:
    return [word for chunk in chunks for word in chunk.words]


def check_segments(chunks: list[AudioChunk], studio: Studio, seed: int) -> None:
    """Every segment's sound is the whole of what its seed makes, once and in order; places and ends are told right."""
    at = 0.0
    for chunk in chunks:
        assert chunk.start_s == pytest.approx(at)
        at += chunk.duration_s
    order = [chunk.segment for chunk in chunks]
    assert order == sorted(order)
    for segment in sorted(set(order)):
        pieces = [chunk for chunk in chunks if chunk.segment == segment]
        assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        sound = np.concatenate([piece.samples for piece in pieces])
        made = np.rint(fake_sound(_segment_seed(seed, segment), 0, len(sound)).astype(np.float64) * 32767).astype(np.int16)
        np.testing.assert_array_equal(sound, made)
    samples = sum(len(chunk.samples) for chunk in chunks)
    assert samples == sum(3 * max(1, len(text) // 4) * SAMPLES_PER_TOKEN for text in studio.texts)


async def test_everything_written_is_spoken_once_and_in_order() -> None:
    async with open_studio() as studio, studio.stream() as stream:
        write_in_pieces(stream, TEXT)
        chunks = await collect(stream)
    assert len(studio.texts) > 2
    check_segments(chunks, studio, seed=7)
    assert stream.stats.audio_s == pytest.approx(sum(chunk.duration_s for chunk in chunks))
    assert stream.stats.segments == len(studio.texts)
    assert stream.stats.ttfa_s is not None
    assert stream.stats.ttfa_s > 0.0


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    "text", [TEXT, "Hi", "  (Well...) so\tit is: 3.14, or 22/7.", "😀 First an emoji, then words. 😀", "😀", "?!"]
)
async def test_words_spell_the_input_and_their_times_are_monotone(text: str, size: int) -> None:
    async with open_studio() as studio, studio.stream() as stream:
        write_in_pieces(stream, text, size)
        chunks = await collect(stream)
    words = words_of(chunks)
    assert "".join(word.text for word in words) == text
    assert [text[word.start : word.end] for word in words] == [word.text for word in words]
    starts = [word.start_s for word in words]
    assert starts == sorted(starts)
    assert all(word.start_s <= word.end_s for word in words)
    for chunk in chunks:
        end_s = chunk.start_s + chunk.duration_s
        assert all(chunk.start_s - 1e-9 <= word.start_s <= end_s + 1e-9 for word in chunk.words)


@pytest.mark.parametrize("text", ["😀", "...", " -- \n", "**"])
async def test_text_with_nothing_to_say_gives_a_short_silence(text: str) -> None:
    async with open_studio() as studio, studio.stream() as stream:
        stream.write(text)
        stream.end()
        (chunk,) = await collect(stream)
    assert chunk.duration_s == pytest.approx(0.1)
    assert not chunk.samples.any()
    assert chunk.last
    assert "".join(word.text for word in chunk.words) == text
    assert studio.texts == []


async def test_silence_keeps_its_place_between_segments() -> None:
    async with open_studio() as studio, studio.stream() as stream:
        stream.write("Before the picture there are words. ")
        stream.flush()
        stream.write("🎉 ")
        stream.flush()
        stream.write("And after the picture there are more.")
        stream.end()
        chunks = await collect(stream)
    assert [chunk.segment for chunk in chunks if chunk.last] == [0, 1, 2]
    assert [chunk.duration_s for chunk in chunks if chunk.segment == 1] == [pytest.approx(0.1)]
    assert len(studio.texts) == 2


async def test_white_space_on_its_own_goes_with_the_word_after_it() -> None:
    async with open_studio() as studio, studio.stream() as stream:
        pieces = ["One two three. ", " \n\n ", "Four five. ", "   ", "Six.", " "]
        for piece in pieces:
            stream.write(piece)
            stream.flush()
        stream.end()
        words = words_of(await collect(stream))
    text = "".join(pieces)
    assert [text[word.start : word.end] for word in words] == ["One ", "two ", "three. ", " \n\n Four ", "five. ", "   Six."]
    assert [word.text for word in words] == [text[word.start : word.end] for word in words]


@pytest.mark.parametrize("text", ["", "  \n "])
async def test_a_stream_without_text_just_ends(text: str) -> None:
    async with open_studio() as studio, studio.stream() as stream:
        stream.write(text)
        stream.end()
        assert await collect(stream) == []


async def test_writer_and_reader_in_different_tasks() -> None:
    heard: list[AudioChunk] = []
    async with open_studio() as studio, studio.stream() as stream, anyio.create_task_group() as group:

        async def read() -> None:
            async for chunk in stream:
                heard.append(chunk)

        group.start_soon(read)
        for token in TEXT.split(" "):
            stream.write(token + " ")
            await anyio.sleep(0.001)
        stream.end()
    check_segments(heard, studio, seed=7)
    # White space at the very end that comes after the last segment was taken belongs to no word.
    spelt = "".join(word.text for word in words_of(heard))
    assert (TEXT + " ").startswith(spelt)
    assert spelt.strip() == TEXT.strip()


async def test_flush_forces_what_is_pending() -> None:
    async with open_studio() as studio, studio.stream() as stream:
        stream.write("One moment")
        with anyio.move_on_after(0.05):
            await stream.__anext__()
        assert studio.texts == []
        stream.flush()
        assert (await stream.__anext__()).segment == 0
        assert studio.texts == ["One moment"]


async def test_audio_comes_before_the_text_has_ended() -> None:
    async with open_studio() as studio, studio.stream() as stream:
        stream.write("Well, this is the first sentence of many. And then")
        with anyio.fail_after(5):
            chunk = await stream.__anext__()
        assert chunk.segment == 0


async def test_cancel_delivers_nothing_more_and_frees_the_rows() -> None:
    async with open_studio() as studio:
        studio.decoder.step_s = 0.002
        stream = studio.stream()
        write_in_pieces(stream, TEXT * 3)
        taken = [await stream.__anext__() for _ in range(3)]
        assert studio.rows_used
        await stream.cancel()
        assert await collect(stream) == []
        await stream.aclose()
        assert studio.rows_used == 0
        steps = len(studio.decoder.batches)
        await anyio.sleep(0.02)
        assert len(studio.decoder.batches) == steps
        assert len(taken) == 3


async def test_cancel_drops_what_was_made_and_not_taken() -> None:
    async with open_studio() as studio, studio.stream() as stream:
        write_in_pieces(stream, TEXT)
        await stream.__anext__()
        while len(stream.stats.delivered) < 4:  # noqa: ASYNC110
            await anyio.sleep(0.001)
        await stream.cancel()
        assert await collect(stream) == []


async def test_cancel_from_another_task_ends_a_waiting_reader() -> None:
    async with open_studio() as studio, studio.stream() as stream, anyio.create_task_group() as group:
        ended = anyio.Event()

        async def read() -> None:
            assert await collect(stream) == []
            ended.set()

        group.start_soon(read)
        await anyio.sleep(0.01)
        await stream.cancel()
        await ended.wait()


async def test_leaving_the_block_cancels() -> None:
    async with open_studio() as studio:
        studio.decoder.step_s = 0.002
        async with studio.stream() as stream:
            write_in_pieces(stream, TEXT * 3)
            await stream.__anext__()
            assert studio.rows_used
        assert studio.rows_used == 0
        with pytest.raises(StreamClosed):
            stream.write("more")


async def test_a_cancelled_task_leaves_nothing_behind() -> None:
    async with open_studio() as studio:
        studio.decoder.step_s = 0.002
        with anyio.move_on_after(0.05):
            async with studio.stream() as stream:
                write_in_pieces(stream, TEXT * 50)
                await collect(stream)
        await studio.idle()


async def test_heard_is_what_had_begun_by_then() -> None:
    clock = FakeClock()
    async with open_studio() as studio, studio.stream(clock=clock) as stream:
        write_in_pieces(stream, TEXT)
        chunks = await collect(stream)
        total = sum(chunk.duration_s for chunk in chunks)
        clock.now += total / 2
        heard = await stream.cancel()
        assert heard.seconds == pytest.approx(total / 2)
        assert heard.words == tuple(word for word in words_of(chunks) if word.start_s < total / 2)
        assert TEXT.startswith(heard.text)
        assert heard.text == "".join(word.text for word in heard.words)
        assert await stream.cancel(at_s=0.0) == heard


async def test_heard_is_bounded_by_what_was_taken_and_told_by_the_caller() -> None:
    clock = FakeClock()
    async with open_studio() as studio:
        for at_s, reported, wanted in [(None, None, "all"), (0.0, None, 0.0), (None, 0.05, 0.05), (1e9, 0.1, "all")]:
            async with studio.stream(clock=clock) as stream:
                write_in_pieces(stream, TEXT)
                taken = await stream.__anext__()
                clock.now += 100.0
                if reported is not None:
                    stream.report_position(reported)
                heard = stream.cancel_nowait(at_s)
                assert heard.seconds == pytest.approx(taken.duration_s if wanted == "all" else wanted)
        async with studio.stream(clock=clock) as stream:
            stream.write("Nothing of this was played, ever.")
            assert (await stream.cancel()).text == ""


@pytest.mark.parametrize("encoding", ["s16le", "mulaw"])
async def test_a_cancel_hands_over_a_faded_tail_where_one_was_asked_for(encoding: Encoding) -> None:
    clock = FakeClock()
    async with open_studio() as studio, studio.stream(clock=clock, encoding=encoding, fade_s=0.01) as stream:
        write_in_pieces(stream, TEXT)
        taken = [await stream.__anext__() for _ in range(3)]
        clock.now += 0.2
        heard = await stream.cancel()
        assert await collect(stream) == []
    assert heard.seconds == pytest.approx(0.2)
    sound = b"".join(chunk.pcm for chunk in taken)
    follows = decode(sound, encoding)[4800 : 4800 + 240]
    assert heard.tail == encode(fade_out(follows), encoding)
    assert await stream.cancel(at_s=0.0) == heard


async def test_no_tail_comes_from_audio_that_was_not_taken_or_was_not_asked_for() -> None:
    clock = FakeClock()
    async with open_studio() as studio:
        async with studio.stream(clock=clock, fade_s=0.01) as stream:
            write_in_pieces(stream, TEXT)
            taken = await stream.__anext__()
            while len(stream.stats.delivered) < 3:  # noqa: ASYNC110
                await anyio.sleep(0.001)
            assert len((await stream.cancel(at_s=taken.duration_s - 0.004)).tail) == 2 * 96
        async with studio.stream(clock=clock) as stream:
            write_in_pieces(stream, TEXT)
            await stream.__anext__()
            assert (await stream.cancel(at_s=0.0)).tail == b""


async def test_many_streams_at_once_keep_apart() -> None:
    async with open_studio(pool=40) as studio:
        studio.decoder.step_s = 0.001
        results: dict[int, list[AudioChunk]] = {}

        async def speak(seed: int) -> None:
            async with studio.stream(seed=seed) as stream:
                write_in_pieces(stream, TEXT * (1 + seed % 3), size=3 + seed)
                results[seed] = await collect(stream)

        async with anyio.create_task_group() as group:
            for seed in range(20):
                group.start_soon(speak, seed)
        assert max(len(batch) for batch in studio.decoder.batches) > 6
        for seed, chunks in results.items():
            assert "".join(word.text for word in words_of(chunks)) == TEXT * (1 + seed % 3)
            for segment in {chunk.segment for chunk in chunks}:
                sound = np.concatenate([chunk.samples for chunk in chunks if chunk.segment == segment])
                made = fake_sound(_segment_seed(seed, segment), 0, len(sound)).astype(np.float64)
                np.testing.assert_array_equal(sound, np.rint(made * 32767).astype(np.int16))


async def test_an_error_is_raised_in_its_stream_only() -> None:
    async with open_studio() as studio:
        culprit = _segment_seed(1, 0)

        def fail(seeds: list[int]) -> None:
            if culprit in seeds:
                raise RuntimeError("cuBLAS is unwell")

        studio.decoder.on_step = fail
        async with studio.stream(seed=1) as bad, studio.stream(seed=2) as good:
            for stream in (bad, good):
                write_in_pieces(stream, TEXT)
            with pytest.raises(SynthesisFailed, match="cuBLAS is unwell") as caught:
                await collect(bad)
            assert isinstance(caught.value.__cause__, RuntimeError)
            assert "".join(word.text for word in words_of(await collect(good))) == TEXT
            with pytest.raises(StreamClosed, match="cuBLAS"):
                bad.write("more")


async def test_text_the_model_cannot_take_is_a_typed_error() -> None:
    async with open_studio() as studio, studio.stream() as stream:
        stream.write("An unspeakable thing.")
        stream.end()
        with pytest.raises(TextError):
            await collect(stream)


async def test_writing_after_the_end_and_using_after_close() -> None:
    async with open_studio() as studio:
        stream = studio.stream()
        stream.write("Hello.")
        stream.end()
        stream.end()
        with pytest.raises(StreamClosed, match="end"):
            stream.write("more")
        await stream.aclose()
        await stream.aclose()
        for use in (lambda: stream.write("more"), stream.flush, lambda: aiter(stream)):
            with pytest.raises(StreamClosed):
                use()


async def test_closing_the_link_ends_its_streams() -> None:
    async with open_studio() as studio:
        studio.decoder.step_s = 0.002
        async with studio.stream() as stream:
            write_in_pieces(stream, TEXT * 50)
            await stream.__anext__()
            await studio.link.aclose()
            with pytest.raises(StreamClosed):
                await collect(stream)
        with pytest.raises(StreamClosed):
            studio.stream()


async def test_a_dropped_stream_warns_and_is_stopped() -> None:
    async with open_studio() as studio:
        studio.decoder.step_s = 0.002
        stream = studio.stream()
        write_in_pieces(stream, TEXT * 50)
        await stream.__anext__()
        kept = [stream]
        del stream
        with pytest.warns(ResourceWarning, match="never closed"):
            drop(kept)
        await studio.idle()


async def test_a_stream_iterated_to_its_end_needs_no_closing() -> None:
    async with open_studio() as studio:
        stream = studio.stream()
        write_in_pieces(stream, TEXT)
        await collect(stream)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del stream
            gc.collect()


async def test_synthesis_keeps_to_the_lead() -> None:
    """Never more than the lead and a block of 0.16 s, which is begun within bounds, ahead of the clock, by any clock."""
    async with open_studio() as studio, studio.stream(lead_s=0.5) as stream:
        began = time.monotonic()
        write_in_pieces(stream, TEXT * 3)
        while (made := stream.stats.audio_s) < 2.5:
            assert made < time.monotonic() - began + 0.5 + 0.16
            await anyio.sleep(0.001)


async def test_a_long_text_waits_as_it_was_written() -> None:
    async with open_studio() as studio, studio.stream() as stream:
        stream.write(TEXT * 200)
        assert len(studio.texts) <= MOST_PIECES + 2
        stream.end()
        chunks = await collect(stream)
    assert "".join(word.text for word in words_of(chunks)) == TEXT * 200


async def test_one_write_is_cut_as_many_small_ones_are() -> None:
    """The first segment is short for an early start; what follows in the same write is whole sentences."""
    async with open_studio() as studio, studio.stream() as stream:
        stream.write(TEXT)
        stream.end()
        await collect(stream)
    assert studio.texts[0] == "Good morning, and welcome to the station." or studio.texts[0].endswith(",")
    assert "the second, which costs" in " ".join(studio.texts[1:])
    assert any("the second, which costs five million dollars" in text for text in studio.texts[1:])


async def test_segments_are_bounded_unless_the_caller_says() -> None:
    async with open_studio() as studio:
        seen: list[int | None] = []
        opened = studio.decoder.open

        def open_and_look(prefix, params, seed, words):
            seen.append(params.max_tokens)
            return opened(prefix, params, seed, words)

        studio.decoder.open = open_and_look
        async with studio.stream() as stream:
            stream.write("Hello there.")
            stream.end()
            await collect(stream)
        params = DecodeParams(max_tokens=5)
        async with Stream(studio.link, fake_voice(), params=params, seed=1, lead_s=1.0) as stream:
            stream.write("Hello there.")
            stream.end()
            await collect(stream)
    expected_s = speaking_time_s("Hello") + speaking_time_s("there.") + 0.35
    assert seen == [pytest.approx(25 * (RUNAWAY[0] * expected_s + RUNAWAY[1]), abs=1), 5]


LONG = "Hello there, this is long enough to be of two pieces. And so, dear listener, is this one! 🎉 "


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 48000])
async def test_another_sample_rate(rate: int) -> None:
    """Every segment is as long as at the model's rate, and sounds like the whole stream resampled at once."""
    plain, made = [], []
    for sample_rate, chunks in ((None, plain), (rate, made)):
        async with open_studio() as studio, studio.stream(sample_rate=sample_rate) as stream:
            studio.vocoder.sound = quiet_at_first
            write_in_pieces(stream, LONG)
            chunks += await collect(stream)
    assert {chunk.sample_rate for chunk in made} == {rate}
    at = 0
    for chunk in made:
        assert chunk.start_s == pytest.approx(at / rate, abs=1e-9)
        at += len(chunk.samples)
    assert words_of(made)[-1].end_s == pytest.approx(words_of(plain)[-1].end_s, abs=1 / rate)
    # Inside a segment a constant piece is held back, at its end nothing.
    held_s = 96 / min(rate, SAMPLE_RATE)
    for before, after in zip(plain, made, strict=True):
        assert (after.segment, after.last) == (before.segment, before.last)
        ends = [chunk.start_s + chunk.duration_s for chunk in (before, after)]
        assert ends[0] - ends[1] == pytest.approx(0.0 if after.last else held_s, abs=1 / rate)
    whole = resample(np.concatenate([chunk.floats for chunk in plain]), SAMPLE_RATE, rate)
    np.testing.assert_allclose(np.concatenate([chunk.floats for chunk in made]), whole, atol=4e-5)


def quiet_at_first(seed: int, start: int, count: int) -> NDArray[np.float32]:
    """A tone in each utterance that swells from silence, as speech does."""
    time_s = np.arange(start, start + count) / SAMPLE_RATE
    return (0.3 * np.minimum(time_s / 0.05, 1.0) ** 4 * np.sin(2 * np.pi * (300 + seed % 500) * time_s)).astype(np.float32)


@pytest.mark.parametrize(("encoding", "width"), [("s16le", 2), ("f32le", 4), ("mulaw", 1), ("alaw", 1)])
@pytest.mark.parametrize("rate", [None, 8000])
async def test_another_encoding(encoding: Encoding, width: int, rate: int | None) -> None:
    plain, made = [], []
    for asked, chunks in (("s16le", plain), (encoding, made)):
        async with open_studio() as studio, studio.stream(sample_rate=rate, encoding=asked) as stream:
            write_in_pieces(stream, LONG)
            chunks += await collect(stream)
    assert stream.encoding == encoding
    assert {chunk.encoding for chunk in made} == {encoding}
    assert [(c.segment, c.start_s, c.words, c.last) for c in made] == [(c.segment, c.start_s, c.words, c.last) for c in plain]
    sound = b"".join(chunk.pcm for chunk in made)
    samples = np.concatenate([chunk.samples for chunk in plain])
    assert len(sound) == width * len(samples)
    if encoding == "f32le":
        floats = np.frombuffer(sound, "<f4")
        np.testing.assert_allclose(floats, samples / 32768, atol=1.001 / 32768 if rate else 0.0)
        # Resampled sound is not rounded to 16 bits on its way.
        assert (np.rint(floats * 32768) != floats * 32768).any() == (rate is not None)
    else:
        assert sound == encode_s16(samples, encoding)


@pytest.mark.parametrize("rate", [7999, 48001, 0, -8000, 8000.0, "8000"])
async def test_a_rate_that_cannot_be_made_is_refused_at_once(rate: int) -> None:
    async with open_studio() as studio:
        with pytest.raises(ConfigError, match=r"give whole Hz from 8000 to 48000"):
            studio.stream(sample_rate=rate)
        with pytest.raises(ConfigError, match="no encoding 'opus'"):
            studio.stream(encoding="opus")  # pyright: ignore[reportArgumentType]
        assert studio.decoder.batches == []


async def said_in_places(studio: Studio, text: str) -> list[AudioChunk]:
    studio.decoder.places = fake_places
    async with studio.stream() as stream:
        write_in_pieces(stream, text, 9)
        return await collect(stream)


async def test_words_begin_where_the_decoder_says() -> None:
    """At an even pace through the ids, which are four characters each: 3 tokens, 0.12 s."""
    text = "Doctor Smith had the five of us over on Friday, and then he went away for good, or so we thought."
    async with open_studio() as studio:
        chunks = await said_in_places(studio, text)
        segments = list(studio.texts)
    words = words_of(chunks)
    assert "".join(word.text for word in words) == text
    assert "".join(segments).replace(" ", "") == text.replace(" ", "")
    begun, at = 0.0, 0
    for segment, spoken in enumerate(segments):
        said = [word for chunk in chunks if chunk.segment == segment for word in chunk.words]
        for word in said:
            place = spoken.index(word.text.strip(), at)
            at = place + len(word.text.strip())
            assert word.start_s == pytest.approx(begun + 0.03 * place, abs=0.045), word
        begun += sum(chunk.duration_s for chunk in chunks if chunk.segment == segment)
        at = 0
    for chunk in chunks:
        assert all(chunk.start_s - 1e-9 <= word.start_s < chunk.start_s + chunk.duration_s + 1e-9 for word in chunk.words)


async def test_heard_is_what_the_places_of_the_whole_say() -> None:
    source = random.Random(4)
    async with open_studio() as studio:
        whole = words_of(await said_in_places(studio, TEXT))
        end_s = whole[-1].end_s
        for _ in range(30):
            at_s = source.uniform(0.0, end_s)
            async with studio.stream() as stream:
                write_in_pieces(stream, TEXT, 9)
                made = 0.0
                while made < at_s:
                    chunk = await stream.__anext__()
                    made = chunk.start_s + chunk.duration_s
                heard = await stream.cancel(at_s=at_s)
            wanted = [word for word in whole if word.start_s < at_s]
            assert abs(len(heard.words) - len(wanted)) <= 1
            assert heard.text == TEXT[: len(heard.text)]


async def test_the_loop_turns_while_the_decoder_computes() -> None:
    """A step of the decoder, and what the loop asks of it meanwhile: were the loop to wait for the step, neither would end."""
    entered, turned = threading.Event(), threading.Event()
    waited: list[bool] = []

    def compute(seeds: list[int]) -> None:
        entered.set()
        waited.append(turned.wait(10.0))

    async with open_studio() as studio:
        studio.decoder.on_step = compute
        async with studio.stream() as stream:
            write_in_pieces(stream, TEXT)
            while not entered.is_set():  # noqa: ASYNC110
                await anyio.sleep(0.001)
            other = studio.stream(8)
            write_in_pieces(other, TEXT)
            other.report_position(0.0)
            await other.cancel()
            turned.set()
            await collect(stream)
        await other.aclose()
    assert all(waited)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_ends_without_closing_gives_the_rows_back(backend: str) -> None:
    studio = Studio()
    studio.decoder.step_s = 0.002
    left: list[Stream] = []

    async def forget() -> None:
        left.append(studio.stream())
        write_in_pieces(left[0], TEXT * 50)
        await left[0].__anext__()
        studio.decoder.step_s = 0.1

    try:
        anyio.run(forget, backend=backend)
        # Far less than what has been submitted would take.
        deadline = time.monotonic() + 20
        while studio.rows_used:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        left[0]._released = True
        studio.link.close()


async def test_a_short_sentence_is_spoken_when_the_writer_pauses() -> None:
    """It is held while there is time; nobody writes, flushes or ends, and no audio comes that would look at it again."""
    clock, chunks = FakeClock(), list[AudioChunk]()
    async with open_studio() as studio, studio.stream(clock=clock) as stream, anyio.create_task_group() as tasks:

        async def read() -> None:
            async for chunk in stream:
                chunks.append(chunk)

        async def until(condition: Callable[[], bool]) -> None:
            for _ in range(5000):
                if condition():
                    return
                await anyio.sleep(0.001)
            raise AssertionError("it never came true")

        tasks.start_soon(read)
        stream.write("The first train leaves at nine in the morning from here. ")
        await until(lambda: bool(chunks) and chunks[-1].last)
        stream.write("That is all of them. ")
        clock.now += stream._lead_s() - stream._inlet.policy.low_lead_s - 0.01
        await anyio.sleep(0.05)
        assert len(studio.texts) == 1
        clock.now += 0.02
        await until(lambda: len(studio.texts) == 2)
        assert studio.texts[1] == "That is all of them."
        tasks.cancel_scope.cancel()
