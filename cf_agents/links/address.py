"""A socket path: who may be there, the lock that says who is, and the socket itself. For one user of one machine.

    PATH         the socket, 0600
    PATH.lock    locked (flock) by the server from before it listens to after it has gone, whichever way it goes; holds its pid
    PATH.log     what a server that nobody watches had to say

A socket file whose lock is free is a dead server's. Knows nothing of what is said over the socket. Needs a system with Unix
sockets.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import sys
from pathlib import Path

from cf_agents.errors import ConfigError, ServerError, ServerExists

BACKLOG = 128
_MOST_BYTES = 103 if sys.platform == "darwin" else 107
"""Of a socket's path; sys/un.h."""


class Lock:
    """The right to be the server of a path, until it is let go or every process that has it is gone."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor = descriptor
        self._path = path

    def write_pid(self) -> None:
        """Say who has it."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, str(os.getpid()).encode(), 0)

    def hand_over(self) -> None:
        """Another process that inherited it keeps it."""
        os.close(self.descriptor)

    def release(self) -> None:
        """Let go, and leave no file."""
        self._path.unlink(missing_ok=True)
        os.close(self.descriptor)


class Address:
    """A path for a socket. Raises `ConfigError` for one that no socket can have."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        self.log = self.path.with_name(f"{self.path.name}.log")
        self._lock = self.path.with_name(f"{self.path.name}.lock")
        length = len(os.fsencode(self.path))
        if length > _MOST_BYTES:
            raise ConfigError(f"The socket path {self.path} has {length} bytes; this system takes {_MOST_BYTES}. Give another.")

    def connect(self) -> socket.socket | None:
        """A connection to who listens; None when nobody does. Raises `ServerError` when that is another user's process."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            end.connect(str(self.path))
            check_peer(end)
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
            end.close()
            return None
        except OSError as error:
            end.close()
            raise ServerError(f"The socket {self.path} cannot be used ({error.strerror}). Give another path.") from error
        except BaseException:
            end.close()
            raise
        return end

    def lock(self) -> Lock | None:
        """The right to be the server here; None when another process has it.

        Raises `ServerError` for a folder where somebody else could put a socket in this one's place.
        """
        import fcntl

        self._check_folder()
        while True:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), self._lock.stat()):
                    return Lock(descriptor, self._lock)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(descriptor)
                raise
            # It was released between: what is locked is no file any more.
            os.close(descriptor)

    def inherited(self, descriptor: int) -> Lock:
        """The lock that the process which started this one took for it."""
        os.set_inheritable(descriptor, False)
        return Lock(descriptor, self._lock)

    def listen(self) -> socket.socket:
        """The socket, for whoever has the lock: a dead server's is replaced.

        Raises `ServerExists` when something listens there that has no lock, `ServerError` when the path is no socket's.
        """
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                raise ServerError(f"{self.path} is there and is no socket: remove it, or give another path.")
            if (end := self.connect()) is not None:
                end.close()
                raise ServerExists(f"Something else listens on {self.path}: give another path.")
            self.path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self.path))
            # Nobody can connect before listen().
            self.path.chmod(0o600)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise ServerError(f"Cannot listen on {self.path} ({error.strerror}). Give another path.") from error
        return listener

    def pid(self) -> int | None:
        """Of the server, if there is one that says so."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._lock.read_text())
        return None

    def _check_folder(self) -> None:
        folder = self.path.parent
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.stat()
        except OSError as error:
            raise ServerError(f"There is no folder for {self.path} ({error.strerror}); make it, or give another.") from error
        if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
            raise ServerError(
                f"The folder {folder} belongs to another user, or anybody may write there: a socket in it could be somebody "
                "else's. Give a path in a folder of your own."
            )


def check_peer(end: socket.socket) -> None:
    """Raise `ServerError` when the process at the other end of `end` is another user's; where the system tells (Linux)."""
    if sys.platform == "linux":
        try:
            credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the other end is gone") from error
        _, user, _ = struct.unpack("3i", credentials)
        if user != os.geteuid():
            raise ServerError(f"The other end of the socket is user {user}'s process, and this one user {os.geteuid()}'s.")
