"""Sound at the edges: chunks of speech on their way out, audio files on their way in, and a WAV file written as it is spoken.

Knows nothing of models or sessions. Reading and resampling import their libraries when first used.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cf_agents.encoding import SAMPLE_BYTES, Encoding, check_encoding, decode, decode_s16, encode
from cf_agents.errors import AudioError

AUDIBLE = 32
"""-60 dBFS in 16 bits: a listener hears nothing of what is not louder."""
_UNKNOWN_SIZE = 0xFFFFFFFF
_FORMAT_TAGS: dict[Encoding, int] = {"s16le": 1, "f32le": 3, "alaw": 6, "mulaw": 7}
"""WAVE_FORMAT_PCM, _IEEE_FLOAT, _ALAW and _MULAW of RFC 2361."""


@dataclass(frozen=True)
class Word:
    """A spoken word: when it sounds, and where it stands in the text that was written.

    start_s, end_s: seconds from the first sample of the stream. start, end: offsets into the written text, in characters.
    """

    text: str
    start_s: float
    end_s: float
    start: int
    end: int


@dataclass(frozen=True)
class AudioChunk:
    """A piece of speech: mono.

    pcm: its samples, as `encoding` says. segment: number of the piece of text it speaks, from 0. words: those that begin in
    this chunk. start_s: place of its first sample in the stream. last: nothing of this segment follows.
    """

    pcm: bytes
    sample_rate: int
    segment: int
    words: tuple[Word, ...]
    start_s: float
    last: bool
    encoding: Encoding = "s16le"

    @property
    def duration_s(self) -> float:
        """Seconds of sound."""
        return len(self.pcm) / (SAMPLE_BYTES[self.encoding] * self.sample_rate)

    @property
    def samples(self) -> NDArray[np.int16]:
        """The same sound as int16 [T]; of s16le a read-only view."""
        return decode_s16(self.pcm, self.encoding)

    @property
    def floats(self) -> NDArray[np.float32]:
        """The same sound as float32 [T], where -1..1 is full scale; of f32le a read-only view."""
        return decode(self.pcm, self.encoding)


def to_s16le(pcm: NDArray[np.floating]) -> bytes:
    """Samples [T] in -1..1 as signed 16-bit little-endian bytes: times 32767, to the nearest integer, clipped.

    Raises `AudioError` when a sample is not finite, so that a broken model is heard of and not heard.
    """
    scaled = np.rint(np.asarray(pcm, np.float64) * 32767.0)
    if not np.isfinite(scaled).all():
        raise AudioError(f"{np.count_nonzero(~np.isfinite(scaled))} of {scaled.size} samples are not finite; drop this audio.")
    return np.clip(scaled, -32768, 32767).astype("<i2").tobytes()


def first_audible(pcm: bytes) -> int | None:
    """Which sample of s16le is the first over -60 dBFS; None where all is as good as silence."""
    samples = np.frombuffer(pcm, "<i2")
    loud = (samples > AUDIBLE) | (samples < -AUDIBLE)
    return int(loud.argmax()) if loud.any() else None


def read_channels(
    source: str | os.PathLike[str] | BinaryIO, max_seconds: float | None = None
) -> tuple[NDArray[np.float32], int]:
    """Samples float32 [T, C] and sample rate of a wav, flac, mp3 or ogg file, at most its first `max_seconds`.

    Integer formats span -1..1. Raises `AudioError` when there is no such file or it holds no audio that can be decoded.
    """
    import soundfile

    name = str(source) if isinstance(source, (str, os.PathLike)) else "the given file object"
    if isinstance(source, (str, os.PathLike)) and not Path(source).is_file():
        raise AudioError(f"There is no audio file {name!r}. Check the path.")
    try:
        with soundfile.SoundFile(os.fspath(source) if isinstance(source, os.PathLike) else source) as file:
            frames = -1 if max_seconds is None else math.ceil(max_seconds * file.samplerate)
            return np.asarray(file.read(frames, dtype="float32", always_2d=True), np.float32), file.samplerate
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{name!r} cannot be read as audio ({error}). Give a wav, flac, mp3 or ogg file.") from error


def read_audio(source: str | os.PathLike[str] | BinaryIO, max_seconds: float | None = None) -> tuple[NDArray[np.float32], int]:
    """`read_channels` with the channels averaged: float32 [T] and the sample rate."""
    channels, sample_rate = read_channels(source, max_seconds)
    return channels.mean(axis=1), sample_rate


def resample(samples: NDArray[np.float32], rate_in: int, rate_out: int) -> NDArray[np.float32]:
    """Samples float32 [T] at another rate, [ceil(T rate_out / rate_in)], by soxr at its HQ quality.

    Raises `AudioError` for a rate that is not positive.
    """
    if rate_in <= 0 or rate_out <= 0:
        raise AudioError(f"Cannot resample from {rate_in} to {rate_out} Hz; give positive rates.")
    if rate_in == rate_out:
        return samples
    import soxr

    wanted = -(-samples.shape[0] * rate_out // rate_in)
    made = soxr.resample(samples, rate_in, rate_out, quality="HQ")
    return np.pad(made[:wanted], (0, max(0, wanted - made.shape[0])))


class WavWriter:
    """Writes speech to a binary file while it is made: mono, as WAV or, with `header=False`, raw.

    The header first says that the length is unknown, which players take as "until the end", so a pipe or an interrupted file
    stays playable. `close` fills in the length where the file can seek. The file stays open; `WavWriter.create` owns its own.
    """

    def __init__(self, file: BinaryIO, sample_rate: int, *, header: bool = True, encoding: Encoding = "s16le") -> None:
        """Raises `ConfigError` for an encoding that means nothing."""
        self.sample_rate = sample_rate
        self.encoding: Encoding = check_encoding(encoding)
        self._file = file
        self._owned = False
        self._closed = False
        self._data_bytes = 0
        self._header_at = file.tell() if header and file.seekable() else None
        if header:
            self._put(_wav_header(sample_rate, encoding, None))

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], sample_rate: int, *, header: bool = True, encoding: Encoding = "s16le"
    ) -> WavWriter:
        """Write to a new file at `path`, which `close` closes. Raises `AudioError` when it cannot be made."""
        try:
            file = open(path, "wb")  # noqa: SIM115
        except OSError as error:
            raise AudioError(
                f"Cannot write {os.fspath(path)!r} ({error.strerror}). Give a path in a writable folder."
            ) from error
        writer = cls(file, sample_rate, header=header, encoding=encoding)
        writer._owned = True
        return writer

    @property
    def duration_s(self) -> float:
        """Seconds written so far."""
        return self._data_bytes / (SAMPLE_BYTES[self.encoding] * self.sample_rate)

    def write(self, sound: AudioChunk | bytes | NDArray[np.floating]) -> None:
        """Append a chunk, bytes in the file's encoding, or float samples [T] in -1..1.

        Raises `AudioError` for a chunk of another sample rate or encoding, for half a sample, or after `close`.
        """
        if self._closed:
            raise AudioError("This WavWriter is closed; open another one.")
        if isinstance(sound, AudioChunk):
            if sound.sample_rate != self.sample_rate:
                raise AudioError(
                    f"A chunk of {sound.sample_rate} Hz cannot go into a file of {self.sample_rate} Hz; resample it."
                )
            if sound.encoding != self.encoding:
                raise AudioError(
                    f"A chunk of {sound.encoding} cannot go into a file of {self.encoding}; give WavWriter its encoding."
                )
            sound = sound.pcm
        pcm = sound if isinstance(sound, bytes) else self._encoded(sound)
        if len(pcm) % SAMPLE_BYTES[self.encoding]:
            raise AudioError(f"{len(pcm)} bytes are not whole samples of {self.encoding}; keep the rest for the next write.")
        self._put(pcm)
        self._data_bytes += len(pcm)

    def close(self) -> None:
        """Fill in the length and flush. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._header_at is not None:
                end = self._file.tell()
                self._file.seek(self._header_at)
                self._put(_wav_header(self.sample_rate, self.encoding, self._data_bytes))
                self._file.seek(end)
            self._file.flush()
        finally:
            if self._owned:
                self._file.close()

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _encoded(self, samples: NDArray[np.floating]) -> bytes:
        return to_s16le(samples) if self.encoding == "s16le" else encode(np.asarray(samples, np.float32), self.encoding)

    def _put(self, data: bytes) -> None:
        # An unbuffered pipe may take less than it is given.
        view = memoryview(data)
        while view:
            taken = self._file.write(view)
            if not taken:
                raise AudioError("The output took no bytes; give a blocking file.")
            view = view[taken:]


def _wav_header(sample_rate: int, encoding: Encoding, data_bytes: int | None) -> bytes:
    width = SAMPLE_BYTES[encoding]
    form = struct.pack("<HHIIHH", _FORMAT_TAGS[encoding], 1, sample_rate, sample_rate * width, width, 8 * width)
    # What is not PCM says that its format has no extension, and how many samples there are.
    extended = encoding != "s16le"
    form += b"\0\0" if extended else b""
    before = 4 + 8 + len(form) + (12 if extended else 0) + 8
    # A RIFF size is 32 bits: past 4 GiB the length stays unknown.
    known = data_bytes is not None and data_bytes + before < _UNKNOWN_SIZE
    size = data_bytes if data_bytes is not None and known else _UNKNOWN_SIZE
    riff = size + before if known else _UNKNOWN_SIZE
    count = size // width if known else _UNKNOWN_SIZE
    fact = struct.pack("<4sII", b"fact", 4, count) if extended else b""
    return b"".join(
        [
            struct.pack("<4sI4s4sI", b"RIFF", riff, b"WAVE", b"fmt ", len(form)),
            form,
            fact,
            struct.pack("<4sI", b"data", size),
        ]
    )
