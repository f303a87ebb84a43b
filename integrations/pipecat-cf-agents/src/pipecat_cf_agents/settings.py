"""What can be changed while a bot talks."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipecat.services.settings import TTSSettings
from pipecat.utils.types import NOT_GIVEN, NotGiven

from cf_agents import DecodeParams


@dataclass
class CfAgentsTTSSettings(TTSSettings):
    """Settings of a `CfAgentsTTSService`, whole or, in a `TTSUpdateSettingsFrame`, only what changes.

    A change counts for text that comes after it, in the middle of a reply too; what was written before is spoken as it was.

    Parameters:
        model: As `cf_agents.TTS.load` takes it. Fixed once the service is made.
        voice: Name of a voice of the model, or a voice file.
        language: English.
        params: Decoding knobs, or the name of a preset ("released", "paper"). None is what the model was loaded with.
        lead_s: Seconds of audio that may be made ahead of the listener. None is what the model was loaded with.
    """

    params: DecodeParams | str | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    lead_s: float | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
