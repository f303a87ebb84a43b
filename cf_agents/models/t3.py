"""The decoder network: a Llama backbone between text and speech tokens, written once for every torch back-end.

A back-end brings its own attention: `T3.backbone` hands each layer's queries, keys and values to a callback, with all rows of a
batch laid end to end, so that no product is spent on padding. Knows nothing of caches, rows, scores or sampling.

Shapes: T tokens of all rows end to end, C hidden size, H heads, E head size, V speech vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cf_agents.config import RopeScaling, T3Config
from cf_agents.models.conditioning import ConditioningEncoder
from cf_agents.models.linear import FusedLinear


class Attend(Protocol):
    """A back-end's attention for one layer: q, k, v [T, H, E] in, [T, H * E] out."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class SelfAttention(nn.Module):
    """The four projections of a layer; what lies between them belongs to the back-end."""

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=False)


class FeedForward(nn.Module):
    """SwiGLU's three projections."""

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)


class Layer(nn.Module):
    """One pre-norm Llama layer."""

    def __init__(self, config: T3Config, index: int) -> None:
        super().__init__()
        self.index = index
        self.heads = config.num_heads
        self.self_attn = SelfAttention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self._fused: tuple[FusedLinear, FusedLinear, FusedLinear, FusedLinear] | None = None

    @property
    def products(self) -> Sequence[FusedLinear]:
        """The fused products in the order they run: qkv, attention out, gate and up, down. Empty before `fuse`."""
        return self._fused or ()

    def fuse(self, bits: Literal[8] | None = None) -> None:
        """Move the weights into fused products; the separate ones are given up."""
        attn, mlp = self.self_attn, self.mlp
        self._fused = (
            _take([attn.q_proj, attn.k_proj, attn.v_proj], bits),
            _take([attn.o_proj], bits),
            _take([mlp.gate_proj, mlp.up_proj], bits),
            _take([mlp.down_proj], bits),
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, kept: Tensor | None = None) -> Tensor:
        """x [T, C], cos and sin [T, 1, E / 2] of each token's position; kept: those of T that are wanted, None being all."""
        h = self.input_layernorm(x)
        if self._fused is None:
            attn = self.self_attn
            qkv = torch.cat([attn.q_proj(h), attn.k_proj(h), attn.v_proj(h)], dim=-1)
        else:
            qkv = self._fused[0](h)
        qkv = qkv.view(h.shape[0], 3, self.heads, -1)  # [T, 3, H, E]
        q, k = rotate(qkv[:, :2].flatten(1, 2), cos, sin).chunk(2, dim=1)
        mixed = attend(self.index, q, k, qkv[:, 2])
        if kept is not None:
            x, mixed = x[kept], mixed[kept]
        x = x + self.self_attn.o_proj(mixed) if self._fused is None else self._fused[1](mixed, onto=x)
        h = self.post_attention_layernorm(x)
        if self._fused is None:
            mlp = self.mlp
            return x + mlp.down_proj(F.silu(mlp.gate_proj(h)) * mlp.up_proj(h))
        gate, up = self._fused[2](h).chunk(2, dim=-1)
        return self._fused[3](F.silu(gate).mul_(up), onto=x)


class Backbone(nn.Module):
    """The layers and the final norm. `embed_tokens` is in the released file but nothing reads it."""

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.backbone_vocab, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class PositionEmbedding(nn.Module):
    """A learned table, one row per position."""

    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(positions, width)


