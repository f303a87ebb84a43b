"""The plugin on real engines with random weights: both links, many sessions at once, nothing left behind. On a real clock."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import psutil
import pytest
from livekit.plugins import cf_agents
from livekit_fakes import Script, conversation

from cf_agents import TTS, DecodeParams

QUICK = DecodeParams(steps=1, guidance=0.0, max_tokens=16)
"""0.64 s of noise for a segment."""
REPLY = "This is the first thing I say. This is the second thing, and it is longer. And this is the last of it."


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def children() -> set[psutil.Process]:
    return set(psutil.Process().children())


@pytest.mark.parametrize("link", ["thread", "process"])
async def test_a_conversation_on_a_real_engine(tiny: Path, link: str) -> None:
    tasks, threads, processes = asyncio.all_tasks(), set(threading.enumerate()), children()
    speech = cf_agents.TTS(model=lambda: TTS.load(tiny, link=link), params=QUICK)
    await speech.ready()
    async with conversation(speech, Script([REPLY, " ".join([REPLY] * 20), REPLY])) as talk:
        await talk.reply()
        assert talk.said() == [REPLY]
        assert not talk.last.interrupted
        await talk.reply(interrupt_after_s=0.2)
        frames = len(talk.last.frames)
        assert talk.last.interrupted
        await talk.reply()
        assert talk.said()[-1] == REPLY
        assert len(talk.loudspeaker.heard) == 3
        assert len(talk.loudspeaker.heard[1].frames) == frames
        assert talk.errors == []
    assert len(children() - processes) == (link == "process")
    await speech.aclose()
    assert children() == processes
    assert asyncio.all_tasks() == tasks
    left = [thread.name for thread in set(threading.enumerate()) - threads]
    assert [name for name in left if name.startswith("cf-agents")] == []


@pytest.mark.timeout(300)
async def test_twelve_sessions_at_once_on_one_engine_and_none_is_starved(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    socket = tmp_path_factory.mktemp("run") / "engine.sock"

    def engine() -> TTS:
        return TTS.attach(socket, tiny, max_streams=12, idle_s=0.2)

    speeches = [cf_agents.TTS(model=engine, params=QUICK, lead_s=0.5) for _ in range(12)]
    for speech in speeches:
        speech.prewarm()
    for speech in speeches:
        await speech.ready()

    began: list[int] = []
    all_began = asyncio.Event()

    async def talk_through(n: int, speech: cf_agents.TTS) -> None:
        reply = f"This is the reply number {n} of twelve. {REPLY}"
        script = Script([reply])
        script.before_last = all_began  # no reply ends before each of the twelve is heard
        async with conversation(speech, script) as talk:

            def begin(_: object) -> None:
                began.append(n)
                if len(began) == len(speeches):
                    all_began.set()

            talk.loudspeaker.on("playback_started", begin)
            await talk.reply()
            assert talk.said() == [reply]
            assert talk.errors == []
            assert len(talk.loudspeaker.heard) == 1

    async with asyncio.timeout(200.0), asyncio.TaskGroup() as group:
        for n, speech in enumerate(speeches):
            group.create_task(talk_through(n, speech))
    assert sorted(began) == list(range(12))
    engine_pid = int(socket.with_name(f"{socket.name}.lock").read_text())
    await asyncio.gather(*(speech.aclose() for speech in speeches))
    async with asyncio.timeout(60.0):
        while psutil.pid_exists(engine_pid):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
