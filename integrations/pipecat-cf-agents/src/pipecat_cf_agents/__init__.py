"""A Pipecat text-to-speech service on cf_agents: speech from a model in your own process, silent at an interruption.

tts = CfAgentsTTSService(settings=CfAgentsTTSService.Settings(voice="male"))
pipeline = Pipeline([transport.input(), stt, user_aggregator, llm, tts, transport.output(), assistant_aggregator])
"""

from __future__ import annotations

from pipecat_cf_agents.model import LoadOptions
from pipecat_cf_agents.service import CfAgentsTTSService
from pipecat_cf_agents.settings import CfAgentsTTSSettings

__version__ = "0.1.0"

__all__ = ["CfAgentsTTSService", "CfAgentsTTSSettings", "LoadOptions", "__version__"]
