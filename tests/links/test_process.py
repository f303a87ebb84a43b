"""The child process: how it begins, how it dies, and that nothing is left of it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cf_agents import TTS
from cf_agents.checkpoint import S3GEN_FILE
from cf_agents.config import Bits, DecodeParams
from cf_agents.errors import BackendUnavailable, Busy, CheckpointDamaged, ConfigError, StreamClosed, WorkerDied
from cf_agents.links import far as far_module
from cf_agents.links.base import Failed, Segment
from cf_agents.links.command import NICENESS, TURN_S
from cf_agents.links.far import TELLING_S, FarLink
from cf_agents.links.process import ProcessLink
from cf_agents.links.seats import Seats
from cf_agents.links.wire import WIRE_VERSION
from cf_agents.models.linear import int8_missing
from cf_agents.opening import Linked
from tests.fakes import fake_voice
from tests.links.studios import FACTORY, Kind, Studio, open_studio, until
from tests.links.test_links import TEXT, Listener, check_sound, collect, write

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs Unix sockets")]


@pytest.fixture
def anyio_backend() -> str:
    """What depends on the loop is in `test_links`."""
    return "asyncio"


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def silently(message: str) -> None:
    pass


def kill(studio: Studio, how: signal.Signals = signal.SIGKILL) -> int:
    pid = studio.process.pid
    assert pid is not None
    os.kill(pid, how)
    return pid


async def restarted(studio: Studio, pid: int) -> None:
    """There is another child than `pid`."""
    await until(lambda: studio.process.pid not in (None, pid))


async def test_a_child_begins_tells_and_ends(tmp_path: Path) -> None:
    async with open_studio("process", tmp_path, pool=6) as studio:
        pid = studio.process.pid
        assert pid is not None
        assert pid != os.getpid()
        assert studio.told == ["Building fakes"]
        assert studio.process.about == {"pool": 6}
    assert studio.process.pid is None
    assert not alive(pid)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_child_that_dies_fails_every_stream_and_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    async with open_studio("process", tmp_path) as studio:
        studio.burn(0.002)
        streams = [write(studio.stream(seed), TEXT * 50) for seed in range(3)]
        for stream in streams:
            await anext(stream)
        idle = Listener()
        studio.link.open(fake_voice(), 1.0, idle)
        patience: list[float] = []
        cause = studio.process._child.cause
        monkeypatch.setattr(studio.process._child, "cause", lambda s: (patience.append(s), cause(s))[1])
        pid = kill(studio, how)
        await idle.over.wait()
        # Nobody who has a stream waits longer for what the child died of. benchmarks/links.py measures the whole.
        assert patience == [TELLING_S] or how == signal.SIGTERM
        # A child that is asked to go closes its streams itself.
        error = StreamClosed if how == signal.SIGTERM else WorkerDied
        assert [type(event.error) for event in idle.events if isinstance(event, Failed)] == [error]
        studio.burn(0.0)
        if how == signal.SIGTERM:
            await restarted(studio, pid)
        # Else no waiting: a stream that is opened now begins when the next child is ready.
        async with studio.stream(9) as stream:
            check_sound(await collect(write(stream, TEXT)), 9)
        assert studio.process.pid not in (None, pid)
        for stream in streams:
            with pytest.raises(error):
                await collect(stream)
            await stream.aclose()
        assert not alive(pid)
        assert studio.rows_used == 0


class Pause(threading.Event):
    """Waits until `over`, instead of so many seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_s: list[float] = []
        self.over = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.asked_s.append(timeout)
        if timeout:
            self.over.wait(20.0)
        return self.is_set()


def turn_s(thread: int) -> float:
    """How long a thread may have a core at a time; 0 where Linux cannot be asked for it (before 6.12)."""
    number = {"x86_64": 315, "aarch64": 275}.get(platform.machine())
    if number is None:
        return 0.0
    attributes = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(number, thread, attributes, 48, 0) == 0
    return struct.unpack_from("=Q", attributes, 24)[0] / 1e9


