"""Speech tokens to mel: the flow, whole utterances at once or in pieces as tokens arrive.

Knows nothing of waveforms, text or sessions. A state is plain data that its owner drops when it is done with it.

Letters: N rows, P prompt tokens, T tokens, A look-ahead, 80 mel bins; 25 tokens/s, two mel frames per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from cf_agents.config import CODEC_VOCAB, FRAMES_PER_TOKEN, FlowConfig
from cf_agents.models import flow_stream
from cf_agents.models.flow_cache import TAIL, FlowCache, FlowPass, Memory, Past, Reach, reach
from cf_agents.models.flow_encoder import FlowEncoder
from cf_agents.models.flow_estimator import Estimator, MeanFlow
from cf_agents.models.flow_stream import Context, FlowPrompt, FlowState, FlowVoice
from cf_agents.models.noise import PROMPT_STREAM, NoiseSource, SeededNoise

__all__ = ["Flow", "FlowPrompt", "FlowState", "FlowVoice"]

ABSENT = -1
"""Stands in token tensors for places past a row's end."""


@dataclass(frozen=True, eq=False)
class PassInputs:
    """What a pass computes besides the past, rows of one width: `[context | new]`, T tokens.

    tokens: int64 [N, T + A], `ABSENT` past a row's end. speaker: [N, 80]. condition, noise: [N, 2T, 80].
    """

    tokens: Tensor
    speaker: Tensor
    condition: Tensor
    noise: Tensor


class Passed(Protocol):
    """What a pass leaves behind: one of the two is called, and ends it."""

    def caches(self) -> list[FlowCache]:
        """Each row's past after the pass."""
        ...

    def forget(self) -> None:
        """The pasts stay what they were."""
        ...


class Passes(Protocol):
    """How a pass is run where it is not launched kernel by kernel."""

    def __call__(
        self, flow: Flow, inputs: PassInputs, caches: Sequence[FlowCache], new: Sequence[int]
    ) -> tuple[Tensor, Passed] | None:
        """`Flow.network` over rows that see `new` tokens each, padded as it likes; None where it is not made for them."""
        ...


