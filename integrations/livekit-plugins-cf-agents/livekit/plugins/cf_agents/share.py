"""Where the jobs of a machine find the engine they share. LiveKit runs each job in a process of its own; a model for each would
not fit, and one that is loaded anew for each call comes too late.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import cf_agents
from cf_agents import TTS


def shared_engine(model: str | Path, share: str | Path | None) -> TTS:
    """A `cf_agents.TTS` that is not open yet. See `TTS.__init__` for `share`."""
    if share is None or (share == "auto" and sys.platform == "win32"):
        return TTS.load(model)
    return TTS.attach(socket_path(model) if share == "auto" else share, model)


def socket_path(model: str | Path) -> Path:
    """The same for all processes of this user that want the same model of the same cf_agents.

    It lies in the user's runtime folder, or else in one of the user's own among the temporary files; cf_agents refuses a folder
    that somebody else could write to.
    """
    what = str(Path(model).resolve() if Path(model).is_dir() else model)
    name = hashlib.sha256(f"{what}\n{cf_agents.__version__}".encode()).hexdigest()[:12]
    user = os.geteuid()
    runtime = Path(f"/run/user/{user}")
    folder = runtime / "cf-agents" if os.access(runtime, os.W_OK) else Path(tempfile.gettempdir()) / f"cf-agents-{user}"
    return folder / f"{name}.sock"
