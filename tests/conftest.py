"""What every test may rely on: one torch thread, both event loops, and a small random checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cf_agents.builtin import write_tiny

torch.set_num_threads(1)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every asynchronous test runs on both."""
    return request.param


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder in the released layout with small random networks and a voice; shared, so do not write into it."""
    return write_tiny(tmp_path_factory.mktemp("checkpoint") / "tiny")
