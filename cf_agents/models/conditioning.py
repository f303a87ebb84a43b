"""The conditioning encoder: a speaker embedding, prompt tokens and an exaggeration become the first prefix positions.

Knows nothing of where a speaker embedding comes from (see `models/reference`) nor of the backbone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cf_agents.config import T3Config


class Resampler(nn.Module):
    """Perceiver attention: learned queries attend to the prompt, then to themselves, with the same weights."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.proj_out = nn.Linear(width, width)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        """query [B, Q, C] and memory [B, P, C] to [B, Q, C], residual included."""
        from_query, from_memory = self.norm(query), self.norm(memory)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(from_query), self.to_k(from_memory), self.to_v(from_memory))
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        return query + self.proj_out(mixed)


class Perceiver(nn.Module):
    """A prompt of any length to a fixed number of positions (Jaegle et al. 2021, one shared block applied twice)."""

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        self.pre_attention_query = nn.Parameter(torch.empty(1, config.perceiver_queries, config.hidden_size))
        self.attn = Resampler(config.hidden_size, config.perceiver_heads)

    def forward(self, prompt: Tensor) -> Tensor:
        """[B, P, C] to [B, queries, C]."""
        attended = self.attn(self.pre_attention_query.expand(prompt.shape[0], -1, -1), prompt)
        return self.attn(attended, attended)


class ConditioningEncoder(nn.Module):
    """Speaker, prompt and exaggeration to the prefix positions `[speaker | perceiver | emotion]`."""

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        self.spkr_enc = nn.Linear(config.speaker_dim, config.hidden_size)
        self.emotion_adv_fc = nn.Linear(1, config.hidden_size, bias=False)
        self.perceiver = Perceiver(config)

    def forward(self, speaker: Tensor, prompt: Tensor, exaggeration: float) -> Tensor:
        """speaker [speaker_dim] and embedded prompt [P, C] to [1 + queries + 1, C]."""
        level = speaker.new_full((1, 1), exaggeration)
        return torch.cat([self.spkr_enc(speaker[None]), self.perceiver(prompt[None])[0], self.emotion_adv_fc(level)])
