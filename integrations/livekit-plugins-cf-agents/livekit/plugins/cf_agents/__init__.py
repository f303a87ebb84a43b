"""Text-to-speech for LiveKit Agents on cf_agents: a reply is heard while the language model still writes it.

    session = AgentSession(tts=cf_agents.TTS(voice="male"), ...)

Importing this starts no thread, no event loop and no model, so LiveKit's forkserver may do it. See `TTS`.
"""

from __future__ import annotations

from livekit.agents import Plugin
from livekit.plugins.cf_agents.plugin import CfAgentsPlugin
from livekit.plugins.cf_agents.tts import TTS, ChunkedStream, SynthesizeStream
from livekit.plugins.cf_agents.version import __version__

__all__ = ["TTS", "ChunkedStream", "SynthesizeStream", "__version__", "plugin"]

plugin = CfAgentsPlugin(__name__)
Plugin.register_plugin(plugin)