@LINUX
@pytest.mark.parametrize("kind", ["process", "attached"])
async def test_what_speaks_takes_longer_turns_than_the_agent(tmp_path: Path, kind: Kind) -> None:
    """So that the agent's loop need not wait for the end of one."""
    own_s = turn_s(threading.get_native_id())
    if not own_s:
        pytest.skip("this Linux has no turns to ask for; 6.12 and later have")
    assert own_s < TURN_S
    async with open_studio(kind, tmp_path) as studio:
        assert isinstance(studio.link, FarLink)
        async with studio.stream() as stream:
            await collect(write(stream, TEXT))
        threads = os.listdir(f"/proc/{studio.link.pid}/task")
        assert len(threads) > 2
        assert {turn_s(int(thread)) for thread in threads} == {TURN_S}
    assert turn_s(threading.get_native_id()) == own_s


@pytest.mark.parametrize("kind", ["process", "attached"])
async def test_what_speaks_stands_behind_the_agent(tmp_path: Path, kind: Kind) -> None:
    async with open_studio(kind, tmp_path) as studio:
        assert isinstance(studio.link, FarLink)
        assert studio.link.pid is not None
        async with studio.stream() as stream:
            await collect(write(stream, TEXT))
        asked = min(os.getpriority(os.PRIO_PROCESS, 0) + NICENESS, 19)
        threads = os.listdir(f"/proc/{studio.link.pid}/task") if sys.platform == "linux" else [studio.link.pid]
        assert len(threads) > 2 or sys.platform != "linux"
        assert {os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in threads} == {asked}


async def test_deaths_in_a_row_bring_a_pause_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause is longer than the test; it ends when the test says so."""
    monkeypatch.setattr(far_module, "BACKOFF_S", (40.0, 60.0))
    async with open_studio("process", tmp_path) as studio:
        closed = Pause()
        monkeypatch.setattr(studio.process, "_closed", closed)
        pid = kill(studio)
        await restarted(studio, pid)
        async with studio.stream(1) as stream:
            await collect(write(stream, TEXT))
            pid = kill(studio)
            await until(lambda: studio.process.pid != pid)
            with pytest.raises(Busy, match="started in") as caught:
                studio.stream(2)
        assert 20.0 < caught.value.retry_after_s <= 40.0
        await until(lambda: closed.asked_s == [0.0, 40.0])
        studio.process._retry_at = 0.0
        closed.over.set()
        async with studio.stream(3) as stream:
            check_sound(await collect(write(stream, TEXT)), 3)


async def test_a_successor_that_cannot_load_says_why(tmp_path: Path) -> None:
    async with open_studio("process", tmp_path, once=str(tmp_path / "once")) as studio:
        pid = kill(studio)
        await until(lambda: studio.process.pid != pid)
        async with studio.stream() as stream:
            with pytest.raises(BackendUnavailable, match="device is gone"):
                await collect(write(stream, TEXT))


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("damaged", CheckpointDamaged, "download it again"),
        ("untyped", BackendUnavailable, "RuntimeError: no kernel image"),
    ],
)
def test_what_stops_loading_is_raised_and_leaves_nothing(
    how: str, error: type[Exception], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    link = ProcessLink(FACTORY, {"error": how}, silently)
    with pytest.raises(error, match=words):
        link.wait()
    assert link.pid is None
    link.close()
    assert ("Traceback" in capfd.readouterr().err) == (how == "untyped")


def test_a_child_killed_while_it_loads_is_an_error(tmp_path: Path) -> None:
    told = threading.Event()
    link = ProcessLink(FACTORY, {"error": "slow"}, lambda message: told.set())
    told.wait(60)
    assert link.pid is not None
    os.kill(link.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="signal 9"):
        link.wait()


@pytest.mark.parametrize("told_first", [True, False])
def test_loading_that_is_abandoned_ends_at_once(told_first: bool) -> None:
    told, abandoned = threading.Event(), threading.Event()
    link = ProcessLink(FACTORY, {"error": "slow"}, lambda message: told.set())
    if told_first:
        told.wait(60)
    abandoned.set()
    began = time.monotonic()
    with pytest.raises(StreamClosed):
        link.wait(abandoned)
    # Building takes a minute.
    assert time.monotonic() - began < 40.0
    assert link.pid is None


async def test_a_voice_is_sent_once_and_forgotten_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_module, "KEPT_VOICES", 2)
    async with open_studio("process", tmp_path) as studio:

        async def say(name: str) -> None:
            async with studio.stream(name=name) as stream:
                await collect(write(stream, "Hello."))

        # Each time a new object, equal in content.
        for name in ("a", "a", "b", "a"):
            await say(name)
        assert studio.voices_prepared == 2
        for name in ("c", "b"):
            await say(name)
        assert studio.voices_prepared == 4


async def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_module, "WIRE_VERSION", WIRE_VERSION + 1)
    link = ProcessLink(FACTORY, {"board": str(tmp_path / "board")}, silently)
    with pytest.raises(BackendUnavailable, match="changed on disk"):
        link.wait()


async def test_a_stream_whose_reader_stands_still_is_stopped_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the reader is this whole process, as the link's thread takes what comes at once: it is held up."""
    async with open_studio("process", tmp_path, backlog=200_000) as studio:
        gate, slow = threading.Event(), Listener()
        session = studio.link.open(fake_voice(), 1e9, slow)
        take = studio.process._take

        def held(line: object, message: object) -> None:
            gate.wait(20)
            take(line, message)  # type: ignore[arg-type]

        monkeypatch.setattr(studio.process, "_take", held)
        async with studio.stream(1) as stream:
            session.submit(Segment(0, "x" * 40_000, DecodeParams(steps=1), 1))
            await until(lambda: studio.steps > 0 and not studio.rows_used)
            gate.set()
            check_sound(await collect(write(stream, TEXT)), 1)
        failed = [event for event in slow.events if isinstance(event, Failed)]
        assert len(failed) == 1
        assert "stood still" in str(failed[0].error)
        await slow.over.wait()


