"""One server for several processes: who starts it, who may use it, and that what one does is nothing to the others."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest

from cf_agents import TTS, DecodeParams, ServerAbsent, ServerError, ServerExists, ServerMismatch, WorkerDied
from cf_agents.backends import Choice
from cf_agents.errors import BackendUnavailable, CheckpointDamaged, ConfigError, StreamClosed
from cf_agents.links import far as far_module
from cf_agents.links import guest as guest_module
from cf_agents.links.address import Address, check_peer
from cf_agents.links.attached import AttachedLink, Start
from cf_agents.links.base import Closed, Failed, Segment
from cf_agents.links.server import claimed
from cf_agents.links.wire import WIRE_VERSION, Close, Hello, Know, Message, Open, Position, Ready, Submit, encode
from cf_agents.serving import Demand, Served
from cf_agents.stream import Stream
from tests.fakes import fake_voice
from tests.links.studios import FACTORY, Studio, accept, open_studio, until
from tests.links.test_links import TEXT, Listener, check_sound, collect, write

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs Unix sockets")]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def anyio_backend() -> str:
    """What depends on the loop is in `test_links`."""
    return "asyncio"


def silently(message: str) -> None:
    pass


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(studio: Studio, how: signal.Signals = signal.SIGKILL) -> int:
    pid = studio.attached.pid
    assert pid is not None
    os.kill(pid, how)
    return pid


CLIENT = """
import hashlib, sys, anyio
from pathlib import Path
from cf_agents import DecodeParams
from cf_agents.links.base import Segment
from tests.fakes import fake_voice
from tests.links.studios import open_studio
from tests.links.test_links import TEXT, Listener, collect, write

async def main(folder, seed, long, among):
    async with open_studio("attached", folder, builds=str(folder / "builds")) as studio:
        (folder / f"here-{seed}").touch()
        while len(list(folder.glob("here-*"))) < among:
            await anyio.sleep(0.01)
        if long:
            # For minutes: only an end of this process can free its rows before the test gives up.
            listener = Listener()
            studio.link.open(fake_voice(), 1e9, listener).submit(Segment(0, "x" * 90_000, DecodeParams(), seed))
            await listener.until(1)
            print(studio.attached.pid, flush=True)
            await anyio.sleep(600)
        async with studio.stream(seed) as stream:
            write(stream, TEXT)
            first = await anext(stream)
            print(studio.attached.pid, flush=True)
            sound = first.pcm + b"".join(chunk.pcm for chunk in await collect(stream))
        print(hashlib.sha256(sound).hexdigest(), "torch" in sys.modules, flush=True)

anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "long", int(sys.argv[4]))
"""


@contextmanager
def client(folder: Path, seed: int, length: str = "short", among: int = 1) -> Iterator[subprocess.Popen[str]]:
    """A process that speaks over the socket in `folder`, and says the server's pid when it hears something.

    among: of how many it is. They begin when all are attached: the server of these tests ends soon after its last client.
    """
    command = [sys.executable, "-W", "error", "-c", CLIENT, str(folder)]
    with subprocess.Popen([*command, str(seed), length, str(among)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_processes_that_start_at_once_speak_through_one_server(tmp_path: Path) -> None:
    """Each sounds as it does alone, and none of them pays for torch."""
    with contextlib.ExitStack() as stack:
        processes = {seed: stack.enter_context(client(tmp_path, seed, among=12)) for seed in range(12)}
        said = {seed: (await anyio.to_thread.run_sync(process.communicate))[0].split() for seed, process in processes.items()}
    assert len({pid for pid, _, _ in said.values()}) == 1
    assert (tmp_path / "builds").read_bytes() == b"."
    async with open_studio("thread", tmp_path) as alone:
        for seed, (_, sound, torch) in said.items():
            async with alone.stream(seed) as stream:
                pcm = b"".join(chunk.pcm for chunk in await collect(write(stream, TEXT)))
            assert (sound, torch) == (hashlib.sha256(pcm).hexdigest(), "False")


async def test_a_client_that_is_killed_frees_its_rows_and_the_others_go_on(tmp_path: Path) -> None:
    async with open_studio("attached", tmp_path) as studio:
        studio.burn(0.002)
        with client(tmp_path, 1, "long") as process:
            assert process.stdout is not None
            assert int(await anyio.to_thread.run_sync(process.stdout.readline)) == studio.attached.pid
            assert studio.rows_used > 0
            async with studio.stream(2) as stream:
                write(stream, TEXT * 3)
                first = await anext(stream)
                process.kill()
                check_sound([first, *await collect(stream)], 2)
            await until(lambda: not studio.rows_used)


async def test_a_server_that_is_killed_fails_every_stream_and_is_replaced(tmp_path: Path) -> None:
    async with open_studio("attached", tmp_path, builds=str(tmp_path / "builds")) as studio:
        studio.burn(0.002)
        listeners = [Listener() for _ in range(3)]
        for listener in listeners:
            session = studio.link.open(fake_voice(), 1e9, listener)
            session.submit(Segment(0, "x" * 4000, DecodeParams(), 1))
        for listener in listeners:
            await listener.until(1)
        pid = kill(studio)
        for listener in listeners:
            await listener.over.wait()
            *_, failed, closed = listener.events
            assert isinstance(failed, Failed)
            assert type(failed.error) is WorkerDied
            assert closed == Closed()
        studio.burn(0.0)
        async with studio.stream(9) as stream:
            check_sound(await collect(write(stream, TEXT)), 9)
        assert studio.attached.pid not in (None, pid)
        assert (tmp_path / "builds").read_bytes() == b".."


async def test_a_server_ends_when_nobody_has_come_for_long_and_leaves_nothing(tmp_path: Path) -> None:
    async with open_studio("attached", tmp_path, idle_s=0.2) as studio:
        pid = studio.attached.pid
        assert pid is not None
        assert oct((tmp_path / "socket").stat().st_mode & 0o777) == "0o600"
        other = AttachedLink(tmp_path / "socket", None, silently, accept)
        await anyio.to_thread.run_sync(other.wait)
        await other.aclose()
        # One of two has left.
        await anyio.sleep(0.5)
        assert studio.attached.pid == pid
        assert alive(pid)
    await until(lambda: not alive(pid))
    assert os.listdir(tmp_path) == ["board"]


async def test_a_server_told_to_end_closes_its_streams_and_leaves_nothing(tmp_path: Path) -> None:
    async with open_studio("attached", tmp_path, idle_s=60.0) as studio:
        studio.burn(0.002)
        async with studio.stream() as stream:
            write(stream, TEXT * 50)
            await anext(stream)
            pid = kill(studio, signal.SIGTERM)
            with pytest.raises(StreamClosed):
                await collect(stream)
        await until(lambda: studio.attached.pid not in (None, pid))
        kill(studio, signal.SIGTERM)


async def test_who_may_not_start_a_server_says_how_and_finds_one_that_comes(tmp_path: Path) -> None:
    def attach() -> AttachedLink:
        link = AttachedLink(tmp_path / "socket", None, silently, accept)
        link.wait()
        return link

    with pytest.raises(ServerAbsent, match=r"cf-agents serve --socket .*/socket"):
        await anyio.to_thread.run_sync(attach)
    assert os.listdir(tmp_path) == []
    # What a dead server leaves is no server.
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "socket"))
    dead.close()
    with pytest.raises(ServerAbsent):
        await anyio.to_thread.run_sync(attach)
    async with open_studio("attached", tmp_path):
        link = await anyio.to_thread.run_sync(attach)
        await link.aclose()


def test_a_server_that_is_leaving_is_not_taken_for_one(tmp_path: Path) -> None:
    """It takes a connection and says nothing any more; the next one does."""
    with claimed(tmp_path / "socket") as (address, _), address.listen() as listener:

        def serve() -> None:
            listener.accept()[0].close()
            end, _ = listener.accept()
            with end:
                end.sendall(encode(Hello()) + encode(Ready(24_000, 1, {})))
                drain(end)

        thread = threading.Thread(target=serve)
        thread.start()
        told: list[str] = []
        link = AttachedLink(address.path, None, told.append, accept)
        link.wait()
        link.close()
        thread.join()
    assert told == ["Waiting for the process that speaks"]


async def test_equal_voices_of_two_clients_are_prepared_once(tmp_path: Path) -> None:
    async with open_studio("attached", tmp_path) as studio:
        other = AttachedLink(tmp_path / "socket", None, silently, accept)
        await anyio.to_thread.run_sync(other.wait)
        for link in (studio.link, other):
            async with Stream(link, fake_voice(), params=DecodeParams(), seed=1, lead_s=1e9) as stream:
                await collect(write(stream, TEXT))
        assert studio.voices_prepared == 1
        await other.aclose()


def test_who_sends_too_much_is_read_more_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 0.0, []
    monkeypatch.setattr(guest_module.time, "monotonic", lambda: now)
    monkeypatch.setattr(guest_module.time, "sleep", slept.append)
    pace = guest_module._Pace(per_s=10.0, at_once=5.0)
    for _ in range(7):
        pace.wait()
    assert slept == pytest.approx([0.1, 0.2])
    now = 100.0
    pace.wait()
    assert len(slept) == 2


def test_one_path_has_one_server(tmp_path: Path) -> None:
    with claimed(tmp_path / "socket") as (address, lock):
        lock.write_pid()
        with pytest.raises(ServerExists, match=f"process {os.getpid()}"), claimed(tmp_path / "socket"):
            pass
        with address.listen():
            end = address.connect()
            assert end is not None
            end.close()
    with claimed(tmp_path / "socket") as (address, _), socket.socket(socket.AF_UNIX) as other:
        (tmp_path / "socket").unlink()
        other.bind(str(tmp_path / "socket"))
        other.listen()
        with pytest.raises(ServerExists, match="Something else"):
            address.listen()
        (tmp_path / "socket").unlink()
        (tmp_path / "socket").write_text("a letter")
        with pytest.raises(ServerError, match="no socket"):
            address.listen()
        assert (tmp_path / "socket").read_text() == "a letter"


def test_a_lock_on_a_file_that_was_just_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder leaves between our opening the file and our locking it."""
    import fcntl

    address, flock, left = Address(tmp_path / "socket"), fcntl.flock, claimed(tmp_path / "socket")
    left.__enter__()

    def late(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        left.__exit__(None, None, None)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    lock = address.lock()
    assert lock is not None
    assert (tmp_path / "socket.lock").exists()
    assert address.lock() is None
    lock.release()


def test_a_path_that_is_not_this_users_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="takes 10"):
        Address(tmp_path / ("x" * 120))
    tmp_path.chmod(0o777)
    with pytest.raises(ServerError, match="anybody may write"), claimed(tmp_path / "socket"):
        pass
    tmp_path.chmod(0o700)
    near, far = socket.socketpair()
    with near, far:
        check_peer(near)
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        with pytest.raises(ServerError, match="another user"), claimed(tmp_path / "socket"):
            pass
        if sys.platform == "linux":
            with pytest.raises(ServerError, match="user 4711's"):
                check_peer(near)


