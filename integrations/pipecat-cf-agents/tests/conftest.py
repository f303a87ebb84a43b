"""What the tests of the Pipecat service may rely on."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Pipecat runs on asyncio."""
    return "asyncio"
