"""The child process of a process link: a host with one client, over a socket that it has inherited.

It goes when its socket ends, at SIGTERM, and with its parent. Started by `process.ProcessLink`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys

from cf_agents.links.channel import Channel
from cf_agents.links.host import FLUSH_S, Host
from cf_agents.links.wire import Hello

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """The process. Its arguments: the number of its socket, the id of its parent, and those of a `Host`."""
    end, parent, factory, arguments = sys.argv[1:]
    # Ctrl-C reaches every process of a terminal; the agent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(int(end), False)
    die_with(int(parent))
    run(Channel(socket.socket(fileno=int(end))), Host(factory, json.loads(arguments)))


def run(channel: Channel, host: Host) -> None:
    """Load, serve, and leave nothing."""
    channel.send(Hello())
    if not host.greet(channel):
        return
    # Until it has loaded, SIGTERM ends the process as it is: there is nothing to put away.
    if host.load():
        signal.signal(signal.SIGTERM, lambda *_: channel.end_receiving())
    try:
        host.attend(channel)
    finally:
        host.close()
        channel.flush(FLUSH_S)
        channel.close()


def die_with(parent: int) -> None:
    """On Linux: be killed when the thread that started this process ends. Elsewhere the end of the socket has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("The process that started this worker is gone.")
