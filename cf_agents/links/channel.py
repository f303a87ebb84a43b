"""One end of a socket that carries messages both ways: whoever sends never waits, whoever receives has a thread for it.

    send --> straight into the socket, or --> backlog --> writer thread --> socket        (the other end is slow)
    receive <-- socket

Knows nothing of what the messages mean.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter, deque

from cf_agents.links.wire import Message, encode, read_message

BACKLOG_BYTES = 8 * 2**20
"""What one owner may have waiting: almost three minutes of audio."""
JOIN_S = 1.0


class Channel:
    """Messages over a connected stream socket, which it owns. `send` is for any thread, `receive` for one.

    backlog_bytes: what one owner may have waiting when the other end does not read.
    """

    def __init__(self, end: socket.socket, backlog_bytes: int = BACKLOG_BYTES) -> None:
        self._socket = end
        self._file = end.makefile("rb")
        self._backlog_bytes = backlog_bytes
        self._changed = threading.Condition()
        self._backlog: deque[tuple[memoryview, int | None]] = deque()
        """The first one may be half sent, by the writer alone."""
        self._waiting: Counter[int] = Counter()
        self._broken = False
        self._writer: threading.Thread | None = None

    def send(self, message: Message, owner: int | None = None) -> bool:
        """Send, or keep for the writer thread; at once in both cases. To an end that is gone: nothing.

        False when `owner` has too much waiting already, and the message is dropped. Without an owner it never is.
        """
        frame = memoryview(encode(message))
        with self._changed:
            if self._broken:
                return True
            if not self._backlog:
                frame = self._send_now(frame)
                if not frame:
                    return True
            if owner is not None:
                if self._waiting[owner] + len(frame) > self._backlog_bytes and self._waiting[owner]:
                    return False
                self._waiting[owner] += len(frame)
            self._backlog.append((frame, owner))
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="cf-agents-writer", daemon=True)
                self._writer.start()
            self._changed.notify_all()
        return True

    def receive(self) -> Message | None:
        """The next message, however long it takes; None when the other end is gone. Raises `WireError`."""
        try:
            return read_message(self._file.read)
        except (OSError, ValueError):
            return None

    def flush(self, timeout_s: float) -> None:
        """Wait until everything is sent, or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or not self._backlog, timeout_s)

    def end_sending(self) -> None:
        """Tell the other end that nothing more comes; what waits is dropped. It may still send."""
        self._break(socket.SHUT_WR)

    def end_receiving(self) -> None:
        """Let `receive` see the end, now. May be called from a signal handler."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Let go of the socket. The thread that receives calls this; closing twice is fine."""
        self._break(socket.SHUT_RDWR)
        if self._writer is not None and self._writer is not threading.current_thread():
            self._writer.join(JOIN_S)
        self._file.close()
        self._socket.close()

    def _break(self, how: int) -> None:
        with self._changed:
            self._broken = True
            self._backlog.clear()
            self._waiting.clear()
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._socket.shutdown(how)

    def _send_now(self, frame: memoryview) -> memoryview:
        """What of it the socket did not take."""
        try:
            return frame[self._socket.send(frame, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            return frame
        except OSError:
            self._broken = True
            return frame[:0]

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._broken or bool(self._backlog))
                if self._broken:
                    return
                frame, owner = self._backlog[0]
            try:
                self._socket.sendall(frame)
            except OSError:
                self._break(socket.SHUT_WR)
                return
            with self._changed:
                if self._backlog and self._backlog[0][0] is frame:
                    self._backlog.popleft()
                    if owner is not None:
                        self._waiting[owner] -= len(frame)
                        if self._waiting[owner] <= 0:
                            del self._waiting[owner]
                    self._changed.notify_all()