VOICE = fake_voice().to_bytes()
DIGEST = hashlib.sha256(VOICE).hexdigest()
BEGUN = [Hello(), Know(DIGEST, VOICE), Open(1, DIGEST, 1.0)]
LONG = Segment(0, "x" * 100_001, DecodeParams(), 1)


@pytest.mark.parametrize(
    "sent",
    [
        [b"GET / HTTP/1.1\r\n\r\n"],
        [Hello(WIRE_VERSION + 1)],
        [Close(1)],
        [Hello(), Open(1, "0f", 1.0)],
        [Hello(), Know("0f", VOICE)],
        [Hello(), Know(hashlib.sha256(b"?").hexdigest(), b"?")],
        [*BEGUN, Open(1, DIGEST, 1.0)],
        [*BEGUN, Open(2, DIGEST, float("nan"))],
        [*BEGUN, Position(1, float("nan"))],
        [*BEGUN, Hello()],
        [*BEGUN, encode(Submit(1, LONG))[:-1] + b"?"],
    ],
)
async def test_a_client_that_makes_no_sense_is_let_go_and_the_others_go_on(shared: Studio, sent: list[Message | bytes]) -> None:
    shared.burn(0.001)
    async with shared.stream(3) as stream:
        write(stream, TEXT)
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(20)
            end.connect(str(shared.attached._address.path))
            end.sendall(b"".join(each if isinstance(each, bytes) else encode(each) for each in sent))
            await anyio.to_thread.run_sync(lambda: drain(end))
        check_sound(await collect(stream), 3)
    assert shared.rows_used == 0


