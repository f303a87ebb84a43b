import logging

logger = logging.getLogger("livekit.plugins.cf_agents")
