"""The flow's encoder: token embeddings to one vector per mel frame, with a look-ahead of a few tokens.

A convolution that looks ahead, conformer layers with relative positions (no convolution module), doubling of the rate, more
such layers. Everything but the look-ahead and the attention is causal, so with a `Past` it continues where it stopped.
Knows nothing of mel, noise or chunks.

Letters: N rows, T tokens, A look-ahead, C channels, H heads, D head width, K positions attended to, R distances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cf_agents.models.derived import Derived
from cf_agents.models.flow_cache import Past, Reach, Tails, causal_conv, remember

LEAKY_SLOPE = 0.01


class FlowEncoder(nn.Module):
    """Embedded tokens to frames, [N, T + A, C] to [N, 2T, C]."""

    def __init__(self, width: int, heads: int, ffn: int, blocks: int, up_blocks: int, lookahead: int) -> None:
        super().__init__()
        self.scale = math.sqrt(width)
        self.embed = InputLayer(width)
        self.pre_lookahead_layer = LookAhead(width, lookahead)
        self.encoders = nn.ModuleList(EncoderLayer(width, heads, ffn) for _ in range(blocks))
        self.up_layer = Doubling(width)
        self.up_embed = InputLayer(width)
        self.up_encoders = nn.ModuleList(EncoderLayer(width, heads, ffn) for _ in range(up_blocks))
        self.after_norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: Tensor, known: Tensor, tokens: Reach, frames: Reach, memory: Past | None = None) -> Tensor:
        """x: [N, T + A, C] embedded tokens, the last A only seen ahead. known: bool [N, T + A], False past a row's end."""
        tails = None if memory is None else memory.token_tails
        x = self.embed(x) * self.scale
        x = self.pre_lookahead_layer(x * known[..., None], tails)
        for i, layer in enumerate(self.encoders):
            x = layer(x, tokens, None if memory is None else memory.memory.tokens[i])
        x = self.up_layer(x, tails)
        x = self.up_embed(x) * self.scale
        for i, layer in enumerate(self.up_encoders):
            x = layer(x, frames, None if memory is None else memory.memory.frames[i])
        return self.after_norm(x)

    def reserve(self, longest: int) -> list[Tensor]:
        """Make what depends on distances for those up to `longest`, once: what recordings read, whose owner keeps it."""
        layers = [layer for some in (self.encoders, self.up_encoders) for layer in some if isinstance(layer, EncoderLayer)]
        return [layer.self_attn.distances(-longest, longest) for layer in layers]


class InputLayer(nn.Module):
    """A linear layer and its norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width, eps=1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)


class LookAhead(nn.Module):
    """Mixes each token with the A after it, then with the two before; [N, T + A, C] to [N, T, C]."""

    def __init__(self, width: int, lookahead: int) -> None:
        super().__init__()
        self.lookahead = lookahead
        self.conv1 = nn.Conv1d(width, width, lookahead + 1)
        self.conv2 = nn.Conv1d(width, width, 3)

    def forward(self, x: Tensor, tails: Tails | None) -> Tensor:
        ahead = F.leaky_relu(self.conv1(x.transpose(1, 2)), LEAKY_SLOPE).transpose(1, 2)
        return x[:, : x.shape[1] - self.lookahead] + causal_conv(ahead, self.conv2.weight, self.conv2.bias, tails)


class Doubling(nn.Module):
    """Every position twice, then a causal convolution of five taps: [N, T, C] to [N, 2T, C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 5)

    def forward(self, x: Tensor, tails: Tails | None) -> Tensor:
        x = F.pad(x, (0, 0, 2, 0)) if tails is None else tails.extend(x)
        return self.conv(x.repeat_interleave(2, 1).transpose(1, 2)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with its norm in front."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(width, heads)
        self.feed_forward = FeedForward(width, ffn)
        self.norm_ff = nn.LayerNorm(width, eps=1e-12)
        self.norm_mha = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, reach: Reach, memory: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.norm_mha(x), reach, memory)
        return x + self.feed_forward(self.norm_ff(x))


class FeedForward(nn.Module):
    def __init__(self, width: int, ffn: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, ffn)
        self.w_2 = nn.Linear(ffn, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(F.silu(self.w_1(x)))


class RelativeAttention(nn.Module):
    """Attention with sinusoidal relative positions (Dai et al. 2019, section 3.3):
    score = ((q + u) k + (q + v) W r(i - j)) / sqrt(D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, width // heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, width // heads))
        self._longest = 63
        self._distances = Derived[Tensor]()

    def forward(self, x: Tensor, reach: Reach, memory: Tensor | None) -> Tensor:
        query = self._split(self.linear_q(x))  # [N, H, T, D]
        key, value = remember(memory, self._split(self.linear_k(x)), self._split(self.linear_v(x)))
        by_distance = (query + self.pos_bias_v[:, None]) @ self.distances(reach.low, reach.high).transpose(1, 2)  # [N, H, T, R]
        bias = by_distance.gather(-1, reach.index.expand(*by_distance.shape[:2], -1, -1)) / math.sqrt(query.shape[-1])
        if reach.mask is not None:
            bias = bias.masked_fill(~reach.mask, -math.inf)
        x = F.scaled_dot_product_attention(query + self.pos_bias_u[:, None], key, value, attn_mask=bias)
        return self.linear_out(x.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def distances(self, low: int, high: int) -> Tensor:
        """W r(d) of the distances low to high, [H, R, D]."""
        self._longest = max(self._longest, -low, high)
        size = 1 << self._longest.bit_length()
        weight = self.linear_pos.weight

        def compute() -> Tensor:
            waves = relative_positions(size, weight.shape[1], weight.device).to(weight.dtype)
            return self.linear_pos(waves).unflatten(-1, (self.heads, -1)).transpose(0, 1)

        table = self._distances.get([weight], compute, size)
        middle = table.shape[1] // 2
        return table[:, middle + low : middle + high + 1]


def relative_positions(size: int, width: int, device: torch.device) -> Tensor:
    """r(d) of d = -size to size, [2 size + 1, width]: sin and cos of d / 10000^(2 i / width), interleaved."""
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    angle = torch.arange(-size, size + 1, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
