"""How the text of now is spoken: settings that were checked against the model. Knows nothing of frames or pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
from pipecat.utils.types import assert_given

from cf_agents import TTS, ConfigError, DecodeParams, Stream, Voice, VoiceError
from pipecat_cf_agents.settings import CfAgentsTTSSettings


@dataclass(frozen=True)
class Manner:
    """What a core stream is opened with. None leaves the model's own."""

    voice: Voice
    params: DecodeParams | None
    lead_s: float | None

    @classmethod
    async def of(cls, settings: CfAgentsTTSSettings, tts: TTS) -> Manner:
        """Check complete settings. A voice file is read off the event loop.

        Raises `VoiceError` for a voice that is absent or does not fit, `ConfigError` for a preset or lead that means nothing.
        """
        name, params, lead_s = assert_given(settings.voice), assert_given(settings.params), assert_given(settings.lead_s)
        voice = tts.voices.get(name or "default")
        if voice is None:
            if name is None or not Path(name).suffix:
                known = ", ".join(tts.voices) or "none"
                raise VoiceError(f"The model has no voice {name!r}; it has {known}. Give one of these, or a voice file.")
            voice = await anyio.to_thread.run_sync(Voice.load, name)
            voice.check(tts.config)
        if lead_s is not None and not lead_s > 0.0:
            raise ConfigError(f"lead_s is {lead_s}; give seconds above 0.")
        return cls(voice, DecodeParams.preset(params) if isinstance(params, str) else params, lead_s)

    def open(self, tts: TTS, sample_rate: int) -> Stream:
        """A stream that speaks so. Raises as `TTS.stream` does."""
        return tts.stream(self.voice, params=self.params, lead_s=self.lead_s, sample_rate=sample_rate)
