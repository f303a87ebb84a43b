"""A command line that runs a module of this package in another process, as this process would, but for its priority.

Who speaks for others stands behind them where there are fewer cores than work. It computes for as long as it is let, and their
event loops want a moment now and then, at once. Among equals a loop waits until somebody's turn on the core is over; before a
process of lower priority, and of longer turns, it goes first. Speech is made ahead of its listener and can spare the moment.
Knows nothing of links.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

NICENESS = 10
"""Of Unix, on top of what this process has. The price: who computes without rest beside it, at ordinary priority on the same
core, leaves it a tenth of that core."""
TURN_S = 0.02
"""On a core, before another may have it that wants as much."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
"""The first version of Linux's `struct sched_attr`: size, policy, flags, niceness, priority, runtime, deadline, period."""

# Before any thread, for both are a thread's on Linux, and its own threads take them over. The package is found where this
# process found it, and nothing in the current folder instead.
_START = (
    "import os, sys; os.nice({niceness}); sys.path[:] = sys.argv.pop().split('\\n'); "
    "from cf_agents.links.command import take_long_turns; take_long_turns(); from {module} import main; main()"
)
# Before anything starts a thread; whoever takes it over hears of its end, and not who started it.
_DETACH = "import os; os.fork() and os._exit(0); "


def python_command(module: str, *arguments: str, detached: bool = False) -> list[str]:
    """Runs `module.main()` with `arguments` as `sys.argv[1:]`. A relative place of `sys.path` is what it is here.

    detached: the process forks and ends at once, and it is the fork that runs.
    """
    places = "\n".join(os.path.abspath(place) for place in sys.path)
    start = (_DETACH if detached else "") + _START.format(module=module, niceness=NICENESS)
    return [sys.executable, "-P", "-c", start, *arguments, places]


def take_long_turns() -> None:
    """Let this thread, and those it starts, have `TURN_S` at a time on a core: as much of it in all, in fewer pieces.

    Linux protects a turn once it has begun, even from a thread of higher priority, unless that one has asked for a shorter turn
    (from 6.12 on, `sched_setattr(2)`). An event loop that asks for nothing has Linux's own 0.7 to 2.8 ms, so it need not wait
    for the end of one of these. Where a system has no such thing, nothing is changed.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform == "linux" and number is not None and os.sched_getscheduler(0) == os.SCHED_OTHER:
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_OTHER, 0, niceness, 0, round(TURN_S * 1e9), 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)
