"""Streaming text-to-speech for voice agents: text in as it is written, audio out block by block, silent at a barge-in.

    async with cf_agents.TTS.load() as tts, tts.stream() as stream:
        stream.write("Hello.")
        stream.end()
        async for chunk in stream: ...

Importing this package has no effects and imports no tensor library; what is named here is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cf_agents.audio import AudioChunk, WavWriter, Word
    from cf_agents.config import DecodeParams
    from cf_agents.errors import (
        AudioError,
        BackendUnavailable,
        Busy,
        CfAgentsError,
        CheckpointDamaged,
        CheckpointError,
        CheckpointMismatch,
        CheckpointNotFound,
        ConfigError,
        DownloadError,
        EngineFull,
        ServerAbsent,
        ServerError,
        ServerExists,
        ServerMismatch,
        StreamClosed,
        SynthesisFailed,
        TextError,
        VoiceError,
        WorkerDied,
    )
    from cf_agents.stats import StreamStats
    from cf_agents.stream import Heard, Stream
    from cf_agents.tts import TTS
    from cf_agents.voice import Voice

__all__ = [
    "TTS",
    "AudioChunk",
    "AudioError",
    "BackendUnavailable",
    "Busy",
    "CfAgentsError",
    "CheckpointDamaged",
    "CheckpointError",
    "CheckpointMismatch",
    "CheckpointNotFound",
    "ConfigError",
    "DecodeParams",
    "DownloadError",
    "EngineFull",
    "Heard",
    "ServerAbsent",
    "ServerError",
    "ServerExists",
    "ServerMismatch",
    "Stream",
    "StreamClosed",
    "StreamStats",
    "SynthesisFailed",
    "TextError",
    "Voice",
    "VoiceError",
    "WavWriter",
    "Word",
    "WorkerDied",
    "__version__",
]

_HOMES = {
    "TTS": "tts",
    "AudioChunk": "audio",
    "WavWriter": "audio",
    "Word": "audio",
    "DecodeParams": "config",
    "Heard": "stream",
    "Stream": "stream",
    "StreamStats": "stats",
    "Voice": "voice",
}
"""Where each name lives; the rest are errors."""


def __getattr__(name: str) -> object:
    if name.startswith("__") or name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}").__dict__[name]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
