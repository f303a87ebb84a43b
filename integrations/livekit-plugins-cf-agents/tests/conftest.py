"""What the tests of the LiveKit plugin may rely on: a clock that jumps, and a `TTS` on an engine that speaks by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from livekit.plugins import cf_agents
from livekit_fakes import FakeEngine, loaded
from virtual_time import VirtualLoop, virtual_time

from cf_agents.builtin import write_tiny

__all__ = ["virtual_time"]


@pytest.fixture
def anyio_backend(virtual_time: None) -> object:
    """LiveKit runs on asyncio. A module of real threads and processes names a real loop instead."""
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
def engine() -> FakeEngine:
    """What `speech` speaks with."""
    return FakeEngine()


@pytest.fixture
async def speech(engine: FakeEngine) -> AsyncIterator[cf_agents.TTS]:
    """A plugin that has loaded."""
    speech = cf_agents.TTS(model=lambda: engine)
    await loaded(speech)
    yield speech
    await speech.aclose()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights, for real engines."""
    return write_tiny(tmp_path_factory.mktemp("checkpoint") / "tiny")