class T3(nn.Module):
    """Text and speech embeddings, conditioning, backbone and heads, under the released names."""

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.tfmr = Backbone(config)
        self.cond_enc = ConditioningEncoder(config)
        self.text_emb = nn.Embedding(config.text_vocab, width)
        self.speech_emb = nn.Embedding(config.speech_vocab + 1, width)  # the last row is [MASK]
        self.text_pos_emb = PositionEmbedding(config.max_text_tokens + 2, width)
        self.speech_pos_emb = PositionEmbedding(config.max_speech_tokens + 4, width)
        self.text_head = nn.Linear(width, config.text_vocab, bias=False)
        self.speech_head = nn.Linear(width, config.speech_vocab, bias=False)
        self._head: FusedLinear | None = None

    @property
    def device(self) -> torch.device:
        return self.speech_emb.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.speech_emb.weight.dtype

    def fuse(self, bits: Literal[8] | None = None) -> None:
        """Prepare for inference: fused and packed products. One way; `state_dict` is incomplete afterwards, and what is fused
        stays as it is. bits: 8 for products in whole numbers (`linear.Int8Product`)."""
        if self._head is not None:
            return
        for layer in self.tfmr.layers:
            assert isinstance(layer, Layer)
            layer.fuse(bits)
        self._head = _take([self.speech_head], bits)

    def backbone(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, kept: Tensor | None = None) -> Tensor:
        """Embeddings [T, C] to final hidden states [T, C], or of the tokens `kept` alone; cos and sin [T, 1, E / 2].

        Keys and values are of all tokens; the last layer makes nothing else of those that are not kept.
        """
        *layers, last = self.tfmr.layers
        for layer in layers:
            x = layer(x, cos, sin, attend)
        return self.tfmr.norm(last(x, cos, sin, attend, kept))

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states [T, C] to speech logits [T, V]."""
        return self.speech_head(hidden) if self._head is None else self._head(hidden)

    def embed_conditioning(self, speaker: Tensor, prompt_tokens: Tensor, exaggeration: float) -> Tensor:
        """speaker [speaker_dim] and prompt ids [P] to the voice's prefix positions [conditioning_length, C]."""
        positions = self.speech_pos_emb.emb.weight[: prompt_tokens.shape[0]]
        return self.cond_enc(speaker.to(self.dtype), self.speech_emb(prompt_tokens) + positions, exaggeration)

    def embed_text(self, ids: Tensor) -> Tensor:
        """Text ids [L] to [L, C]; positions count from 0 in the text."""
        return self.text_emb(ids) + self.text_pos_emb.emb.weight[: ids.shape[0]]

    def embed_speech(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Speech ids and their block-local positions (0 to D - 1 again in every block, SOS at 0), [T] each, to [T, C]."""
        return self.speech_emb(ids) + self.speech_pos_emb.emb(positions)

    def causal(self, x: Tensor) -> Tensor:
        """A plain causal Llama call over one sequence [T, C], without a cache."""
        cos, sin = rotary_table(self.config, x.shape[0], x.device, x.dtype)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1).flatten(1)

        return self.backbone(x, cos, sin, attend)


def prior(t3: T3, block_size: int) -> Tensor:
    """The unconditional distribution over speech ids, float32 [V], that calibrates scores.

    One causal forward on `[SOS, MASK x D]` without conditioning, positions counted through, softmax averaged over the D places
    that predict a mask. The published package computes it so; a pass through the block's bidirectional attention differs. The
    last mask predicts nothing and, the pass being causal, is left out.
    """
    ids = torch.full((block_size,), t3.config.mask_id, device=t3.device)
    ids[0] = t3.config.start_speech
    hidden = t3.causal(t3.embed_speech(ids, torch.arange(block_size, device=t3.device)))
    return t3.head(hidden).float().softmax(dim=-1).mean(dim=0)


def rotary_table(config: T3Config, positions: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin, [positions, 1, E / 2], of rotary embeddings (Su et al. 2021) with Llama-3 frequency scaling."""
    angles = torch.arange(positions, device=device, dtype=torch.float32)[:, None] * rotary_frequencies(config, device)
    return angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]


def rotary_frequencies(config: T3Config, device: torch.device | str = "cpu") -> Tensor:
    """Radians per position, float32 [E / 2]."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device) / config.head_dim
    return _scaled(config.rope_theta**-half, config.rope_scaling)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [T, H, E] by position: the first half of E pairs with the second."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(b * cos, a, sin)], dim=-1)


def _scaled(frequency: Tensor, scaling: RopeScaling) -> Tensor:
    wavelength = 2 * math.pi / frequency
    longest = scaling.original_max_position / scaling.low_freq_factor
    shortest = scaling.original_max_position / scaling.high_freq_factor
    blend = (scaling.original_max_position / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = (1 - blend) * frequency / scaling.factor + blend * frequency
    slow = torch.where(wavelength > longest, frequency / scaling.factor, between)
    return torch.where(wavelength < shortest, frequency, slow)


def _take(linears: Sequence[nn.Linear], bits: Literal[8] | None) -> FusedLinear:
    fused = FusedLinear([linear.weight for linear in linears], bits)
    for linear in linears:
        linear.weight = nn.Parameter(linear.weight.new_empty(0), requires_grad=False)
    return fused
