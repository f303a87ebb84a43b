"""Pipecat text-to-speech on cf_agents."""

from __future__ import annotations

__version__ = "0.1.0"
