"""One end of a socket that carries messages both ways: whoever sends never waits, whoever receives has a thread for it.

    send --> straight into the socket, or --> backlog --> writer thread --> socket        (the other end is slow)
    receive <-- socket

Knows nothing of what the messages mean.
"""

from __future__ import annotations

import contextlib
import io
import math
import socket
import threading
from collections import Counter, deque

from cf_agents.links.wire import Message, encode, read_message

BACKLOG_BYTES = 8 * 2**20
"""What one owner may have waiting: almost three minutes of audio."""
READ_BYTES = 2**17
"""Taken from the socket at once: a block of audio in one piece."""
JOIN_S = 1.0


class Channel:
    """Messages over a connected stream socket, which it owns. `send` is for any thread, `receive` for one.

    end: None when there is none yet: what is sent waits for `connect`. backlog_bytes: what one owner may have waiting when the
    other end does not read. most_bytes: what all may have; past it the channel is as good as gone, and is ended.
    """

    def __init__(
        self, end: socket.socket | None = None, backlog_bytes: int = BACKLOG_BYTES, most_bytes: float = math.inf
    ) -> None:
        self._socket: socket.socket | None = None
        self._file: io.BufferedReader | None = None
        self._backlog_bytes = backlog_bytes
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._backlog: deque[tuple[memoryview, int | None]] = deque()
        """The first one may be half sent, by the writer alone."""
        self._waiting: Counter[int | None] = Counter()
        self._waiting_bytes = 0
        self._broken = False
        self._writer: threading.Thread | None = None
        if end is not None:
            self.connect(end)

    def connect(self, end: socket.socket) -> None:
        """Go on over `end`; what waits goes first. Once, by the thread that receives."""
        with self._changed:
            self._socket, self._file = end, io.BufferedReader(socket.SocketIO(end, "r"), READ_BYTES)
            while self._backlog and not self._broken:
                frame, owner = self._backlog.popleft()
                rest = self._send_now(frame)
                self._account(owner, len(rest) - len(frame))
                if rest:
                    self._backlog.appendleft((rest, owner))
                    self._start_writer()
                    break
            broken = self._broken
        if broken:
            self._shut(socket.SHUT_WR)

    def send(self, message: Message, owner: int | None = None) -> bool:
        """Send, or keep for the writer thread; at once in both cases. To an end that is gone: nothing.

        False when `owner` has too much waiting already, and the message is dropped. Without an owner it never is.
        """
        frame = memoryview(encode(message))
        with self._changed:
            if self._broken:
                return True
            if not self._backlog and self._socket is not None:
                frame = self._send_now(frame)
                if not frame:
                    return True
            if owner is not None and self._waiting[owner] and self._waiting[owner] + len(frame) > self._backlog_bytes:
                return False
            if self._waiting_bytes + len(frame) <= self._most_bytes:
                self._backlog.append((frame, owner))
                self._account(owner, len(frame))
                if self._socket is not None:
                    self._start_writer()
                self._changed.notify_all()
                return True
        self._break(socket.SHUT_RDWR)
        return True

    def receive(self) -> Message | None:
        """The next message, however long it takes; None when the other end is gone. Raises `WireError`."""
        assert self._file is not None, "connect() comes first"
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
        self._shut(socket.SHUT_RD)

    def close(self) -> None:
        """Let go of the socket. The thread that receives calls this; closing twice is fine."""
        self._break(socket.SHUT_RDWR)
        if self._writer is not None and self._writer is not threading.current_thread():
            self._writer.join(JOIN_S)
        if self._file is not None and self._socket is not None:
            self._file.close()
            self._socket.close()

    def _break(self, how: int) -> None:
        with self._changed:
            self._broken = True
            self._backlog.clear()
            self._waiting.clear()
            self._waiting_bytes = 0
            self._changed.notify_all()
        self._shut(how)

    def _shut(self, how: int) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(how)

    def _account(self, owner: int | None, more: int) -> None:
        self._waiting_bytes += more
        self._waiting[owner] += more
        if self._waiting[owner] <= 0:
            del self._waiting[owner]

    def _start_writer(self) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="cf-agents-writer", daemon=True)
            self._writer.start()

    def _send_now(self, frame: memoryview) -> memoryview:
        """What of it the socket did not take."""
        assert self._socket is not None
        try:
            return frame[self._socket.send(frame, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            return frame
        except OSError:
            self._broken = True
            return frame[:0]

    def _write(self) -> None:
        assert self._socket is not None
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
                    self._account(owner, -len(frame))
                    self._changed.notify_all()
