"""Sizes of the networks and knobs of a request, as frozen dataclasses.

The defaults are the released Chatterbox-Flash model, so a checkpoint folder without `config.json` is read as that one.
Knows nothing of files (see `checkpoint.py`) and imports no tensor library.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cf_agents.errors import ConfigError
from cf_agents.text.segment import SegmentPolicy

SAMPLE_RATE = 24_000
"""Hz of everything the vocoder makes and of a voice's mel prompt."""
REFERENCE_RATE = 16_000
"""Hz of what the speaker encoders and the speech tokenizer hear."""
TOKEN_RATE = 25
"""Speech tokens per second: 40 ms, two mel frames or 960 samples each."""
FRAMES_PER_TOKEN = 2
HOP_SAMPLES = 480
CODEC_VOCAB = 6561
"""Codec ids are 0..6560 (3 levels, 8 digits); what lies above is special."""

Bits = Literal[8, 4, None]
"""Of a weight in the decoder's products; None keeps the file's."""


@dataclass(frozen=True)
class RopeScaling:
    """Llama-3 frequency scaling of rotary embeddings."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@dataclass(frozen=True)
class T3Config:
    """The block-diffusion decoder: a Llama backbone between text and speech tokens."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_layers: int = 30
    num_heads: int = 16
    head_dim: int = 64
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    backbone_vocab: int = 8
    text_vocab: int = 704
    max_text_tokens: int = 2048
    start_text: int = 255
    stop_text: int = 0
    speech_vocab: int = 8194
    max_speech_tokens: int = 4096
    start_speech: int = 6561
    stop_speech: int = 6562
    speaker_dim: int = 256
    perceiver_queries: int = 32
    perceiver_heads: int = 4
    prompt_tokens: int = 150
    block_size: int = 16
    alignment_heads: tuple[tuple[int, int], ...] = ()
    """(layer, head) pairs whose attention was trained to lie on the text being spoken; none in the released model."""

    @property
    def mask_id(self) -> int:
        """Id of [MASK]: the one row of the speech embedding past the vocabulary."""
        return self.speech_vocab

    @property
    def conditioning_length(self) -> int:
        """Prefix positions that depend on the voice alone: speaker, perceiver queries, emotion."""
        return self.perceiver_queries + 2


@dataclass(frozen=True)
class FlowConfig:
    """Tokens to mel: conformer encoder with look-ahead, then a mean-flow U-Net over mel frames at 50 Hz."""

    mode: Literal["continue", "chunk"] = "continue"
    chunk_tokens: int = 16
    """Width of an attention chunk in `chunk` mode, in speech tokens."""
    window_tokens: int = 0
    """`chunk` mode: speech tokens before a chunk that it attends to besides the prompt; 0 is all of them."""
    history_tokens: int = 32
    """`continue` mode: emitted speech tokens that are computed again, with their mel as condition, to continue from."""
    prompt_tokens: int = 125
    """`continue` mode: at most so many of the prompt's last tokens are used; 0 is all of them."""
    steps: int = 2
    temperature: float = 1.0
    """Scale of the noise that the first Euler step starts from; at 0 the mel depends on tokens and voice alone."""
    mel_bins: int = 80
    speaker_dim: int = 192
    lookahead_tokens: int = 3
    encoder_dim: int = 512
    encoder_heads: int = 8
    encoder_ffn: int = 2048
    encoder_blocks: int = 6
    up_encoder_blocks: int = 4
    channels: int = 256
    estimator_heads: int = 8
    estimator_head_dim: int = 64
    blocks_per_stage: int = 4
    mid_stages: int = 12


