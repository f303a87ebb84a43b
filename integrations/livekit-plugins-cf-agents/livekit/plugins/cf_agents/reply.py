"""Whether the reply that a stream speaks for was interrupted, known the moment it is.

LiveKit closes the stream of an interrupted reply once the loudspeaker has told where it stopped, milliseconds later. Its own
handle of the reply knows at once, and is in the context of the task that speaks: under a private name (livekit-agents 1.8).
Where a release has it no more, a stream ends when it is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from livekit.agents.voice import SpeechHandle, agent_activity


def interruption() -> Callable[[], bool]:
    """Tells, whenever it is called, whether the reply that is being made here and now was interrupted since."""
    current: ContextVar[SpeechHandle] | None = getattr(agent_activity, "_SpeechHandleContextVar", None)
    handle = None if current is None else current.get(None)
    if handle is None or handle.interrupted:
        # Who begins to speak behind an interruption does it in spite of it.
        return lambda: False
    return lambda: handle.interrupted
