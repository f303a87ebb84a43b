"""A command line that runs a module of this package in another process, as this process would, but for its priority.

Who speaks for others stands behind them where there are fewer cores than work. It computes for as long as it is let, and their
event loops want a moment now and then, at once. Among equals a loop waits until somebody's turn on the core is over; before a
process of lower priority it goes first. Speech is made ahead of its listener and can spare the moment. Knows nothing of links.
"""

from __future__ import annotations

import os
import sys

NICENESS = 10
"""Of Unix, on top of what this process has. With it a loop's lag is within 1 ms (p99) in `benchmarks/links.py`, and not with 5.
The price: who computes without rest beside it, at ordinary priority on the same core, leaves it a tenth of that core."""

# Before any thread, for niceness is a thread's on Linux. The package is found where this process found it, and nothing in the
# current folder instead.
_START = "import os, sys; os.nice({niceness}); sys.path[:] = sys.argv.pop().split('\\n'); from {module} import main; main()"
# Before anything starts a thread; whoever takes it over hears of its end, and not who started it.
_DETACH = "import os; os.fork() and os._exit(0); "


def python_command(module: str, *arguments: str, detached: bool = False) -> list[str]:
    """Runs `module.main()` with `arguments` as `sys.argv[1:]`. A relative place of `sys.path` is what it is here.

    detached: the process forks and ends at once, and it is the fork that runs.
    """
    places = "\n".join(os.path.abspath(place) for place in sys.path)
    start = (_DETACH if detached else "") + _START.format(module=module, niceness=NICENESS)
    return [sys.executable, "-P", "-c", start, *arguments, places]
