"""A voice: the frozen arrays one speaker needs, as an object that streams share and a `.safetensors` file that holds no code.

Knows nothing of sessions or devices. Importing it imports no tensor library; only making a voice from a recording needs the
networks, and those come in as a `ReferenceModel`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import struct
import types
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cf_agents.config import CODEC_VOCAB, FRAMES_PER_TOKEN, ModelConfig
from cf_agents.engines.base import Conditioning
from cf_agents.errors import VoiceError

if TYPE_CHECKING:
    from cf_agents.models.reference import ReferenceModel

DEFAULT_VOICE = "default"
"""Who speaks when nobody is named."""
FORMAT_VERSION = 1
MAX_EXAGGERATION = 2.0
_METADATA_KEY = "cf_agents.voice"
_MAX_BYTES = 64 * 2**20
_TENSORS: Mapping[str, tuple[type[np.generic], int]] = types.MappingProxyType(
    {
        "speaker": (np.float32, 1),
        "prompt_tokens": (np.int64, 1),
        "flow_tokens": (np.int64, 1),
        "flow_mel": (np.float32, 2),
        "xvector": (np.float32, 1),
    }
)
_AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".opus", ".aac")


@dataclass(frozen=True, eq=False)
class Voice:
    """Everything that makes one speaker's sound. Immutable, so any number of streams and threads may share it.

    conditioning: what the decoder is told. flow_tokens: int64 [P] and flow_mel: float32 [2 P, 80], the prompt that the flow
    continues. xvector: float32 [192]. metadata: where it came from, as text. The arrays are copied and made read-only.

    Raises `VoiceError` when the arrays are not of these kinds, not finite, or do not belong together.
    """

    conditioning: Conditioning
    flow_tokens: NDArray[np.int64]
    flow_mel: NDArray[np.float32]
    xvector: NDArray[np.float32]
    name: str = "voice"
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        told = self.conditioning
        arrays = {
            "speaker": told.speaker,
            "prompt_tokens": told.prompt_tokens,
            "flow_tokens": self.flow_tokens,
            "flow_mel": self.flow_mel,
            "xvector": self.xvector,
        }
        frozen = {name: _frozen(name, array) for name, array in arrays.items()}
        frames, tokens = frozen["flow_mel"].shape[0], frozen["flow_tokens"].shape[0]
        if frames != FRAMES_PER_TOKEN * tokens:
            raise VoiceError(f"flow_mel has {frames} frames for {tokens} flow_tokens; it must have two for each.")
        exaggeration = _checked_exaggeration(told.exaggeration)
        if not self.name or not self.name.isprintable():
            raise VoiceError(f"A voice cannot be named {self.name!r}; give a name that can be printed.")
        told = Conditioning(frozen["speaker"], frozen["prompt_tokens"], exaggeration)
        object.__setattr__(self, "conditioning", told)
        for name in ("flow_tokens", "flow_mel", "xvector"):
            object.__setattr__(self, name, frozen[name])
        object.__setattr__(self, "metadata", types.MappingProxyType(dict(self.metadata)))

    def __reduce__(self) -> tuple[Callable[[bytes], Voice], tuple[bytes]]:
        return Voice.from_bytes, (self.to_bytes(),)

    @classmethod
    def from_audio(
        cls,
        source: str | os.PathLike[str] | BinaryIO | NDArray[np.floating],
        model: ReferenceModel,
        *,
        name: str | None = None,
        sample_rate: int | None = None,
        exaggeration: float = 0.5,
    ) -> Voice:
        """Make a voice from at least 3 s of clean speech: a wav, flac or mp3 file, or float samples at `sample_rate`.

        The first 10 s become the prompt; the speaker vector is of the first minute. `name=None` takes the file's. The same
        recording, model and version always give the same voice. Takes seconds and blocks: not for the event loop.

        Raises `VoiceError` saying what was measured when the recording is too short, clipped, silent or too quiet (see
        `Recording.read`), `AudioError` when the file cannot be read.
        """
        import cf_agents
        from cf_agents.recording import Recording

        exaggeration = _checked_exaggeration(exaggeration)
        recording = Recording.read(source, sample_rate)
        heard = model.analyse(recording.samples, recording.sample_rate)
        metadata = {
            "source": recording.source,
            "seconds": f"{recording.seconds:.2f}",
            "gain_db": f"{recording.gain_db:g}",
            "model": model.config.name,
            "cf_agents": cf_agents.__version__,
        }
        return cls(
            conditioning=Conditioning(heard.speaker, heard.prompt_tokens, exaggeration),
            flow_tokens=heard.flow_tokens,
            flow_mel=heard.flow_mel,
            xvector=heard.xvector,
            name=name or Path(recording.source).stem or "voice",
            metadata=metadata,
        )

    def with_exaggeration(self, exaggeration: float) -> Voice:
        """The same speaker, spoken with another intensity: 0 to 2, 0.5 is neutral. Raises `VoiceError` outside of that."""
        return dataclasses.replace(self, conditioning=dataclasses.replace(self.conditioning, exaggeration=exaggeration))

    def check(self, config: ModelConfig) -> None:
        """Raise `VoiceError` when a model of these sizes cannot speak with this voice."""
        found = {
            "speaker": (self.conditioning.speaker.shape[0], config.t3.speaker_dim),
            "flow_mel": (self.flow_mel.shape[1], config.flow.mel_bins),
            "xvector": (self.xvector.shape[0], config.flow.speaker_dim),
        }
        wrong = [f"{name} is {have} wide where {need} is needed" for name, (have, need) in found.items() if have != need]
        if self.conditioning.prompt_tokens.shape[0] > config.t3.prompt_tokens:
            wrong.append(f"{self.conditioning.prompt_tokens.shape[0]} prompt tokens are more than {config.t3.prompt_tokens}")
        if wrong:
            made = self.metadata.get("model", "an unknown model")
            raise VoiceError(
                f"The voice {self.name!r}, made with {made}, does not fit {config.name}: {'; '.join(wrong)}. "
                "Make it again from its recording with this model."
            )

    def to_bytes(self) -> bytes:
        """The voice as the content of a `.safetensors` file; equal voices give equal bytes."""
        from safetensors.numpy import save

        about = {
            "version": FORMAT_VERSION,
            "name": self.name,
            "exaggeration": self.conditioning.exaggeration,
            "metadata": dict(self.metadata),
        }
        tensors = {
            "speaker": self.conditioning.speaker,
            "prompt_tokens": self.conditioning.prompt_tokens,
            "flow_tokens": self.flow_tokens,
            "flow_mel": self.flow_mel,
            "xvector": self.xvector,
        }
        # One key: the library writes several in an order that changes from call to call.
        return save(tensors, {_METADATA_KEY: json.dumps(about, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes, origin: str = "the voice") -> Voice:
        """Read what `to_bytes` gave. Raises `VoiceError` saying what is wrong with `origin`."""
        tensors, about = _parse(data, origin)
        try:
            conditioning = Conditioning(tensors["speaker"], tensors["prompt_tokens"], about.exaggeration)
            return cls(
                conditioning, tensors["flow_tokens"], tensors["flow_mel"], tensors["xvector"], about.name, about.metadata
            )
        except VoiceError as error:
            raise VoiceError(f"{origin} is damaged: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all. Raises `VoiceError` when it cannot be written."""
        target = Path(path)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            try:
                partial.write_bytes(self.to_bytes())
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise VoiceError(
                f"Cannot write the voice to {target} ({error.strerror}). Give a path in a writable folder."
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Voice:
        """Read a voice file. Raises `VoiceError` saying what is wrong with it."""
        source = Path(path)
        if source.suffix.lower() in _AUDIO_SUFFIXES:
            raise VoiceError(f"{source} is a recording, not a voice; make a voice of it with Voice.from_audio.")
        try:
            size = source.stat().st_size
            if size > _MAX_BYTES:
                raise VoiceError(f"{source} has {size:,} bytes, far more than a voice; give a file that Voice.save wrote.")
            data = source.read_bytes()
        except FileNotFoundError:
            raise VoiceError(f"There is no voice file {source}. Check the path, or make one with Voice.from_audio.") from None
        except OSError as error:
            raise VoiceError(f"The voice file {source} cannot be read ({error.strerror}). Check the path.") from error
        return cls.from_bytes(data, str(source))


@dataclass(frozen=True)
class _About:
    name: str
    exaggeration: float
    metadata: dict[str, str]


def _parse(data: bytes, origin: str) -> tuple[dict[str, NDArray], _About]:
    from safetensors import SafetensorError, deserialize

    try:
        entries = dict(deserialize(data))
    except SafetensorError as error:
        raise VoiceError(f"{origin} is not a voice: no whole safetensors file ({error}). Make or copy it again.") from error
    # The library has checked the header, but hands out no metadata of bytes.
    (length,) = struct.unpack_from("<Q", data)
    text = json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(_METADATA_KEY)
    if text is None:
        raise VoiceError(f"{origin} is a safetensors file but not a voice. Give a file that Voice.save wrote.")
    about = _parse_about(text, origin)
    if set(entries) != set(_TENSORS):
        lost, extra = sorted(set(_TENSORS) - set(entries)), sorted(set(entries) - set(_TENSORS))
        raise VoiceError(f"{origin} is damaged: tensors missing {lost}, unexpected {extra}. Make or copy it again.")
    kinds = {np.float32: "F32", np.int64: "I64"}
    for name, (dtype, _) in _TENSORS.items():
        if entries[name]["dtype"] != kinds[dtype]:
            raise VoiceError(f"{origin} is damaged: {name} is stored as {entries[name]['dtype']}, not {kinds[dtype]}.")
    tensors = {
        name: np.frombuffer(bytes(entries[name]["data"]), dtype=dtype).reshape(entries[name]["shape"])
        for name, (dtype, _) in _TENSORS.items()
    }
    return tensors, about


def _parse_about(text: str, origin: str) -> _About:
    damaged = f"{origin} is damaged: its description is not readable. Make or copy it again."
    try:
        about = json.loads(text)
    except ValueError as error:
        raise VoiceError(damaged) from error
    match about:
        case {"version": int(version)} if version > FORMAT_VERSION:
            raise VoiceError(f"{origin} has format version {version}, this cf_agents reads {FORMAT_VERSION}; update cf_agents.")
        case {"version": 1, "name": str(name), "exaggeration": int() | float() as exaggeration, "metadata": dict(metadata)} if (
            all(isinstance(value, str) for value in metadata.values())
        ):
            return _About(name, exaggeration, metadata)
        case _:
            raise VoiceError(damaged)


def _frozen(name: str, array: NDArray) -> NDArray:
    dtype, rank = _TENSORS[name]
    if array.dtype != dtype or array.ndim != rank or array.size == 0:
        wanted = "T" if rank == 1 else "T, M"
        raise VoiceError(f"{name} is {array.dtype} {list(array.shape)}; it must be {np.dtype(dtype)} [{wanted}], not empty.")
    if dtype is np.int64 and (array.min() < 0 or array.max() >= CODEC_VOCAB):
        raise VoiceError(f"{name} holds ids from {array.min()} to {array.max()}; speech tokens are 0 to {CODEC_VOCAB - 1}.")
    if dtype is np.float32 and not np.isfinite(array).all():
        raise VoiceError(f"{name} has {np.count_nonzero(~np.isfinite(array))} values that are not finite.")
    copy = np.array(array, order="C")
    copy.setflags(write=False)
    return copy


def _checked_exaggeration(value: float) -> float:
    if not (math.isfinite(value) and 0.0 <= value <= MAX_EXAGGERATION):
        raise VoiceError(f"An exaggeration of {value} is not between 0 and {MAX_EXAGGERATION:g}; 0.5 is neutral.")
    return float(value)