async def test_a_far_side_that_is_full_says_busy_before_any_audio(tmp_path: Path) -> None:
    """It may be shared with other processes, of whose streams this one does not know."""
    async with open_studio("process", tmp_path, max_streams=1, pool=2) as studio:
        async with studio.stream(1):
            studio.process._seats = Seats(9, studio.link.sample_rate)
            async with studio.stream(2) as stream:
                with pytest.raises(Busy, match="max_streams") as caught:
                    await collect(write(stream, TEXT))
                assert caught.value.retry_after_s > 0.0
        async with studio.stream(3) as stream:
            check_sound(await collect(write(stream, TEXT)), 3)


async def test_a_child_that_dies_leaves_its_seats(tmp_path: Path) -> None:
    async with open_studio("process", tmp_path, max_streams=1, pool=2) as studio:
        stream = studio.stream(1)
        kill(studio)
        with pytest.raises(WorkerDied):
            await collect(write(stream, TEXT))
        async with studio.stream(2) as stream:
            check_sound(await collect(write(stream, TEXT)), 2)


PARENT = """
import os, sys, threading
from pathlib import Path
from tests.links.studios import Studio
studio = Studio("process", Path(sys.argv[1]))
print(studio.process.pid, flush=True)
{then}
"""


def parent(folder: Path, then: str) -> tuple[subprocess.Popen[str], int]:
    ran = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PARENT.replace("{then}", then), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert ran.stdout is not None
    return ran, int(ran.stdout.readline())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_dies_with_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    ran, pid = parent(tmp_path, "threading.Event().wait(60)")
    assert alive(pid)
    ran.send_signal(how)
    ran.communicate()
    gone(pid)


FORKS = """
import warnings
warnings.simplefilter("ignore")  # of threads and forks
forked = os.fork()
if forked:
    print(forked, flush=True)
threading.Event().wait(60)
"""


@LINUX
def test_a_child_dies_with_its_parent_while_a_fork_holds_its_socket(tmp_path: Path) -> None:
    ran, pid = parent(tmp_path, FORKS)
    assert ran.stdout is not None
    forked = int(ran.stdout.readline())
    try:
        ran.kill()
        ran.wait()
        gone(pid)
    finally:
        os.kill(forked, signal.SIGKILL)
        ran.stdout.close()


def gone(pid: int) -> None:
    deadline = time.monotonic() + 20.0
    while alive(pid) and not is_zombie(pid):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_zombie(pid: int) -> bool:
    """It is dead, and whoever took it over has not looked yet."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


def test_a_parent_that_forgets_to_close_can_leave(tmp_path: Path) -> None:
    ran, pid = parent(tmp_path, "")
    assert ran.stdout is not None
    ran.stdout.close()
    assert ran.wait(60) == 0
    gone(pid)


def test_the_thread_that_loads_may_end(tmp_path: Path) -> None:
    """A child that dies with its parent dies with the thread that started it: that one must be the link's own."""
    made: list[Studio] = []
    thread = threading.Thread(target=lambda: made.append(Studio("process", tmp_path)))
    thread.start()
    thread.join()
    pid = made[0].process.pid
    time.sleep(0.2)
    assert made[0].process.pid == pid
    assert pid is not None
    assert alive(pid)
    made[0].link.close()