@dataclass(frozen=True)
class HiFTConfig:
    """Mel to waveform: F0 predictor, harmonic source, upsampling convolutions, inverse STFT."""

    mel_bins: int = 80
    base_channels: int = 512
    harmonics: int = 8
    sine_amplitude: float = 0.1
    noise_std: float = 0.003
    voiced_threshold_hz: float = 10.0
    upsample_rates: tuple[int, ...] = (8, 5, 3)
    upsample_kernels: tuple[int, ...] = (16, 11, 7)
    istft_fft: int = 16
    istft_hop: int = 4
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    source_kernels: tuple[int, ...] = (7, 7, 11)
    source_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    f0_channels: int = 512
    leaky_slope: float = 0.1
    audio_limit: float = 0.99
    left_frames: int = 12
    """Mel frames decoded again before the first one owed: costs work, no delay."""
    right_frames: int = 10
    """Mel frames held back until more come or the utterance ends: 20 ms of delay each."""


@dataclass(frozen=True)
class VoiceEncoderConfig:
    """GE2E speaker encoder (an LSTM over 40 mel bins) whose output conditions the decoder."""

    mel_bins: int = 40
    hidden_size: int = 256
    num_layers: int = 3
    embedding_dim: int = 256


@dataclass(frozen=True)
class XVectorConfig:
    """CAM++ speaker encoder whose output conditions the flow."""

    mel_bins: int = 80
    embedding_dim: int = 192
    growth_rate: int = 32
    bottleneck_scale: int = 4
    init_channels: int = 128
    head_channels: int = 32


@dataclass(frozen=True)
class SpeechTokenizerConfig:
    """S3 speech tokenizer v2: 128 mel bins at 100 Hz to FSQ codes at 25 Hz."""

    mel_bins: int = 128
    width: int = 1280
    heads: int = 20
    layers: int = 6


