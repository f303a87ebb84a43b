"""What goes wrong in cf_agents as LiveKit understands it: an `APIError` that says whether another try may help."""

from __future__ import annotations

from livekit.agents import APIConnectionError, APIError, APIStatusError

from cf_agents.errors import (
    Busy,
    CfAgentsError,
    ConfigError,
    DownloadError,
    EngineFull,
    StreamClosed,
    SynthesisFailed,
    TextError,
    VoiceError,
    WorkerDied,
)

BAD_REQUEST, FULL_HOUSE, FAILED = 400, 429, 500


def api_error(error: Exception) -> APIError:
    """The `APIError` of `error`, to be raised from it.

    Retryable: a full house (429; `body["retry_after_s"]` says when), a process that ended, a link that was closed, a hub that
    cannot be reached, and a step that failed. Not retryable: what the caller asked for (400), a model that cannot be used here,
    and errors of our own.
    """
    match error:
        case APIError():
            return error
        case Busy(retry_after_s=seconds):
            return APIStatusError(str(error), status_code=FULL_HOUSE, body={"retry_after_s": seconds})
        case EngineFull():
            return APIStatusError(str(error), status_code=FULL_HOUSE)
        case ConfigError() | VoiceError() | TextError():
            return APIStatusError(str(error), status_code=BAD_REQUEST, retryable=False)
        case WorkerDied() | StreamClosed() | DownloadError() | ConnectionError():
            return APIConnectionError(str(error))
        case SynthesisFailed():
            return APIStatusError(str(error), status_code=FAILED)
        case CfAgentsError():
            return APIError(str(error), retryable=False)
        case _:
            return APIError(f"{type(error).__name__}: {error}", retryable=False)
