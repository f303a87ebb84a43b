"""A command line that runs a module of this package in another process, as this process would. Knows nothing of links."""

from __future__ import annotations

import os
import sys

# The package is found where this process found it, and nothing in the current folder instead.
_START = "import sys; sys.path[:] = sys.argv.pop().split('\\n'); from {module} import main; main()"
# Before anything starts a thread; whoever takes it over hears of its end, and not who started it.
_DETACH = "import os; os.fork() and os._exit(0); "


def python_command(module: str, *arguments: str, detached: bool = False) -> list[str]:
    """Runs `module.main()` with `arguments` as `sys.argv[1:]`. A relative place of `sys.path` is what it is here.

    detached: the process forks and ends at once, and it is the fork that runs.
    """
    places = "\n".join(os.path.abspath(place) for place in sys.path)
    start = (_DETACH if detached else "") + _START.format(module=module)
    return [sys.executable, "-P", "-c", start, *arguments, places]