@dataclass(frozen=True)
class DecodeParams:
    """Knobs of one request's block-diffusion decoding.

    The defaults are the released model's (`preset("released")`); `preset("paper")` is the faster headline setting. What a
    checkpoint was made for is in its `ModelConfig.decoding`.
    """

    steps: int = 10
    """K, denoising steps per block at most."""
    temperature: float = 0.6
    """Softmax temperature of token sampling; 0 takes the most likely token."""
    early: float = 0.1
    """alpha of early decoding: the score quantile max(0, 1 - alpha (k+1)/K) may open more than the schedule; 0 is off."""
    guidance: float = 1.0
    """w of log p_c + w (log p_c - log p_u); 0 turns the second row off."""
    schedule_shift: float = 0.5
    """t of the unmasking curve r(s) = t s / (1 + (t - 1) s)."""
    position_noise: float = 1.0
    """Scale of the Gumbel noise added to the scores that rank positions. 1.0 is what the published package computes for
    any positive `position_temperature` (it divides zeros by it); 0 ranks by score alone."""
    prior: Literal["causal", "marginal"] = "causal"
    """Denominator of the score: the precomputed unconditional prior, or the block's own mean distribution."""
    block_size: int | None = None
    """Speech tokens per block; None takes the model's."""
    max_tokens: int | None = None
    """Budget of speech tokens for one segment. None: the decoder takes max(6 x text tokens, 300) as the published package does,
    and a `Stream` lowers that to what the text can need (`stream.RUNAWAY`)."""
    retakes: int = 3
    """How often a block that leaves a word of the text out is denoised again at most; the best take is kept. Only a model with
    alignment heads tells (`T3Config.alignment_heads`)."""

    def __post_init__(self) -> None:
        checks = [
            ("steps", 1 <= self.steps <= 1000, "between 1 and 1000"),
            ("temperature", 0.0 <= self.temperature <= 10.0, "between 0 and 10"),
            ("early", 0.0 <= self.early <= 100.0, "between 0 and 100"),
            ("guidance", 0.0 <= self.guidance <= 100.0, "between 0 and 100"),
            ("schedule_shift", 0.0 < self.schedule_shift <= 100.0, "above 0 and at most 100"),
            ("position_noise", 0.0 <= self.position_noise <= 100.0, "between 0 and 100"),
            ("prior", self.prior in ("causal", "marginal"), "'causal' or 'marginal'"),
            ("block_size", self.block_size is None or 1 <= self.block_size <= 128, "None or between 1 and 128"),
            ("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "None or at least 1"),
            ("retakes", 0 <= self.retakes <= 100, "between 0 and 100"),
        ]
        for name, good, wanted in checks:
            if not good:
                raise ConfigError(f"DecodeParams.{name} is {getattr(self, name)!r}; give a value {wanted}.")

    @classmethod
    def preset(cls, name: str) -> DecodeParams:
        """The named setting of `PRESETS`. Raises `ConfigError` for a name that is not there."""
        if name not in PRESETS:
            raise ConfigError(f"There is no decoding preset {name!r}; choose one of {', '.join(PRESETS)}.")
        return PRESETS[name]


PRESETS: Mapping[str, DecodeParams] = types.MappingProxyType(
    {
        "released": DecodeParams(),
        "paper": DecodeParams(steps=8, temperature=0.2, early=0.5),
    }
)


@dataclass(frozen=True)
class ModelConfig:
    """Everything a checkpoint folder's `config.json` may say; absent keys keep the released value."""

    name: str = "chatterbox-flash"
    t3: T3Config = field(default_factory=T3Config)
    flow: FlowConfig = field(default_factory=FlowConfig)
    hift: HiFTConfig = field(default_factory=HiFTConfig)
    voice_encoder: VoiceEncoderConfig = field(default_factory=VoiceEncoderConfig)
    xvector: XVectorConfig = field(default_factory=XVectorConfig)
    speech_tokenizer: SpeechTokenizerConfig = field(default_factory=SpeechTokenizerConfig)
    decoding: DecodeParams = field(default_factory=DecodeParams)
    """The knobs this checkpoint speaks best with: what a request gets that names none."""
    segments: SegmentPolicy = field(default_factory=SegmentPolicy)
    """How long a text it says best in one breath: where a stream cuts what is written."""
    quantise: Bits = None
    """What it is served with where that is to be had and nobody says otherwise (`backends.choose`)."""
    trained: bool = True
    """False for a seeded random checkpoint: whoever speaks with it is told so."""

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> ModelConfig:
        """Build from parsed JSON. Raises `ConfigError` naming the key for an unknown key or a wrong type."""
        return typing.cast(ModelConfig, _build(cls, data, ""))

    def to_dict(self) -> dict[str, object]:
        """A JSON-ready dictionary that `from_dict` reads back."""
        return dataclasses.asdict(self)


def _build(cls: type, data: object, path: str) -> object:
    if not isinstance(data, Mapping):
        raise ConfigError(f"config.json: {path or 'the top level'} must be an object, not {type(data).__name__}.")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise ConfigError(
            f"config.json: unknown key {path}{unknown[0]!s}. Known keys here: {', '.join(sorted(hints))}. "
            "Remove it, or update cf_agents if the checkpoint is newer."
        )
    return cls(**{key: _value(hints[key], value, path + key) for key, value in data.items()})


def _value(hint: object, value: object, path: str) -> object:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, path + ".")
    if typing.get_origin(hint) is types.UnionType:
        if value is None:
            return None
        (hint,) = (each for each in typing.get_args(hint) if each is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        if isinstance(value, (list, tuple)):
            inner = typing.get_args(hint)[0]
            return tuple(_value(inner, item, f"{path}[{i}]") for i, item in enumerate(value))
    elif typing.get_origin(hint) is Literal:
        if any(value == each and type(value) is type(each) for each in typing.get_args(hint)):
            return value
        raise ConfigError(f"config.json: {path} is {value!r}; choose one of {typing.get_args(hint)}.")
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif hint in (int, bool, str) and type(value) is hint:
        return value
    raise ConfigError(f"config.json: {path} is {value!r}, which is not of the type it needs ({hint}).")
