"""A process that speaks for every process of its user that comes to a socket path.

    main thread          accepts; ends at SIGTERM and SIGINT, or when nobody has been there for long
    loader               builds what speaks, once, while clients wait and hear of it
    a thread a client    see `guest`: what one does, or how it ends, is nothing to the others

Started by `attached.AttachedLink` (`main`) or by `cf-agents serve`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cf_agents.errors import Busy, ServerError, ServerExists, StreamClosed
from cf_agents.links.address import Address, Lock, check_peer
from cf_agents.links.channel import Channel
from cf_agents.links.host import Host
from cf_agents.links.wire import Hello, LoadFailed, WireError

logger = logging.getLogger(__name__)

MOST_CLIENTS = 256
MOST_CLIENT_BYTES = 64 * 2**20
"""What one client may leave unread."""
FIRST_S = 10.0
HELLO_S = 5.0
"""For a client to say who it is."""
JOIN_S = 10.0
"""For the clients' threads, at the end."""


@contextmanager
def claimed(path: str | os.PathLike[str]) -> Iterator[tuple[Address, Lock]]:
    """Be the server of a path while the block lasts. Raises `ServerExists` when there is one, and as `Address` does."""
    address = Address(path)
    lock = address.lock()
    if lock is None:
        pid = address.pid()
        who = f"A server (process {pid})" if pid is not None else "A server"
        raise ServerExists(f"{who} is on {address.path} already: use it with TTS.attach, end it, or give another path.")
    try:
        yield address, lock
    finally:
        lock.release()


class Server:
    """Listens on an address, whose lock it has, and lets clients speak with a host.

    idle_s: how long it stays without a client. ready: called, on another thread, when there is something to speak with.
    """

    def __init__(
        self, address: Address, lock: Lock, host: Host, idle_s: float = math.inf, ready: Callable[[], None] = lambda: None
    ) -> None:
        self._address = address
        self._lock = lock
        self._host = host
        self._idle_s = idle_s
        self._ready = ready
        self._state = threading.Lock()
        self._clients: dict[Channel, threading.Thread] = {}
        self._left_s = time.monotonic() + FIRST_S
        """When the last client left. At first: whoever started this server is given time to come."""
        self._stopping = False
        self._loader = threading.Thread(target=self._load, name="cf-agents-loader", daemon=True)
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)

    @property
    def loading(self) -> bool:
        """Whether the loader runs still: then the process can end only without waiting for its threads."""
        return self._loader.is_alive()

    def run(self) -> None:
        """Serve until `stop`, or until nobody has come for `idle_s`, or there is nothing to speak with. Leaves no file.

        Raises as `Address.listen` does.
        """
        try:
            with self._address.listen() as listener, selectors.DefaultSelector() as selector:
                self._lock.write_pid()
                listener.setblocking(False)
                selector.register(listener, selectors.EVENT_READ)
                selector.register(self._far, selectors.EVENT_READ)
                self._loader.start()
                try:
                    self._accept(listener, selector)
                finally:
                    self._address.path.unlink(missing_ok=True)
            self._end()
        finally:
            self._near.close()
            self._far.close()

    def stop(self) -> None:
        """Let `run` come to its end. For any thread, and for a signal handler."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._near.send(b"!")

    def _accept(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        while not self._stopping:
            patience_s = self._patience_s()
            if patience_s is not None and patience_s <= 0.0:
                logger.info("Nobody has come for %s s.", self._idle_s)
                return
            selector.select(patience_s)
            with contextlib.suppress(BlockingIOError):
                self._far.recv(4096)
            try:
                end, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                # Out of descriptors, say: it may pass, and those who are here go on.
                logger.warning("A client could not be let in: %s.", error)
                time.sleep(0.1)
                continue
            end.setblocking(True)
            self._admit(end)

    def _patience_s(self) -> float | None:
        with self._state:
            if self._idle_s == math.inf or self._clients:
                return None
            return self._left_s + self._idle_s - time.monotonic()

    def _admit(self, end: socket.socket) -> None:
        try:
            check_peer(end)
        except (OSError, ServerError) as error:
            logger.warning("A client was turned away: %s", error)
            end.close()
            return
        channel = Channel(end, most_bytes=MOST_CLIENT_BYTES)
        channel.send(Hello())
        thread = threading.Thread(target=self._attend, args=(channel, end), name="cf-agents-client", daemon=True)
        with self._state:
            full = len(self._clients) >= MOST_CLIENTS
            if not full:
                self._clients[channel] = thread
        if full:
            channel.send(LoadFailed(Busy(f"{MOST_CLIENTS} processes use this server; close one, or start another.", 1.0)))
            channel.close()
        else:
            thread.start()

    def _load(self) -> None:
        if self._host.load():
            self._ready()
        else:
            logger.error("Nothing to speak with: %s", self._host.error)
            self.stop()

    # A client's thread.

    def _attend(self, channel: Channel, end: socket.socket) -> None:
        try:
            if _says_something(end) and self._host.greet(channel):
                self._host.attend(channel)
        except WireError as error:
            logger.warning("A client was let go: %s.", error)
        except StreamClosed:
            if not self._stopping:
                logger.exception("The scheduler has stopped; this process is of no more use.")
                self.stop()
        except Exception:
            logger.exception("A client was let go.")
        finally:
            channel.close()
            with self._state:
                del self._clients[channel]
                self._left_s = time.monotonic()
            with contextlib.suppress(OSError):
                self._near.send(b"-")

    def _end(self) -> None:
        """Clients hear that it is over; nothing of them is left."""
        with self._state:
            clients = list(self._clients.items())
        if not self.loading:
            deadline = time.monotonic() + JOIN_S
            for channel, _ in clients:
                channel.end_receiving()
            for _, thread in clients:
                thread.join(max(0.0, deadline - time.monotonic()))
        self._host.close()


def _says_something(end: socket.socket) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(end, selectors.EVENT_READ)
        return bool(selector.select(HELLO_S))


def main() -> None:
    """The process that `attached` starts. Its arguments: the descriptor of the lock, the path, seconds to stay, those of a
    `Host`."""
    descriptor, path, idle_s, factory, arguments = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    address = Address(path)
    lock = address.inherited(int(descriptor))
    server = Server(address, lock, Host(factory, json.loads(arguments)), float(idle_s))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    try:
        server.run()
    finally:
        lock.release()
    with contextlib.suppress(OSError):
        if address.log.stat().st_size == 0:
            address.log.unlink()
    if server.loading:
        # It cannot be interrupted, and nothing waits for it.
        os._exit(0)