@LINUX
def test_nothing_is_left_behind(tmp_path: Path) -> None:
    def count() -> tuple[int, int, int]:
        children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
        begun = len(children.read_text().split()) if children.exists() else 0
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("cf-agents")]
        return len(os.listdir("/proc/self/fd")), begun, len(threads)

    before = count()
    for turn in range(3):
        studio = Studio("process", tmp_path)
        if turn == 1:
            pid = kill(studio)
            while studio.process.pid in (None, pid):
                time.sleep(0.005)
        studio.link.close()
        studio.board.close()
    assert count() == before


def test_the_agents_process_has_no_torch(tmp_path: Path) -> None:
    ran, _ = parent(tmp_path, "studio.link.close(); sys.exit('torch' in sys.modules)")
    assert ran.stdout is not None
    ran.stdout.close()
    assert ran.wait(60) == 0


QUICK = DecodeParams(steps=2, max_tokens=24)


@pytest.mark.parametrize(("asked", "had"), [(None, 4), (3, 3)])
async def test_torch_has_the_threads_that_were_asked_for_and_else_its_own(
    tiny_folder: Path, asked: int | None, had: int
) -> None:
    before, found = torch.get_num_threads(), list[int]()
    torch.set_num_threads(4)
    try:
        async with TTS.load(tiny_folder, device="cpu", link="thread", threads=asked) as tts:
            # As in the scheduler's, which began like this one.
            thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            assert tts.choice.threads == had
    finally:
        torch.set_num_threads(before)
    assert found == [had]


@pytest.mark.skipif(int8_missing() is not None, reason=str(int8_missing()))
async def test_a_model_is_served_in_the_bits_that_its_checkpoint_names_unless_it_is_told_otherwise(
    tiny_folder: Path, tmp_path: Path
) -> None:
    named = shutil.copytree(tiny_folder, tmp_path / "named")
    (named / "config.json").write_text(json.dumps({**json.loads((named / "config.json").read_text()), "quantise": 8}))

    async def say(folder: Path, link: Linked, bits: Bits, **asked: Any) -> bytes:
        async with TTS.load(folder, params=QUICK, device="cpu", dtype="float32", threads=1, link=link, **asked) as tts:
            assert tts.choice.quantise == bits
            return (await tts.say(TEXT, seed=3)).pcm

    eight = await say(tiny_folder, "thread", 8, quantise=8)
    plain = await say(tiny_folder, "thread", None)
    assert eight != plain
    assert await say(named, "thread", 8) == eight
    assert await say(named, "process", 8) == eight
    assert await say(named, "process", None, quantise=None) == plain


async def test_a_model_speaks_alike_through_both_links(tiny_folder: Path) -> None:
    said: list[bytes] = []
    for link in ("thread", "process"):
        told: list[str] = []
        async with TTS.load(tiny_folder, params=QUICK, device="cpu", link=link, progress=told.append) as tts:
            said.append((await tts.say(TEXT, seed=3)).pcm)
            assert (tts.choice.backend, tts.choice.device) == ("dense", "cpu")
        assert [message.split()[0] for message in told] == ["Looking", "Importing", "Reading", "Reading", "Warming"]
    thread, process = (np.frombuffer(pcm, "<i2").astype(int) for pcm in said)
    assert len(thread) >= 24 * 960
    # The child has its own number of torch threads, so floats may differ in their last bits.
    assert np.abs(thread - process).max() <= 2


async def test_an_error_of_the_childs_loading_is_the_loads(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "copy")
    weights = tmp_path / "copy" / S3GEN_FILE
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointDamaged):
        await TTS.load(tmp_path / "copy", link="process").__aenter__()
    with pytest.raises(ConfigError, match="no link 'pipe'"):
        TTS.load(tiny_folder, link="pipe")  # type: ignore[arg-type]


def test_a_model_in_a_child_leaves_the_agent_without_torch(tiny_folder: Path) -> None:
    code = """
import sys, anyio
from cf_agents import TTS

async def main():
    async with TTS.load(sys.argv[1], link="process") as tts, tts.stream() as stream:
        stream.write("Hello.")
        stream.end()
        assert [chunk async for chunk in stream]

anyio.run(main)
sys.exit("torch" in sys.modules)
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tiny_folder)], check=True, timeout=100, cwd=root)
