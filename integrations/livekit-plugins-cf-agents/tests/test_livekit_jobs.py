"""Jobs as LiveKit runs them, each in a process of its own, on one engine process. On a real clock."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import livekit_job
import psutil
import pytest
from livekit.agents.ipc.job_proc_executor import ProcJobExecutor
from livekit.agents.job import JobAcceptArguments, RunningJobInfo
from livekit.plugins.cf_agents.share import shared_engine, socket_path
from livekit.protocol import agent, models

from cf_agents import TTS, Busy, Stream


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def socket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "engine.sock"


@asynccontextmanager
async def job_process(tiny: Path, socket: Path) -> AsyncIterator[ProcJobExecutor]:
    """A prewarmed process that waits for its job."""
    process = ProcJobExecutor(
        initialize_process_fnc=livekit_job.prewarm,
        job_entrypoint_fnc=livekit_job.entrypoint,
        session_end_fnc=None,
        simulation_end_fnc=None,
        inference_executor=None,
        initialize_timeout=100.0,
        close_timeout=20.0,
        session_end_timeout=20.0,
        memory_warn_mb=0.0,
        memory_limit_mb=0.0,
        ping_interval=2.5,
        ping_timeout=60.0,
        high_ping_threshold=60.0,
        http_proxy=None,
        mp_ctx=multiprocessing.get_context("forkserver"),
        loop=asyncio.get_running_loop(),
    )
    process.user_arguments = (str(tiny), str(socket))
    await process.start()
    try:
        await process.initialize()
        yield process
    finally:
        await process.aclose()


def job(room: str) -> RunningJobInfo:
    return RunningJobInfo(
        accept_arguments=JobAcceptArguments(name="", identity="agent", metadata=""),
        job=agent.Job(id=f"job-{room}", room=models.Room(name=room)),
        url="",
        token="",
        worker_id="worker",
        fake_job=True,
    )


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(100.0):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@asynccontextmanager
async def begun(server: TTS) -> AsyncIterator[Stream]:
    """A stream that is in the middle of its speech, as soon as there is room for it."""
    async with asyncio.timeout(100.0):
        while True:
            async with server.stream(params=livekit_job.QUICK, lead_s=0.1) as stream:
                stream.write(livekit_job.REPLY * 10)
                try:
                    await anext(stream)
                except Busy:
                    await asyncio.sleep(0.05)
                    continue
                yield stream
                return


def engine_pid(socket: Path) -> int:
    return int(socket.with_name(f"{socket.name}.lock").read_text())


@pytest.mark.timeout(300)  # four processes import the framework
async def test_two_jobs_speak_through_one_engine_and_a_job_that_is_killed_makes_room(tiny: Path, socket: Path) -> None:
    server = TTS.attach(socket, tiny, max_streams=2, idle_s=0.2)
    async with server, job_process(tiny, socket) as first, job_process(tiny, socket) as second:
        engine = engine_pid(socket)
        await first.launch_job(job("endless"))
        await until((socket.parent / "speaking").exists)
        await second.launch_job(job("short"))
        await until(lambda: list(socket.parent.glob("*.json")))
        (report,) = (json.loads(path.read_text()) for path in socket.parent.glob("*.json"))
        assert report["said"] == [livekit_job.REPLY]
        assert report["errors"] == 0
        assert not report["torch"]
        assert report["pid"] == second.pid != first.pid
        assert engine_pid(socket) == engine
        assert engine not in (first.pid, second.pid, os.getpid())
        os.kill(first.pid, signal.SIGKILL)
        # Two fit in, and what the killed job said was to go on for an hour.
        async with begun(server), begun(server):
            pass
    await until(lambda: not psutil.pid_exists(engine))


def test_a_named_model_is_shared_unless_that_is_not_wanted(monkeypatch: pytest.MonkeyPatch, socket: Path) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(TTS, "load", lambda *each: asked.append(("load", *each)))
    monkeypatch.setattr(TTS, "attach", lambda *each: asked.append(("attach", *each)))
    shared_engine("pocket", "auto")
    shared_engine("pocket", socket)
    shared_engine("pocket", None)
    assert asked == [("attach", socket_path("pocket"), "pocket"), ("attach", socket, "pocket"), ("load", "pocket")]


def test_jobs_find_each_other_by_the_model(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert socket_path("pocket") == socket_path("pocket")
    assert socket_path("pocket") != socket_path("tiny")
    monkeypatch.chdir(tiny.parent)
    assert socket_path(tiny.name) == socket_path(tiny)
    assert len(os.fsencode(socket_path("ResembleAI/chatterbox-flash"))) < 100
    folder = socket_path("pocket").parent
    assert folder.parent.is_dir()
    assert str(os.geteuid()) in str(folder)
