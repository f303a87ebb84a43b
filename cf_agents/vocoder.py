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
OPENING_FRAMES = 6
"""What `Vocoder.begin` gives out of a long piece, .12 s: longer than the rest takes on anything that speaks in time, and little
enough to be made in half the time of a block."""
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
    rest: Tensor | None = None
    """[M, T] mel that `Vocoder.begin` left for `Vocoder.rest`."""

    @property
    def closed(self) -> bool:
        """It has had its last tokens."""
        return self.flow.finished

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
        return self._step(states, tokens, last, whole=True)

    def begin(
        self, states: Sequence[VocoderState], tokens: Sequence[Sequence[int] | Tensor], last: Sequence[bool]
    ) -> list[tuple[NDArray[np.float32], bool]]:
        """As `step`, for whom somebody waits: of a long piece only its beginning, and True where `rest` has more of it.

        What `begin` and `rest` give out is what `step` would, as near as pieces are to the whole.
        """
        begun = self._step(states, tokens, last, whole=False)
        return [(pcm, state.rest is not None) for pcm, state in zip(begun, states, strict=True)]

    def rest(self, states: Sequence[VocoderState]) -> list[NDArray[np.float32]]:
        """What `begin` has left of each, float32 [samples]. To be called before anything else is done with these states.

        When it raises, no state has changed.
        """
        mels = [state.rest for state in states if state.rest is not None]
        assert len({id(state) for state in states}) == len(states) == len(mels), "nothing was left"
        hifts = [copy.copy(state.hift) for state in states]
        pcm = self._sound(hifts, mels, [state.closed for state in states])
        for state, hift in zip(states, hifts, strict=True):
            state.hift, state.rest = hift, None
        return pcm

    def parted(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Mel [M, T] of an utterance's first piece as what is sounded first, and the rest: empty where two are not worth it."""
        first = OPENING_FRAMES + self.hift.config.right_frames
        first = first if mel.shape[1] >= first + OPENING_FRAMES else mel.shape[1]
        return mel[:, :first], mel[:, first:]

    def _step(
        self,
        states: Sequence[VocoderState],
        tokens: Sequence[Sequence[int] | Tensor],
        last: Sequence[bool],
        *,
        whole: bool,
    ) -> list[NDArray[np.float32]]:
        assert len({id(state) for state in states}) == len(states) == len(tokens) == len(last)
        assert all(state.rest is None for state in states), "the rest of a piece comes before the next one"
        if any(state.closed for state in states):
            raise StreamClosed("This utterance has had its last tokens: open a new one with Vocoder.open.")
        news = [self._checked(each) for each in tokens]
        if not states:
            return []
        # Steps replace what a state holds and write into none of it, so a shallow copy is all there is to roll back.
        flows = [copy.copy(state.flow) for state in states]
        hifts = [copy.copy(state.hift) for state in states]
        mels = self.flow.step(flows, news, last, self._passes)
        parts = [(mel, mel[:, :0]) if whole else self.parted(mel) for mel in mels]
        ends = [end and not rest.shape[1] for end, (_, rest) in zip(last, parts, strict=True)]
        pcm = self._sound(hifts, [first for first, _ in parts], ends)
        for state, flow, hift, new, (_, rest) in zip(states, flows, hifts, news, parts, strict=True):
            state.flow, state.hift, state.tokens = flow, hift, state.tokens + new.shape[0]
            state.rest = rest if rest.shape[1] else None
        return pcm

    def _sound(self, hifts: Sequence[HiFTState], mels: Sequence[Tensor], last: Sequence[bool]) -> list[NDArray[np.float32]]:
        audio = self.hift.step(hifts, mels, last, self._decode)
        pcm = torch.cat(audio).cpu().numpy()
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
