"""Words of texts as people write them, through the streaming path: all of them, once, in order, when they are spoken."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cf_agents.audio import Word
from cf_agents.config import DecodeParams
from cf_agents.links.thread import ThreadLink
from cf_agents.scheduler import Scheduler
from cf_agents.stream import Stream
from cf_agents.text_ids import TextIds
from tests.fakes import SAMPLE_RATE, FakeDecoder, FakeVocoder, fake_voice

pytestmark = pytest.mark.anyio

_KINDS: dict[str, list[str]] = json.loads((Path(__file__).parent / "goldens" / "text_sentences.json").read_text("utf-8"))
TEXTS = list(itertools.islice(itertools.chain.from_iterable(itertools.zip_longest(*_KINDS.values())), 140))
TEXTS = [text for text in TEXTS if text][:100]


def characters(text: str) -> TextIds:
    """An id for each character."""
    return TextIds(text, (0,) * (len(text) + 2), (0, *range(len(text)), len(text)))


def wavering(ids: int, tokens: int) -> list[float]:
    """Through the text in all but the last tokens; as attention does, it wavers, and now and then looks elsewhere."""
    source = random.Random(ids)
    said = tokens - 5
    places = [1 + (ids - 2) * min(1.0, (n + 0.5) / said) + source.gauss(0.0, 0.6) for n in range(tokens)]
    for n in range(4, said - 8, 9):
        places[n] = source.uniform(0.0, ids)
    return places


@asynccontextmanager
async def speaking(*, told: bool) -> AsyncIterator[ThreadLink]:
    decoder, vocoder = FakeDecoder(block_size=16), FakeVocoder(holdback=5 * 960)
    decoder.places = wavering if told else None
    link = ThreadLink(Scheduler(decoder, vocoder, SAMPLE_RATE), characters, SAMPLE_RATE, max_streams=2)
    try:
        yield link
    finally:
        await link.aclose()


def stream(link: ThreadLink) -> Stream:
    return Stream(link, fake_voice(), params=DecodeParams(steps=1), seed=3, lead_s=math.inf)


async def said(link: ThreadLink, text: str) -> tuple[list[Word], float]:
    """Words, each checked against the chunk it came with, and the seconds of all."""
    words: list[Word] = []
    end_s = 0.0
    async with stream(link) as speech:
        speech.write(text)
        speech.end()
        async for chunk in speech:
            assert chunk.start_s == pytest.approx(end_s)
            end_s += chunk.duration_s
            assert all(chunk.start_s - 1e-9 <= word.start_s <= end_s + 1e-9 for word in chunk.words), text
            words += chunk.words
    return words, end_s


@pytest.mark.parametrize("told", [True, False], ids=["places", "durations"])
async def test_the_words_of_a_hundred_texts_spell_them_in_order(told: bool) -> None:
    assert len(TEXTS) == 100
    async with speaking(told=told) as link:
        for text in TEXTS:
            words, end_s = await said(link, text)
            assert "".join(word.text for word in words) == text
            assert [text[word.start : word.end] for word in words] == [word.text for word in words]
            times = [time for word in words for time in (word.start_s, word.end_s)]
            assert times == sorted(times), text
            assert times[-1] <= end_s + 1e-9


async def test_heard_after_a_cancel_is_right_to_a_word() -> None:
    """Against the words of the whole utterance, at random times of a reader that takes no more than it plays."""
    source = random.Random(2)
    async with speaking(told=True) as link:
        for text in TEXTS[::4]:
            words, end_s = await said(link, text)
            at_s = source.uniform(0.0, end_s)
            async with stream(link) as speech:
                speech.write(text)
                speech.end()
                taken_s = 0.0
                while taken_s < at_s:
                    taken_s += (await speech.__anext__()).duration_s
                heard = await speech.cancel(at_s=at_s)
            assert abs(len(heard.words) - sum(word.start_s < at_s for word in words)) <= 1, (text, at_s)
            assert text.startswith(heard.text)
