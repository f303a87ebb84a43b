"""A recording that a voice is made from: read, mixed to one channel, and refused when no good voice can come of it.

The released path makes something of any input, silence included; a bad recording is then heard in every sentence and looks like
a fault of the model. Here it is named with the figure that was measured. Knows nothing of networks.

Shape letters: T samples, C channels, F frames of 20 ms.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cf_agents.audio import read_channels
from cf_agents.errors import VoiceError

MIN_SECONDS = 3.0
MAX_SECONDS = 60.0
"""What lies beyond is not read; only the speaker vector hears more than the first 10 s."""
PROMPT_SECONDS = 10.0
"""The part that becomes the prompt, whose level and silences are judged."""
MIN_RATE = 8000

_CLIP_LEVEL = 0.999
_CLIP_RUN = 3
_MAX_CLIPPED = 0.001
_MAX_PEAK = 4.0
_FRAME_S = 0.02
_SILENT_DB = -60.0
_SPEECH_RANGE_DB = 35.0
_MIN_SPEECH = 0.3
_TOO_QUIET_DB = -50.0
_QUIET_DB = -36.0
_TARGET_DB = -26.0
_PEAK_LIMIT = 0.95


@dataclass(frozen=True, eq=False)
class Recording:
    """Mono speech fit to be made a voice.

    samples: float32 [T] in about -1..1, read-only. source: file name, or "" for samples that were passed. gain_db: what was
    added to a quiet recording; 0 for every recording at a usual level, which is passed on untouched as the released path does.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    source: str = ""
    gain_db: float = 0.0

    @property
    def seconds(self) -> float:
        """Duration of what was kept."""
        return self.samples.shape[0] / self.sample_rate

    @classmethod
    def read(
        cls, source: str | os.PathLike[str] | BinaryIO | NDArray[np.floating], sample_rate: int | None = None
    ) -> Recording:
        """Read and check an audio file, or float samples [T] or [T, C] in -1..1 at `sample_rate`.

        The channels are averaged and at most the first minute is kept. Speech under -36 dBFS is raised to -26 dBFS, because the
        speaker encoder and the prompt mel are not blind to level; nothing else is changed.

        Raises `VoiceError` for a recording that is shorter than 3 s, clipped, silent, mostly silent, too quiet, not finite or
        not in -1..1, and `AudioError` for a file that cannot be read.
        """
        if isinstance(source, np.ndarray):
            name, channels, rate = "", *_passed(source, sample_rate)
        elif sample_rate is not None:
            raise VoiceError("A file knows its own sample rate; leave sample_rate out.")
        else:
            name = Path(os.fspath(source)).name if isinstance(source, (str, os.PathLike)) else ""
            channels, rate = read_channels(source, MAX_SECONDS)
        _check_samples(channels, rate)
        _check_clipping(channels)
        samples = channels.mean(axis=1, dtype=np.float32)
        level_db = _speech_level_db(samples[: round(PROMPT_SECONDS * rate)], rate)
        gain_db = 0.0
        if level_db < _QUIET_DB:
            headroom_db = float(_db(np.float64(_PEAK_LIMIT)) - _db(np.abs(samples).max()))
            gain_db = round(max(0.0, min(_TARGET_DB - level_db, headroom_db)), 2)
            samples = samples * np.float32(10.0 ** (gain_db / 20.0))
        samples.setflags(write=False)
        return cls(samples, rate, name, gain_db)


def _passed(samples: NDArray[np.floating], sample_rate: int | None) -> tuple[NDArray[np.float32], int]:
    if sample_rate is None:
        raise VoiceError("Samples were given without a sample rate; pass sample_rate=..., in Hz.")
    if not np.issubdtype(samples.dtype, np.floating):
        raise VoiceError(f"Samples are {samples.dtype}; give floats in -1..1 (divide int16 by 32768).")
    channels = samples[:, None] if samples.ndim == 1 else samples
    if channels.ndim != 2 or not 1 <= channels.shape[1] <= 8:
        raise VoiceError(f"Samples have shape {samples.shape}; give [T], or [T, C] with at most 8 channels.")
    return channels[: round(MAX_SECONDS * sample_rate)].astype(np.float32), sample_rate


def _check_samples(channels: NDArray[np.float32], rate: int) -> None:
    if rate < MIN_RATE:
        raise VoiceError(f"The recording has a sample rate of {rate} Hz; give one of at least {MIN_RATE} Hz, better 24000.")
    seconds = channels.shape[0] / rate
    if seconds < MIN_SECONDS:
        raise VoiceError(f"The recording lasts {seconds:.2f} s; give at least {MIN_SECONDS:g} s of speech, better 10 s.")
    broken = np.count_nonzero(~np.isfinite(channels))
    if broken:
        raise VoiceError(f"{broken} of {channels.size} samples are not finite; export the recording again.")
    peak = float(np.abs(channels).max())
    if peak > _MAX_PEAK:
        raise VoiceError(f"The samples reach {peak:g}; scale them to -1..1 (divide 16-bit values by 32768).")


def _check_clipping(channels: NDArray[np.float32]) -> None:
    full = np.abs(channels) >= _CLIP_LEVEL
    # A lone sample at full scale is a normalised peak; a run of them is a wave with its top cut off.
    starts = np.logical_and.reduce(np.lib.stride_tricks.sliding_window_view(full, _CLIP_RUN, axis=0), axis=-1)
    inside = np.zeros_like(full)
    for offset in range(_CLIP_RUN):
        inside[offset : offset + starts.shape[0]] |= starts
    share = float(inside.mean(axis=0).max())
    if share > _MAX_CLIPPED:
        raise VoiceError(
            f"The recording is clipped: {share:.2%} of its samples are in runs at full scale (at most {_MAX_CLIPPED:.1%} is "
            "accepted). Record again with a lower gain; turning the file down does not help."
        )


def _speech_level_db(samples: NDArray[np.float32], rate: int) -> float:
    """Root mean square of the frames that hold speech, in dB relative to full scale."""
    width = round(_FRAME_S * rate)
    frames = samples[: len(samples) // width * width].reshape(-1, width).astype(np.float64)
    power = np.square(frames).mean(axis=1)  # [F]
    loudest_db = float(np.percentile(_db(np.sqrt(power)), 95))
    if loudest_db < _SILENT_DB:
        raise VoiceError(
            f"The recording is silent: its loudest part is at {loudest_db:.0f} dBFS. Check the microphone, or the channel."
        )
    speech = _db(np.sqrt(power)) > loudest_db - _SPEECH_RANGE_DB
    share = float(speech.mean())
    if share < _MIN_SPEECH:
        raise VoiceError(
            f"The recording is mostly silent: {share:.0%} of its first {len(samples) / rate:.1f} s is speech "
            f"(at least {_MIN_SPEECH:.0%} is needed). Cut out the pauses."
        )
    level_db = float(_db(np.sqrt(power[speech].mean())))
    if level_db < _TOO_QUIET_DB:
        raise VoiceError(
            f"The recording is too quiet: its speech is at {level_db:.0f} dBFS (at least {_TOO_QUIET_DB:.0f} is needed, "
            "-26 is usual). Record closer to the microphone; amplifying the file would raise its noise as well."
        )
    return level_db


def _db(amplitude: NDArray[np.floating] | np.floating) -> NDArray[np.float64]:
    return 20.0 * np.log10(np.maximum(np.asarray(amplitude, np.float64), 1e-10))
