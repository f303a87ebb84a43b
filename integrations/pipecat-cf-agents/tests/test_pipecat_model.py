"""The model behind the service: loaded off the loop, shared, closed with the last; and the real chain over both links."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import pytest
from bench import open_bench
from pipecat.frames.frames import LLMFullResponseEndFrame, TTSAudioRawFrame, TTSStoppedFrame, TTSTextFrame
from pipecat_cf_agents import CfAgentsTTSService, CfAgentsTTSSettings, LoadOptions
from pipecat_cf_agents.model import SharedModel

from cf_agents import DecodeParams
from cf_agents.errors import CfAgentsError, CheckpointNotFound
from tests.fakes import FakeTTS

pytestmark = pytest.mark.anyio

TEXT = "The first train leaves at nine in the morning."


class Loads:
    """Counts what `LoadOptions.load` is asked for, and makes fakes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded: list[Loading] = []
        self.error: CfAgentsError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

        def load(options: LoadOptions, model: str) -> Loading:
            self.loaded.append(Loading(self))
            return self.loaded[-1]

        monkeypatch.setattr(LoadOptions, "load", load)


class Loading(FakeTTS):
    def __init__(self, loads: Loads) -> None:
        super().__init__()
        self.loads = loads
        self.closed = False
        self.cancelled = False

    async def __aenter__(self) -> Loading:
        try:
            await self.loads.gate.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.loads.error is not None:
            raise self.loads.error
        return self

    async def aclose(self) -> None:
        self.closed = True


async def test_services_that_ask_for_the_same_model_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads(monkeypatch)
    async with AsyncExitStack() as first:
        await first.enter_async_context(open_bench(CfAgentsTTSService()))
        async with open_bench(CfAgentsTTSService()) as bench, open_bench(CfAgentsTTSService()):
            assert len(loads.loaded) == 1
            assert bench.service._tts is loads.loaded[0]
            async with open_bench(CfAgentsTTSService(load=LoadOptions(device="cpu"))):
                assert len(loads.loaded) == 2
            assert [each.closed for each in loads.loaded] == [False, True]
        assert not loads.loaded[0].closed
    assert loads.loaded[0].closed
    async with open_bench(CfAgentsTTSService()):
        assert len(loads.loaded) == 3


async def test_a_model_that_does_not_load_is_told_to_each_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads(monkeypatch)
    loads.error = CheckpointNotFound("There is no such model.")
    async with open_bench(CfAgentsTTSService()) as bench:
        assert not bench.service.is_usable
        assert "There is no such model." in bench.errors[0].error
        await bench.reply(TEXT)
        await bench.play(1.0)
        assert bench.said() == []
    loads.error = None
    async with open_bench(CfAgentsTTSService()) as bench:
        assert bench.service.is_usable
        assert len(loads.loaded) == 2


async def test_who_stops_waiting_for_a_model_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads(monkeypatch)
    loads.gate.clear()
    impatient, patient = SharedModel("m", LoadOptions()), SharedModel("m", LoadOptions())
    tasks = [asyncio.create_task(each.acquire()) for each in (impatient, patient)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    loads.gate.set()
    model = await tasks[1]
    assert not model.closed
    await impatient.release()
    assert not model.closed
    await patient.release()
    await patient.release()
    assert model.closed
    loads.gate.clear()
    last = asyncio.create_task(SharedModel("m", LoadOptions()).acquire())
    await asyncio.sleep(0)
    last.cancel()
    await asyncio.wait([last])
    assert loads.loaded[1].cancelled


async def test_a_given_model_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    tts = Loading(Loads(monkeypatch))
    for _ in range(2):
        async with open_bench(CfAgentsTTSService(tts=tts)):
            pass
    assert not tts.closed
    assert tts.loads.loaded == []


@pytest.mark.timeout(400)
@pytest.mark.parametrize("link", ["thread", "process"])
async def test_twelve_bots_speak_on_one_engine_and_leave_nothing(link: Literal["thread", "process"]) -> None:
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    settings = CfAgentsTTSSettings(model="tiny", params=DecodeParams(steps=1, max_tokens=16))
    options = LoadOptions(link=link, max_streams=24)
    async with AsyncExitStack() as stack:
        bots = [
            await stack.enter_async_context(open_bench(CfAgentsTTSService(settings=settings, load=options), sample_rate=8000))
            for _ in range(12)
        ]
        assert len({id(bot.service._tts) for bot in bots}) == 1
        said = [
            [f"Bot {number} says this in turn {turn}. Here is bot {number} again." for turn in range(2)] for number in range(12)
        ]
        for turn in range(2):
            for number, bot in enumerate(bots):
                await bot.reply(said[number][turn])
        for number, bot in enumerate(bots):
            await bot.until(lambda: len(bot.frames(LLMFullResponseEndFrame)) == 2)  # noqa: B023
            await bot.play(100.0)
            assert bot.said() == said[number]
            # Two replies of two segments of so many tokens: none was starved.
            assert len(bot.audio()) == 2 * 2 * 2 * 16 * 8000 // 25
            times = [frame.pts or 0 for frame in bot.frames(TTSTextFrame)]
            assert times == sorted(times)
            contexts = [frame.context_id for frame in bot.frames(TTSAudioRawFrame)]
            assert len([each for each, _ in itertools.groupby(contexts)]) == 2
            assert bot.errors == []
        # All at once: half of them are interrupted while they speak, the others go on to their end.
        seen = [len(bot.frames(TTSStoppedFrame)) for bot in bots]
        heard = [len(bot.frames(TTSAudioRawFrame)) for bot in bots]
        for bot in bots:
            await bot.reply(TEXT * 2)
        for bot, count in list(zip(bots, heard, strict=True))[::2]:
            await bot.until(lambda: len(bot.frames(TTSAudioRawFrame)) > count)  # noqa: B023
            await bot.interrupt()
        for bot, count in list(zip(bots, seen, strict=True))[1::2]:
            await bot.until(lambda: len(bot.frames(TTSStoppedFrame)) == count + 1)  # noqa: B023
        # The last is cancelled while it speaks.
        await bots[0].reply(TEXT, end=False)
        await bots[0].settle()
        await bots[0].worker.cancel()
    assert [bot.errors for bot in bots] == [[]] * 12
    assert not any(bot.service._tasks or bot.service._turns for bot in bots if bot is not bots[0])
    assert not bots[0].service._tasks
    assert asyncio.all_tasks() <= tasks
    assert not [thread.name for thread in set(threading.enumerate()) - threads if thread.name.startswith("cf-agents")]


def test_the_package_says_its_version() -> None:
    import pipecat_cf_agents

    text = (Path(__file__).parents[1] / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{pipecat_cf_agents.__version__}]" in text