def drain(end: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while end.recv(65536):
            pass


async def test_a_client_asks_for_too_much_and_only_that_stream_fails(shared: Studio) -> None:
    shared.burn(0.0)
    listeners = [Listener(), Listener()]
    long, many = (shared.link.open(fake_voice(), 1e-3, listener) for listener in listeners)
    long.submit(LONG)
    for index in range(100):
        many.submit(Segment(index, "x" * 400, DecodeParams(), 1))
    for listener, words in zip(listeners, ("characters", "More than 64 segments"), strict=True):
        await until(lambda listener=listener: any(isinstance(event, Failed) for event in listener.events))
        (failed,) = [event for event in listener.events if isinstance(event, Failed)]
        assert words in str(failed.error)
    async with shared.stream(4) as stream:
        check_sound(await collect(write(stream, TEXT)), 4)
    for session, listener in zip((long, many), listeners, strict=True):
        session.close()
        await listener.over.wait()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    studio = Studio("attached", tmp_path_factory.mktemp("attached"))
    yield studio
    studio.link.close()


def test_what_stops_loading_reaches_who_waits(tmp_path: Path) -> None:
    link = AttachedLink(tmp_path / "socket", Start(FACTORY, {"error": "damaged"}, 1.0), silently, accept)
    with pytest.raises(CheckpointDamaged, match="download it again"):
        link.wait()


def test_a_client_that_is_told_to_stop_waiting_stops(tmp_path: Path) -> None:
    told, abandoned = threading.Event(), threading.Event()
    link = AttachedLink(tmp_path / "socket", Start(FACTORY, {"error": "slow"}, 0.1), lambda message: told.set(), accept)
    told.wait(60)
    abandoned.set()
    with pytest.raises(StreamClosed):
        link.wait(abandoned)
    deadline = time.monotonic() + 20
    while (pid := link.pid) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    while (tmp_path / "socket.lock").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not (tmp_path / "socket.lock").exists()


async def test_another_version_is_a_mismatch(shared: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_module, "WIRE_VERSION", WIRE_VERSION + 1)
    link = AttachedLink(shared.attached._address.path, None, silently, accept)
    with pytest.raises(ServerMismatch, match="another cf_agents"):
        await anyio.to_thread.run_sync(link.wait)


def test_a_server_with_another_model_is_refused_and_both_are_named() -> None:
    served = Served("models/a", Choice("dense", "cpu", "float32", "as asked"))
    asked = {"backend": "auto", "device": "auto", "dtype": "auto", "quantise": "auto", "threads": None}
    Demand(None, asked).check(served)
    Demand("models/a", {**asked, "dtype": "float32"}).check(served)
    with pytest.raises(ServerMismatch, match=r"folder models/a, and folder models/b was asked"):
        Demand("models/b", asked).check(served)
    with pytest.raises(ServerMismatch, match=r"device cpu, and device cuda was asked"):
        Demand("models/a", {**asked, "device": "cuda"}).check(served)
    with pytest.raises(ServerMismatch, match=r"threads 1, and threads 2 was asked"):
        Demand("models/a", {**asked, "threads": 2}).check(served)
    quantised = Served("models/a", replace(served.choice, quantise=8))
    Demand(None, asked).check(quantised)
    Demand(None, {**asked, "quantise": 8}).check(quantised)
    with pytest.raises(ServerMismatch, match=r"quantise 8, and quantise None was asked"):
        Demand(None, {**asked, "quantise": None}).check(quantised)
    with pytest.raises(ServerMismatch, match=r"quantise None, and quantise 8 was asked"):
        Demand(None, {**asked, "quantise": 8}).check(served)
    first = Demand(None, asked)
    first.check(served)
    with pytest.raises(ServerMismatch):
        first.check(Served("models/b", served.choice))


async def test_a_link_whose_check_says_no_lets_go(shared: Studio) -> None:
    def refuse(about: object) -> None:
        raise ServerMismatch(f"not {about}")

    link = AttachedLink(shared.attached._address.path, None, silently, refuse)
    with pytest.raises(ServerMismatch, match="pool"):
        await anyio.to_thread.run_sync(link.wait)
    assert "cf-agents-far-link" not in [thread.name for thread in threading.enumerate() if thread is link._keeper]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_is_left_in_a_client(shared: Studio) -> None:
    # A thread of an earlier test may still be on its way out: it may go, but none may come.
    descriptors, threads = len(os.listdir("/proc/self/fd")), set(threading.enumerate())
    for _ in range(3):
        link = AttachedLink(shared.attached._address.path, None, silently, accept)
        link.wait()
        link.close()
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_nothing_is_left_in_a_server(shared: Studio) -> None:
    def count() -> tuple[int, int]:
        return len(os.listdir(f"/proc/{shared.attached.pid}/fd")), len(os.listdir(f"/proc/{shared.attached.pid}/task"))

    async def come_and_go() -> None:
        link = AttachedLink(shared.attached._address.path, None, silently, accept)
        await anyio.to_thread.run_sync(link.wait)
        await link.aclose()

    before = count()
    for _ in range(5):
        await come_and_go()
    await until(lambda: count() == before)


def test_without_unix_sockets_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_module.sys, "platform", "win32")
    with pytest.raises(BackendUnavailable, match="Unix sockets"):
        TTS.attach("socket")


@contextmanager
def command_line(*args: str | Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "cf_agents", *map(str, args)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_model_is_served_from_the_command_line(tiny_folder: Path, tmp_path: Path) -> None:
    """And another one is refused there; it ends cleanly when told to."""
    path, folder = tmp_path / "s", str(tiny_folder)
    with command_line("serve", "--socket", path, "--model", tiny_folder, "--threads", "1") as process:
        await until(lambda: path.exists())
        async with TTS.attach(path) as tts:
            assert (str(tts.folder), tts.choice.device, list(tts.voices)) == (folder, "cpu", ["default"])
            said = await tts.say("Hello.", params=DecodeParams(steps=2, max_tokens=24), seed=3)
            assert np.abs(said.samples.astype(int)).max() > 300
            with pytest.raises(ServerMismatch, match=rf"{folder}, and folder .*pocket was asked"):
                await TTS.attach(path, "pocket").__aenter__()
        process.terminate()
        words = (await anyio.to_thread.run_sync(process.communicate))[1]
    assert (process.returncode, os.listdir(tmp_path)) == (0, [])
    assert "speaks on" in words