class Flow(nn.Module):
    """Tensors are named as in `s3gen.safetensors` under "flow."."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(CODEC_VOCAB, config.encoder_dim)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_dim, config.mel_bins)
        self.encoder = FlowEncoder(
            config.encoder_dim,
            config.encoder_heads,
            config.encoder_ffn,
            config.encoder_blocks,
            config.up_encoder_blocks,
            config.lookahead_tokens,
        )
        self.encoder_proj = nn.Linear(config.encoder_dim, config.mel_bins)
        estimator = Estimator(
            config.mel_bins,
            config.channels,
            config.estimator_heads,
            config.estimator_head_dim,
            config.blocks_per_stage,
            config.mid_stages,
        )
        self.decoder = MeanFlow(estimator, config.steps, config.temperature)

    @torch.inference_mode()
    def offline(self, tokens: Tensor, prompt: FlowPrompt, noise: Tensor) -> Tensor:
        """Mel float32 [1, 80, 2T] of tokens int64 [1, T], all at once with full attention. noise: [1, 80, 2 (P + T)]."""
        total = prompt.tokens.shape[0] + tokens.shape[1]
        return self._whole(tokens, prompt, noise, reach(0, total, tokens.device))

    @torch.inference_mode()
    def offline_chunked(self, tokens: Tensor, prompt: FlowPrompt, noise: Tensor) -> Tensor:
        """The same with the attention of `chunk` mode: what streaming in that mode equals."""
        lengths = prompt.tokens.shape[0], tokens.shape[1]
        return self._whole(tokens, prompt, noise, flow_stream.chunk_reach(self.config, *lengths, tokens.device))

    @torch.inference_mode()
    def prepare(self, prompt: FlowPrompt, noise: NoiseSource | None = None) -> FlowVoice:
        """What depends on the voice alone, computed once: immutable, shared by every state of that voice.

        noise: 80 channels, frame 0 being the prompt's first; None is the seeded noise that all voices share.
        """
        device = prompt.tokens.device
        noise = noise or SeededNoise(0, self.config.mel_bins, PROMPT_STREAM, device)
        length = prompt.tokens.shape[0]
        whole = Context(prompt.tokens, prompt.mel.float(), noise.frames(0, FRAMES_PER_TOKEN * length).T)
        if self.config.mode == "continue":
            first = max(0, length - self.config.prompt_tokens) if self.config.prompt_tokens else 0
            whole = whole.cut(first, length)
        cached = max(0, whole.length - self.config.lookahead_tokens)
        tail = whole.cut(cached, whole.length)
        voice = FlowVoice(self._speaker(prompt.speaker[None])[0], self._empty_cache(), tail)
        chunks = flow_stream.prompt_chunks(self.config, cached) if self.config.mode == "chunk" else [cached] * (cached > 0)
        done = 0
        for size in chunks:
            state = FlowState(voice, noise, voice.cache, whole.cut(done, done + size), whole.tokens[done + size :])
            _, memory = self._pass([state], [0])
            voice = FlowVoice(voice.speaker, memory.caches()[0], tail)
            done += size
        return voice

    def open(self, voice: FlowVoice, noise: NoiseSource) -> FlowState:
        """Start an utterance; costs nothing. noise: 80 channels, frame 0 being the first generated one."""
        return FlowState(voice, noise, voice.cache, voice.tail, voice.tail.tokens[:0])

    @torch.inference_mode()
    def step(
        self, states: Sequence[FlowState], tokens: Sequence[Tensor], last: Sequence[bool], passes: Passes | None = None
    ) -> list[Tensor]:
        """Take new tokens int64 [n_i] of each state, n_i may be 0; return its new mel frames float32 [80, m_i], m_i may be 0.

        States may be at any position; each gets what it would get alone. `last[i]` says that no tokens follow: what was held
        back for look-ahead comes out too, and the state must not be stepped again. passes: what runs a pass, if it can.
        """
        for state, new, end in zip(states, tokens, last, strict=True):
            assert not state.finished, "a flow state was stepped after its last tokens"
            state.waiting = torch.cat([state.waiting, new])
            state.finished = end
        pieces: list[list[Tensor]] = [[] for _ in states]
        while True:
            sizes = [flow_stream.ready_tokens(self.config, state, state.finished) for state in states]
            rows = [row for row, size in enumerate(sizes) if size]
            if not rows:
                break
            mels, memory = self._pass([states[row] for row in rows], [sizes[row] for row in rows], passes)
            if self.config.mode == "chunk":
                for row, cache in zip(rows, memory.caches(), strict=True):
                    states[row].cache = self._windowed(states[row], cache)
            else:
                memory.forget()
            for row, mel in zip(rows, mels, strict=True):
                pieces[row].append(self._advance(states[row], sizes[row], mel))
        empty = torch.zeros(self.config.mel_bins, 0, device=self.encoder_proj.weight.device)
        return [torch.cat(own, 1) if own else empty for own in pieces]

    def encode(self, tokens: Tensor, who: Reach, memory: Past | None = None) -> Tensor:
        """Mean of the mel [N, 2T, 80] of tokens int64 [N, T + A], the last A only seen ahead; `ABSENT` past a row's end."""
        known = tokens >= 0
        x = self.input_embedding(tokens.clamp(min=0))
        return self.encoder_proj(self.encoder(x, known, who, who.doubled(), memory))

    def _whole(self, tokens: Tensor, prompt: FlowPrompt, noise: Tensor, who: Reach) -> Tensor:
        known = FRAMES_PER_TOKEN * prompt.tokens.shape[0]
        every = torch.cat([prompt.tokens[None], tokens], 1)
        mean = self.encode(F.pad(every, (0, self.config.lookahead_tokens), value=ABSENT), who)
        condition = F.pad(prompt.mel, (0, 0, 0, mean.shape[1] - known))[None]
        mask = who.doubled().mask
        mel = self.decoder(mean, self._speaker(prompt.speaker[None]), condition, noise.transpose(1, 2), mask, None)
        return mel[:, known:].transpose(1, 2)

    def network(self, inputs: PassInputs, who: Reach, past: Past) -> Tensor:
        """Mel [N, 2T, 80] of a pass on top of a past, which is written to."""
        mean = self.encode(inputs.tokens, who, past)
        return self.decoder(mean, inputs.speaker, inputs.condition, inputs.noise, who.doubled().mask, past)

    def _pass(self, states: Sequence[FlowState], new: Sequence[int], passes: Passes | None = None) -> tuple[Tensor, Passed]:
        """Mel [N, 2 max(context + new), 80] of every state's context and next tokens, and what the pass remembers."""
        contexts = [state.context for state in states]
        lengths = [context.length + size for context, size in zip(contexts, new, strict=True)]
        ahead = self.config.lookahead_tokens
        tokens, noise, condition = [], [], []
        for state, context, size in zip(states, contexts, new, strict=True):
            row = torch.cat([context.tokens, state.waiting[: size + ahead]])
            tokens.append(F.pad(row, (0, context.length + size + ahead - row.shape[0]), value=ABSENT))
            begin = FRAMES_PER_TOKEN * state.emitted
            own = state.noise.frames(begin, begin + FRAMES_PER_TOKEN * size) if size else context.noise.T[:, :0]
            noise.append(torch.cat([context.noise, own.T]))
            condition.append(F.pad(context.mel, (0, 0, 0, FRAMES_PER_TOKEN * size)))
        inputs = PassInputs(
            pad_sequence(tokens, True, ABSENT),
            torch.stack([state.voice.speaker for state in states]),
            pad_sequence(condition, True),
            pad_sequence(noise, True),
        )
        caches = [state.cache for state in states]
        passed = passes(self, inputs, caches, lengths) if passes is not None else None
        if passed is not None:
            return passed
        memory = FlowPass(caches, lengths)
        return self.network(inputs, memory.reach, memory), memory

    def _advance(self, state: FlowState, size: int, mel: Tensor) -> Tensor:
        """Take `size` tokens and their mel [.., 80] off a state; return the new frames [80, 2 size]."""
        known = FRAMES_PER_TOKEN * state.context.length
        fresh = mel[known : known + FRAMES_PER_TOKEN * size].clone()
        if self.config.mode == "chunk":
            state.context = state.context.cut(0, 0)
        else:
            begin = FRAMES_PER_TOKEN * state.emitted
            noise = state.noise.frames(begin, begin + FRAMES_PER_TOKEN * size).T
            tail = state.voice.tail
            history = state.context.cut(tail.length, state.context.length).joined(Context(state.waiting[:size], fresh, noise))
            kept = history.cut(max(0, history.length - self.config.history_tokens), history.length)
            state.context = tail.joined(kept)
        state.waiting = state.waiting[size:]
        state.emitted += size
        return fresh.T

    def _windowed(self, state: FlowState, cache: FlowCache) -> FlowCache:
        window = self.config.window_tokens
        return cache.without(state.voice.cache.length, cache.length - window) if window else cache

    def _speaker(self, speaker: Tensor) -> Tensor:
        weight = self.spk_embed_affine_layer.weight
        return self.spk_embed_affine_layer(F.normalize(speaker.to(weight.dtype), dim=1))

    def room(self, rows: int, tokens: int) -> Memory:
        """Zeros for the keys and values of every layer, rows side by side."""
        config, like = self.config, self.encoder_proj.weight
        width = config.encoder_dim // config.encoder_heads
        layers = config.blocks_per_stage * (config.mid_stages + 2)
        encoder = (rows, config.encoder_heads)
        estimator = (rows, config.estimator_heads, FRAMES_PER_TOKEN * tokens, config.estimator_head_dim)
        return Memory(
            like.new_zeros(config.encoder_blocks, 2, *encoder, tokens, width),
            like.new_zeros(config.up_encoder_blocks, 2, *encoder, FRAMES_PER_TOKEN * tokens, width),
            like.new_zeros(config.steps, layers, 2, *estimator),
        )

    def _empty_cache(self) -> FlowCache:
        config, like = self.config, self.encoder_proj.weight
        tail = like.new_zeros(config.steps, TAIL, self.decoder.estimator.tail_channels)
        return FlowCache(self.room(1, 0).row(0), like.new_zeros(TAIL, 2 * config.encoder_dim), tail)
