"""A link to a server that listens on a socket path, which several processes of one user share; the first of them may start it.

    connect --> it greets --> attached
       | nobody there, or it is just leaving
       v
    lock --> taken: start a server, which inherits the lock --> connect again
       | held: a server is about to listen, or is leaving --> wait, connect again

The server is nobody's child: it outlives the client that started it, and ends some time after the last one has left. Knows
nothing of models.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cf_agents.errors import BackendUnavailable, CfAgentsError, ServerAbsent, ServerMismatch, WorkerDied
from cf_agents.links.address import Address, Lock
from cf_agents.links.command import python_command
from cf_agents.links.far import FarLink, check_sockets
from cf_agents.links.wire import WIRE_VERSION

POLL_S = 0.02
"""How often a server that is coming or leaving is looked for."""


@dataclass(frozen=True)
class Start:
    """The server to start where there is none: what it speaks with (see `host.Host`), and how long it stays without clients."""

    factory: str
    arguments: Mapping[str, object]
    idle_s: float


class AttachedLink(FarLink):
    """A `FarLink` to the server of a socket path. start: None to use only one that is there. check: see `FarLink`.

    Raises `BackendUnavailable` on a system without Unix sockets. `wait` raises `ServerError` for a path or a server that cannot
    be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        start: Start | None,
        progress: Callable[[str], None],
        check: Callable[[object], None],
    ) -> None:
        check_sockets()
        address = Address(path)
        super().__init__(lambda: _Attached(address, start), progress, check)
        self._address = address

    @property
    def pid(self) -> int | None:
        """The server, None while there is none."""
        return self._address.pid()


class _Attached:
    """See `far.Far`. It is nobody's own: there is nothing to end."""

    def __init__(self, address: Address, start: Start | None) -> None:
        self._address = address
        self._start = start

    def reach(self, tell: Callable[[str], None], closed: threading.Event) -> socket.socket | None:
        started = waited = False
        while not closed.is_set():
            end = self._address.connect()
            if end is not None and _greeted(end, closed):
                return end
            lock = self._address.lock()
            if lock is None:
                if not waited:
                    tell("Waiting for the process that speaks")
                    waited = True
                closed.wait(POLL_S)
            elif self._start is None:
                lock.release()
                raise ServerAbsent(
                    f"No server listens on {self._address.path}: start one with "
                    f"`cf-agents serve --socket {self._address.path}`, or let TTS.attach start it with start=True."
                )
            elif started:
                lock.release()
                raise WorkerDied(f"The process that speaks ended as it began; {self._address.log} may tell why.")
            else:
                tell("Starting the process that speaks")
                _start_server(self._address, lock, self._start)
                started = True
        return None

    def stranger(self) -> CfAgentsError:
        return ServerMismatch(
            f"The server on {self._address.path} is of another cf_agents, which does not speak protocol {WIRE_VERSION}: "
            "end it and let this one start another, or give another path."
        )

    def abandon(self) -> None:
        pass

    def kill(self) -> None:
        pass

    def cause(self, patience_s: float) -> str:
        return f"on {self._address.path} is gone"

    def bury(self, patience_s: float) -> None:
        pass


def _greeted(end: socket.socket, closed: threading.Event) -> bool:
    """Whether a server is there that says hello: one that is leaving takes connections and says nothing. Else closes `end`."""
    end.settimeout(0.1)
    with contextlib.suppress(ConnectionError):
        while not closed.is_set():
            with contextlib.suppress(TimeoutError):
                if not end.recv(1, socket.MSG_PEEK):
                    break
                end.settimeout(None)
                return True
    end.close()
    return False


def _start_server(address: Address, lock: Lock, start: Start) -> None:
    what = str(address.path), repr(start.idle_s), start.factory, json.dumps(start.arguments)
    command = python_command("cf_agents.links.server", str(lock.descriptor), *what, detached=True)
    try:
        log = os.open(address.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(lock.descriptor,),
                cwd=address.path.parent,
                start_new_session=True,
                check=True,
            )
        finally:
            os.close(log)
    except (OSError, subprocess.CalledProcessError) as error:
        lock.release()
        raise BackendUnavailable(f"The process that speaks cannot be started ({error}); {address.log} may tell why.") from error
    lock.hand_over()
