"""A model is opened once, in the background, with or without an event loop, and given up without a trace. On a real clock."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest
from livekit.plugins import cf_agents
from livekit.plugins.cf_agents.model import Model
from livekit_fakes import FakeEngine

from cf_agents.errors import DownloadError, StreamClosed


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def threads_of_ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("cf-agents")]


def test_prewarm_returns_at_once_and_needs_no_event_loop(engine: FakeEngine) -> None:
    go_on, asked = threading.Event(), threading.Event()

    def slow() -> FakeEngine:
        asked.set()
        go_on.wait()
        return engine

    speech = cf_agents.TTS(model=slow)
    assert threads_of_ours() == []
    speech.prewarm()
    speech.prewarm()
    assert asked.wait(10.0)
    assert engine.entered == 0
    go_on.set()

    async def job() -> None:
        async with speech.synthesize("Hello.") as whole:
            assert (await whole.collect()).duration > 0.0
        await speech.aclose()

    asyncio.run(job())
    assert (engine.entered, engine.closed) == (1, 1)
    assert threads_of_ours() == []


def test_jobs_on_event_loops_of_their_own_share_what_one_of_them_opened(engine: FakeEngine) -> None:
    model = Model(lambda: engine)

    async def use() -> None:
        assert await model.get(10.0) is engine

    for _ in range(2):
        asyncio.run(use())
    assert engine.entered == 1
    asyncio.run(model.aclose())
    assert engine.closed == 1


async def test_a_failure_is_told_to_everyone_who_waits_and_the_next_one_tries_again(engine: FakeEngine) -> None:
    tries = 0
    both_wait = threading.Event()

    def make() -> FakeEngine:
        nonlocal tries
        tries += 1
        if tries == 1:
            both_wait.wait()
            raise DownloadError("The hub cannot be reached.")
        return engine

    model = Model(make)
    waiting = [asyncio.create_task(model.get(10.0)) for _ in range(2)]
    await asyncio.sleep(0)
    both_wait.set()
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in told] == [DownloadError, DownloadError]
    assert await model.get(10.0) is engine
    await model.aclose()


class Endless(FakeEngine):
    """Opening it ends when it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.opening = threading.Event()
        self.cancelled = threading.Event()

    async def __aenter__(self) -> Endless:
        self.opening.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled.set()
        return self


async def test_closing_while_it_opens_gives_it_up() -> None:
    engine = Endless()
    model = Model(lambda: engine)
    waiter = asyncio.create_task(model.get(30.0))
    await asyncio.to_thread(engine.opening.wait)
    await model.aclose()
    assert engine.cancelled.is_set()
    with pytest.raises(StreamClosed):
        await waiter
    assert threads_of_ours() == []
    assert engine.closed == 0


async def test_a_closed_model_opens_no_more(engine: FakeEngine) -> None:
    model = Model(lambda: engine)
    await model.aclose()
    with pytest.raises(StreamClosed):
        model.start()
    with pytest.raises(StreamClosed):
        await model.get(1.0)
    assert engine.entered == 0
