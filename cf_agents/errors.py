"""What can go wrong, as one tree. Every message says what to do next.

CfAgentsError
├── ConfigError              an unknown key, a value out of range
├── CheckpointError          a model folder that cannot be used
│   ├── CheckpointNotFound   no such folder, no such hub id, a file missing
│   ├── CheckpointDamaged    a truncated or unreadable file
│   └── CheckpointMismatch   a tensor missing, unexpected or of another shape
├── DownloadError            the hub could not be reached, or refused
├── BackendUnavailable       the asked back-end cannot run here
├── ServerError              a socket path, or what listens there, that cannot be used
│   ├── ServerAbsent         nobody listens
│   ├── ServerExists         somebody listens already, where one wanted to
│   └── ServerMismatch       it speaks with another model than was asked for, or is of another version
├── VoiceError               a voice file or a reference recording that cannot be used
├── TextError                text that cannot be spoken, such as a segment past the model's limit
├── AudioError               an audio file or format that cannot be read or written
├── EngineFull               no decoder row is free
├── Busy                     all streams that were loaded for are open; asked at once, never queued
├── StreamClosed             written to, or read, after it was closed or cancelled
└── SynthesisFailed          the model raised while it spoke; other streams go on
    └── WorkerDied           the process it runs in ended, and all its streams with it; new ones go on
"""

from __future__ import annotations


class CfAgentsError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigError(CfAgentsError):
    """A configuration key or value that cannot be used."""


class CheckpointError(CfAgentsError):
    """A model folder that cannot be used."""


class CheckpointNotFound(CheckpointError):
    """No such folder or hub id, or a file of it is missing."""


class CheckpointDamaged(CheckpointError):
    """A file is truncated or is not what its name says."""


class CheckpointMismatch(CheckpointError):
    """Tensors are missing, unexpected or of another shape than the configuration says."""


class DownloadError(CfAgentsError):
    """The hub could not be reached, or refused."""


class BackendUnavailable(CfAgentsError):
    """The asked back-end cannot run on this machine."""


class ServerError(CfAgentsError):
    """A socket path, or what listens there, that cannot be used."""


class ServerAbsent(ServerError):
    """Nobody listens on the socket path."""


class ServerExists(ServerError):
    """Somebody listens on the socket path already."""


class ServerMismatch(ServerError):
    """The server speaks with another model than was asked for, or is of another version."""


class VoiceError(CfAgentsError):
    """A voice file or a reference recording that cannot be used."""


class TextError(CfAgentsError):
    """Text that cannot be spoken."""


class AudioError(CfAgentsError):
    """An audio file or format that cannot be read or written."""


class EngineFull(CfAgentsError):
    """No decoder row is free: close one, or load with a larger pool."""


class Busy(CfAgentsError):
    """No more streams are taken now.

    retry_after_s: seconds after which to ask again, estimated from what is being said.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StreamClosed(CfAgentsError):
    """The stream was closed or cancelled before."""


class SynthesisFailed(CfAgentsError):
    """The model raised while it spoke; the cause is chained, and other streams go on."""


class WorkerDied(SynthesisFailed):
    """The process that speaks ended, and every stream in it; another is started for new ones."""
