"""S3 speech tokenizer, version 2: 16 kHz speech to codec tokens at 25 per second.

Du et al. 2024, "CosyVoice 2", section 2.2: the first layers of a speech recogniser, then finite scalar quantisation to eight
ternary digits. Module names are the released file's. Inference only, one recording at a time, so nothing is padded or masked.

Shape letters: N recordings, T samples, F frames (100 Hz, then 50, then 25), H heads, D head width, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cf_agents.config import REFERENCE_RATE, SpeechTokenizerConfig
from cf_agents.errors import VoiceError
from cf_agents.models.reference.features import TOKENIZER_HOP, tokenizer_mel

MAX_SECONDS = 30
_MEMORY_KERNEL = 31
_ROPE_THETA = 10_000.0
_DIGITS = 8
_LEVELS = 3
_SHRINK = 0.999


class SpeechTokenizer(nn.Module):
    """Speech tokens of a recording of at most 30 s.

    The released file may also hold `_mel_filters` and `window`; they are constants, computed here.
    """

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.quantizer = _Quantizer(config.width)

    def forward(self, mel: Tensor) -> Tensor:
        """Tokens int64 [N, ceil(F / 4)] of log-mel features float32 [N, M, F]."""
        return self.quantizer(self.encoder(mel))

    @torch.inference_mode()
    def tokenize(self, wave: Tensor, max_tokens: int | None = None) -> Tensor:
        """Tokens int64 [ceil(T // 160 / 4)] of a 16 kHz wave [T], cut to `max_tokens`.

        Raises `VoiceError` past 30 s: the released tokenizer would splice windows there, which no voice needs.
        """
        if wave.shape[0] // TOKENIZER_HOP > MAX_SECONDS * REFERENCE_RATE // TOKENIZER_HOP:
            raise VoiceError(
                f"The speech tokenizer takes at most {MAX_SECONDS} s and was given "
                f"{wave.shape[0] / REFERENCE_RATE:.1f} s. Cut the recording first."
            )
        mel = tokenizer_mel(wave, self.config.mel_bins)
        if max_tokens is not None:
            mel = mel[:, : 4 * max_tokens]
        return self(mel[None])[0]


class _Encoder(nn.Module):
    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.head_dim = config.width // config.heads
        self.conv1 = nn.Conv1d(config.mel_bins, config.width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(_Block(config.width, config.heads) for _ in range(config.layers))

    def forward(self, mel: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)  # [N, F / 4, C]
        rotation = _rotation(x.shape[1], self.head_dim, x.device)
        for block in self.blocks:
            x = block(x, rotation)
        return x


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = _MemoryAttention(width, heads)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attn(self.attn_ln(x), rotation)
        return x + self.mlp(self.mlp_ln(x))


class _MemoryAttention(nn.Module):
    """Self-attention plus a feed-forward sequential memory: a depth-wise convolution of the values over 31 frames."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.fsmn_block = nn.Conv1d(width, width, _MEMORY_KERNEL, padding=_MEMORY_KERNEL // 2, groups=width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        value = self.value(x)
        memory = self.fsmn_block(value.transpose(1, 2)).transpose(1, 2) + value
        query, key = _rotate(self._split(self.query(x)), rotation), _rotate(self._split(self.key(x)), rotation)
        attended = F.scaled_dot_product_attention(query, key, self._split(value))  # [N, H, F, D]
        return self.out(attended.transpose(1, 2).flatten(2)) + memory

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class _Quantizer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self._codebook = _TernaryCodebook(width)

    def forward(self, x: Tensor) -> Tensor:
        return self._codebook(x)


class _TernaryCodebook(nn.Module):
    """Finite scalar quantisation (Mentzer et al. 2023): id = sum_i 3^i (round(0.999 tanh h_i) + 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project_down = nn.Linear(width, _DIGITS)

    def forward(self, x: Tensor) -> Tensor:
        digits = torch.round(torch.tanh(self.project_down(x)) * _SHRINK).long() + 1
        return (digits * _LEVELS ** torch.arange(_DIGITS, device=x.device)).sum(dim=-1)


def _rotation(frames: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine [F, D] of rotary positions (Su et al. 2021), the two halves of a head paired."""
    frequency = _ROPE_THETA ** -(torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angle = torch.outer(torch.arange(frames, device=device).float(), frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = rotation
    left, right = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-right, left], dim=-1) * sine
