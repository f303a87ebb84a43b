"""What a recording becomes when it is made a voice: the three reference networks in the order of the released path.

Knows nothing of files, loudness or the voice format (see `cf_agents.recording` and `cf_agents.voice`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cf_agents.audio import resample
from cf_agents.config import FRAMES_PER_TOKEN, REFERENCE_RATE, SAMPLE_RATE, ModelConfig
from cf_agents.errors import VoiceError
from cf_agents.models.reference.features import flow_mel, resample_sinc
from cf_agents.models.reference.speech_tokenizer import SpeechTokenizer
from cf_agents.models.reference.voice_encoder import VoiceEncoder
from cf_agents.models.reference.xvector import XVector

DECODER_SECONDS = 6
FLOW_SECONDS = 10
MIN_SECONDS = 0.5


@dataclass(frozen=True, eq=False)
class Analysis:
    """What the networks heard in one recording, on the CPU.

    speaker: float32 [256], unit length. prompt_tokens: int64 [<= 150], of the first 6 s. flow_tokens: int64 [P] and
    flow_mel: float32 [2 P, 80], of the first 10 s. xvector: float32 [192].
    """

    speaker: NDArray[np.float32]
    prompt_tokens: NDArray[np.int64]
    flow_tokens: NDArray[np.int64]
    flow_mel: NDArray[np.float32]
    xvector: NDArray[np.float32]


class ReferenceModel:
    """The networks that only making a voice needs. Weights are shared and never change; calls may run in any thread."""

    def __init__(self, config: ModelConfig, voice_encoder: VoiceEncoder, xvector: XVector, tokenizer: SpeechTokenizer) -> None:
        self.config = config
        self.voice_encoder = voice_encoder
        self.xvector = xvector
        self.tokenizer = tokenizer

    @classmethod
    def build(cls, config: ModelConfig) -> ReferenceModel:
        """Networks of the configured sizes, in evaluation mode, their weights still to be assigned."""
        return cls(
            config,
            VoiceEncoder(config.voice_encoder).eval(),
            XVector(config.xvector).eval(),
            SpeechTokenizer(config.speech_tokenizer).eval(),
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where the work is done."""
        return self.tokenizer.encoder.conv1.weight.device

    def analyse(self, samples: NDArray[np.float32], sample_rate: int) -> Analysis:
        """Everything a voice holds, from mono samples float32 [T] in -1..1.

        Steps and order are those of the released package for a file of this rate: to 24 kHz and from there to 16 kHz (soxr
        HQ); the speaker vector is of the whole recording, the decoder's prompt of the first 6 s, the flow's of the first 10 s.
        No gain is applied. Raises `VoiceError` for samples that are not one channel, not finite, or under half a second.
        """
        if samples.ndim != 1:
            raise VoiceError(f"The reference has shape {samples.shape}; give one channel, [T].")
        if not np.isfinite(samples).all():
            raise VoiceError("The reference has samples that are not finite; give float samples between -1 and 1.")
        if samples.shape[0] < MIN_SECONDS * sample_rate:
            raise VoiceError(f"The reference lasts {samples.shape[0] / sample_rate:.2f} s; give at least {MIN_SECONDS} s.")
        at_24k = resample(samples.astype(np.float32), sample_rate, SAMPLE_RATE)
        return self.analyse_resampled(at_24k, resample(at_24k, SAMPLE_RATE, REFERENCE_RATE))

    @torch.inference_mode()
    def analyse_resampled(self, at_24k: NDArray[np.float32], at_16k: NDArray[np.float32]) -> Analysis:
        """`analyse` of one recording that is already there at both rates, float32 [T] and [ceil(2 T / 3)]."""
        wave_24k = torch.from_numpy(at_24k[: FLOW_SECONDS * SAMPLE_RATE]).to(self.device)
        wave_16k = torch.from_numpy(at_16k).to(self.device)
        flow_16k = resample_sinc(wave_24k, SAMPLE_RATE, REFERENCE_RATE)
        prompt = self.tokenizer.tokenize(wave_16k[: DECODER_SECONDS * REFERENCE_RATE], self.config.t3.prompt_tokens)
        mel = flow_mel(wave_24k, self.config.flow.mel_bins)
        tokens = self.tokenizer.tokenize(flow_16k)
        # The tokenizer rounds up to whole tokens and the mel rounds down to whole frames; the flow needs two frames a token.
        count = min(tokens.shape[0], mel.shape[0] // FRAMES_PER_TOKEN)
        return Analysis(
            speaker=_array(self.voice_encoder.embed(wave_16k)),
            prompt_tokens=_array(prompt),
            flow_tokens=_array(tokens[:count]),
            flow_mel=_array(mel[: FRAMES_PER_TOKEN * count]),
            xvector=_array(self.xvector.embed(flow_16k)),
        )


def _array(tensor: Tensor) -> NDArray:
    return np.ascontiguousarray(tensor.cpu().numpy())
