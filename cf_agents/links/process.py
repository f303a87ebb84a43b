"""A link to a scheduler in a child process, so that neither has to share an interpreter with the other.

The child is started from the link's keeper, which lives as long as the link: Linux kills a child that asked to die with its
parent when the *thread* that started it ends. Knows nothing of models.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping

from cf_agents.errors import BackendUnavailable, CfAgentsError
from cf_agents.links.command import python_command
from cf_agents.links.far import FarLink


class ProcessLink(FarLink):
    """A `FarLink` to a child process, which the link starts, keeps and ends; it dies with this process.

    factory: "module:function", a `host.Factory`, called in the child with `arguments` (plain data).
    """

    def __init__(self, factory: str, arguments: Mapping[str, object], progress: Callable[[str], None]) -> None:
        self._child: _Child

        def far() -> _Child:
            self._child = _Child(factory, arguments)
            return self._child

        super().__init__(far, progress, lambda about: None)

    @property
    def pid(self) -> int | None:
        """The child, None while there is none."""
        process = self._child.process
        return process.pid if process is not None and process.returncode is None else None


class _Child:
    """See `far.Far`."""

    def __init__(self, factory: str, arguments: Mapping[str, object]) -> None:
        self._factory = factory
        self._arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None

    def reach(self, tell: Callable[[str], None], closed: threading.Event) -> socket.socket | None:
        if closed.is_set():
            return None
        near, far = socket.socketpair()
        with far:
            what = self._factory, json.dumps(self._arguments)
            command = python_command("cf_agents.links.worker", str(far.fileno()), str(os.getpid()), *what)
            try:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(far.fileno(),)
                )
            except BaseException:
                near.close()
                raise
        return near

    def stranger(self) -> CfAgentsError:
        return BackendUnavailable("cf_agents was changed on disk while this process ran; start it again.")

    def abandon(self) -> None:
        if self.process is not None:
            self.process.terminate()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def cause(self, patience_s: float) -> str:
        code = self._exit_code(patience_s)
        if code is None:
            return "closed its connection"
        if code < 0:
            return f"was killed by signal {-code}"
        return f"ended with exit code {code}"

    def bury(self, patience_s: float) -> None:
        if self.process is not None and self._exit_code(patience_s) is None:
            self.process.kill()
            self.process.wait()

    def _exit_code(self, patience_s: float) -> int | None:
        if self.process is None:
            return None
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return None
