"""How the framework knows this package."""

from __future__ import annotations

from livekit.agents import Plugin
from livekit.plugins.cf_agents.log import logger
from livekit.plugins.cf_agents.version import __version__


class CfAgentsPlugin(Plugin):
    """models: those that `download_files` fetches, as `TTS` takes them. What comes with the package needs nothing.

    An image is built with another one so:

        cf_agents.plugin.models.append("ResembleAI/chatterbox-flash")
        cf_agents.plugin.download_files()
    """

    def __init__(self, package: str) -> None:
        super().__init__(package, __version__, package, logger)
        self.models = ["pocket"]

    def download_files(self) -> None:
        """Fetch what is missing of `models`. Blocks. Raises the errors of `cf_agents.checkpoint.Checkpoint.open`."""
        from cf_agents.builtin import open_model

        for model in self.models:
            checkpoint = open_model(model, progress=True)
            logger.info("%s lies in %s.", model, checkpoint.folder)
