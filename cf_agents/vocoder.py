"""Codec tokens to PCM in pieces: the flow (tokens to mel) and HiFT (mel to waveform), one state per utterance.

    tokens --> flow, holds back what its look-ahead needs --> mel --> HiFT, holds back its right context --> PCM

Pieces join without a seam because nothing starts over: noise and phase go on by absolute position. The work of a piece does not
grow with what came before it, in the flow's `continue` mode and, with `window_tokens` set, in its `chunk` mode.
Knows nothing of the decoder that makes the tokens, of threads or of sessions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cf_agents.config import CODEC_VOCAB, FRAMES_PER_TOKEN, HOP_SAMPLES, SAMPLE_RATE
from cf_agents.errors import StreamClosed
from cf_agents.models.flow import Flow, FlowPrompt, FlowState, FlowVoice, Passes
from cf_agents.models.hift import Decode, HiFT, HiFTState
from cf_agents.models.noise import MEL_STREAM, SeededNoise, key

SAMPLES_PER_TOKEN = FRAMES_PER_TOKEN * HOP_SAMPLES
SEED_PATH = 0x564F_434F
"""Sets the vocoder's random numbers apart from the decoder's, which are given the same seed."""


class VoicePrompt(Protocol):
    """What a vocoder reads of a `Voice`: flow_tokens int64 [P], flow_mel float32 [2 P, 80], xvector float32 [192]."""

    @property
    def flow_tokens(self) -> NDArray[np.int64]: ...

    @property
    def flow_mel(self) -> NDArray[np.float32]: ...

    @property
    def xvector(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True, eq=False)
class VocoderVoice:
    """A voice on the device, computed once and shared by its utterances."""

    flow: FlowVoice


@dataclass(eq=False)
class VocoderState:
    """One utterance between two pieces; to end it early, drop it."""

    flow: FlowState
    hift: HiFTState
    tokens: int = 0
    """Received so far."""

    @property
    def closed(self) -> bool:
        """It has had its last tokens."""
        return self.hift.closed

    @property
    def held_samples(self) -> int:
        """Samples owed for the tokens received so far; 0 after the last step."""
        return self.tokens * SAMPLES_PER_TOKEN - self.hift.emitted * HOP_SAMPLES


class Vocoder:
    """Speaks many utterances at once. Weights are shared and never change; what changes is in the states."""

    def __init__(
        self,
        flow: Flow,
        hift: HiFT,
        sample_rate: int = SAMPLE_RATE,
        *,
        passes: Passes | None = None,
        decode: Decode | None = None,
    ) -> None:
        """passes, decode: how the networks' work is run, where they can (`vocoder_graphs`)."""
        assert sample_rate == SAMPLE_RATE, "the networks make 24 kHz; resample what they make"
        self.flow = flow
        self.hift = hift
        self.sample_rate = sample_rate
        self._passes = passes
        self._decode = decode

    @property
    def latency_samples(self) -> int:
        """Samples held back after a step that is not the last: the flow's look-ahead and HiFT's right context.

        In the flow's `chunk` mode up to one chunk more, until it is full.
        """
        return self.flow.config.lookahead_tokens * SAMPLES_PER_TOKEN + self.hift.config.right_frames * HOP_SAMPLES

    def prepare(self, voice: VoicePrompt) -> VocoderVoice:
        """Compute what depends on the voice alone: once per voice, as long as some seconds of speech take."""
        weight = self.flow.encoder_proj.weight
        prompt = FlowPrompt(
            torch.tensor(voice.flow_tokens, dtype=torch.int64, device=weight.device),
            torch.tensor(voice.flow_mel, dtype=weight.dtype, device=weight.device),
            torch.tensor(voice.xvector, dtype=weight.dtype, device=weight.device),
        )
        return VocoderVoice(self.flow.prepare(prompt))

    def open(self, voice: VocoderVoice, seed: int) -> VocoderState:
        """A new utterance; costs nothing. The same seed and tokens make the same sound, whatever else is spoken."""
        own = key(seed, SEED_PATH)
        noise = SeededNoise(own, self.flow.config.mel_bins, MEL_STREAM, self.flow.encoder_proj.weight.device)
        return VocoderState(self.flow.open(voice.flow, noise), self.hift.open(own))

    def step(
        self, states: Sequence[VocoderState], tokens: Sequence[Sequence[int] | Tensor], last: Sequence[bool]
    ) -> list[NDArray[np.float32]]:
        """Take new codec tokens of each utterance (there may be none) and give out the audio they settle, float32 [samples].

        `last` gives out what is held back: in all, `SAMPLES_PER_TOKEN` samples per token. Utterances may be at any position;
        each sounds as it would alone. Raises `StreamClosed` for a state after its last step. When a step raises, no state has
        changed.
        """
        assert len({id(state) for state in states}) == len(states) == len(tokens) == len(last)
        if any(state.closed for state in states):
            raise StreamClosed("This utterance has had its last tokens: open a new one with Vocoder.open.")
        news = [self._checked(each) for each in tokens]
        if not states:
            return []
        # Steps replace what a state holds and write into none of it, so a shallow copy is all there is to roll back.
        flows = [copy.copy(state.flow) for state in states]
        hifts = [copy.copy(state.hift) for state in states]
        audio = self.hift.step(hifts, self.flow.step(flows, news, last, self._passes), last, self._decode)
        pcm = torch.cat(audio).cpu().numpy()
        for state, flow, hift, new in zip(states, flows, hifts, news, strict=True):
            state.flow, state.hift, state.tokens = flow, hift, state.tokens + new.shape[0]
        ends = np.cumsum([piece.shape[0] for piece in audio])
        return [np.array(piece) for piece in np.split(pcm, ends[:-1])]

    def offline(self, tokens: Sequence[int] | Tensor, voice: VocoderVoice, seed: int) -> NDArray[np.float32]:
        """A whole utterance in one piece, float32 [samples]: what its pieces approach."""
        return self.step([self.open(voice, seed)], [tokens], [True])[0]

    def _checked(self, tokens: Sequence[int] | Tensor) -> Tensor:
        new = torch.as_tensor(tokens, dtype=torch.int64)
        assert new.dim() == 1, "tokens of one utterance are one row"
        assert bool(((new >= 0) & (new < CODEC_VOCAB)).all()), (
            f"codec ids are 0 to {CODEC_VOCAB - 1}; special ids are the decoder's"
        )
        return new.to(self.flow.encoder_proj.weight.device)
