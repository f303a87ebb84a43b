"""The flow's velocity network: a U-Net without downsampling over mel frames, causal but for its attention.

Mean flow (Geng et al. 2025): the network is told both ends of an Euler step, t and r, and gives the mean velocity between
them. Knows nothing of tokens or chunks.

Letters: N rows, T frames, C channels, H heads, D head width, K frames attended to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cf_agents.models.derived import Derived
from cf_agents.models.flow_cache import Past, Tails, causal_conv, remember


class MeanFlow(nn.Module):
    """From noise to mel in a few Euler steps of equal length."""

    def __init__(self, estimator: Estimator, steps: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.estimator = estimator
        self.steps = steps
        self.temperature = temperature

    def forward(
        self,
        mean: Tensor,
        speaker: Tensor,
        condition: Tensor,
        noise: Tensor,
        mask: Tensor | None,
        memory: Past | None = None,
    ) -> Tensor:
        """Mel float32 [N, T, mel] from noise of that shape. mean: the encoder's, condition: known mel, both of that shape.
        speaker: [N, mel]. mask: bool, broadcast to [N, H, T, K]."""
        fixed = torch.cat([mean, speaker[:, None].expand_as(mean), condition.to(mean.dtype)], -1)
        x = noise.float() * self.temperature
        for step, shifts in enumerate(self.estimator.shifts(self.steps)):
            past = (None, None) if memory is None else (memory.memory.estimator[step], memory.estimator_tails[step])
            velocity = self.estimator(torch.cat([x.to(mean.dtype), fixed], -1), shifts, mask, *past)
            x = x + velocity.float() / self.steps
        return x


class Estimator(nn.Module):
    """Mean velocity of mel frames, [N, T, 4 mel] to [N, T, mel]."""

    def __init__(self, mel_bins: int, channels: int, heads: int, head_dim: int, blocks: int, mid_stages: int) -> None:
        super().__init__()
        wide = 4 * mel_bins
        time = 4 * channels
        self.time_mlp = TimeMlp(wide, time)
        self.time_embed_mixer = nn.Linear(2 * time, time, bias=False)
        layers = [TransformerLayers(channels, heads, head_dim, blocks) for _ in range(mid_stages + 2)]
        down = Stage(wide, channels, time, layers[0], CausalConv(channels, channels))
        mids = [Stage(channels, channels, time, some) for some in layers[1:-1]]
        up = Stage(2 * channels, channels, time, layers[-1], CausalConv(channels, channels))
        self.down_blocks = nn.ModuleList([down])
        self.mid_blocks = nn.ModuleList(mids)
        self.up_blocks = nn.ModuleList([up])
        self._stages = (down, *mids, up)
        self.final_block = CausalBlock(channels, channels)
        self.final_proj = nn.Conv1d(channels, mel_bins, 1)
        self._shifts = Derived[list[list[Tensor]]]()

    @property
    def tail_channels(self) -> int:
        """Channels that the causal convolutions remember, summed: the width of a tail."""
        return sum(conv.in_channels for conv in self.modules() if isinstance(conv, CausalConv))

    def shifts(self, steps: int) -> list[list[Tensor]]:
        """What each Euler step adds in each stage, [C] each: it depends on the number of steps alone."""
        mlps = [stage.resnet.mlp["1"] for stage in self._stages]
        weights = [*self.time_mlp.parameters(), self.time_embed_mixer.weight]
        weights += [weight for mlp in mlps for weight in mlp.parameters()]

        def compute() -> list[list[Tensor]]:
            ends = torch.linspace(0.0, 1.0, steps + 1, device=weights[0].device)
            times = self.time_mlp(ends)
            mixed = F.mish(self.time_embed_mixer(torch.cat([times[:-1], times[1:]], 1)))  # [steps, 4C]
            by_stage = [mlp(mixed) for mlp in mlps]
            return [[shift[step] for shift in by_stage] for step in range(steps)]

        return self._shifts.get(weights, compute, steps)

    def forward(
        self, x: Tensor, shifts: Sequence[Tensor], mask: Tensor | None, memory: Tensor | None = None, tails: Tails | None = None
    ) -> Tensor:
        """x: [N, T, 4 mel], noisy mel, encoder's mean, speaker and condition side by side. shifts: one step of `shifts`.
        mask: bool, broadcast to [N, H, T, K]. memory: [L, 2, N, H, K, D], written to. Returns [N, T, mel]."""
        skip = x
        memories = [None] * len(shifts) if memory is None else memory.unflatten(0, (len(shifts), -1)).unbind(0)
        for stage, shift, part in zip(self._stages, shifts, memories, strict=True):
            if stage is self._stages[-1]:
                x = torch.cat([x, skip], -1)
            x = stage(x, shift, mask, part, tails)
            if stage is self._stages[0]:
                skip = x
            x = stage.after(x, tails)
        x = self.final_block(x, tails)
        return F.linear(x, self.final_proj.weight.squeeze(-1), self.final_proj.bias)


class Stage(nn.ModuleList):
    """A residual block, its transformer layers, and perhaps a convolution after them."""

    def __init__(self, channels_in: int, channels: int, time: int, layers: nn.ModuleList, *after: CausalConv) -> None:
        super().__init__([ResnetBlock(channels_in, channels, time), layers, *after])

    @property
    def resnet(self) -> ResnetBlock:
        return cast(ResnetBlock, self[0])

    @property
    def layers(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self[1])

    def forward(self, x: Tensor, shift: Tensor, mask: Tensor | None, memory: Tensor | None, tails: Tails | None) -> Tensor:
        """Without the convolution, which comes after the skip connection is taken."""
        x = self.resnet(x, shift, tails)
        for i, layer in enumerate(self.layers):
            x = layer(x, mask, None if memory is None else memory[i])
        return x

    def after(self, x: Tensor, tails: Tails | None) -> Tensor:
        return self[2](x, tails) if len(self) == 3 else x


class TimeMlp(nn.Module):
    """Times [n] to embeddings [n, O]: sin and cos of 1000 t at geometric rates, then two layers."""

    def __init__(self, waves: int, out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(waves, out)
        self.linear_2 = nn.Linear(out, out)

    def forward(self, times: Tensor) -> Tensor:
        half = self.linear_1.in_features // 2
        rate = torch.exp(torch.arange(half, device=times.device) * (-math.log(10_000.0) / (half - 1)))
        angle = 1000.0 * times[:, None].float() * rate
        waves = torch.cat([angle.sin(), angle.cos()], -1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(waves)))


class CausalConv(nn.Conv1d):
    """Three taps, none ahead: [N, T, C] to [N, T, O]."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3)

    def forward(self, input: Tensor, tails: Tails | None = None) -> Tensor:
        return causal_conv(input, self.weight, self.bias, tails)


class CausalBlock(nn.Module):
    """Convolution, norm over channels, Mish."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"0": CausalConv(channels_in, channels_out), "2": nn.LayerNorm(channels_out)})

    def forward(self, x: Tensor, tails: Tails | None) -> Tensor:
        return F.mish(self.block["2"](self.block["0"](x, tails)))


class ResnetBlock(nn.Module):
    """Two causal blocks with the time's shift between them, and a projected residual."""

    def __init__(self, channels_in: int, channels_out: int, time: int) -> None:
        super().__init__()
        self.mlp = nn.ModuleDict({"1": nn.Linear(time, channels_out)})
        self.block1 = CausalBlock(channels_in, channels_out)
        self.block2 = CausalBlock(channels_out, channels_out)
        self.res_conv = nn.Conv1d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, shift: Tensor, tails: Tails | None) -> Tensor:
        inner = self.block2(self.block1(x, tails) + shift, tails)
        return inner + F.linear(x, self.res_conv.weight.squeeze(-1), self.res_conv.bias)


class TransformerLayers(nn.ModuleList):
    """The layers of one stage."""

    def __init__(self, channels: int, heads: int, head_dim: int, count: int) -> None:
        super().__init__(TransformerLayer(channels, heads, head_dim) for _ in range(count))


class TransformerLayer(nn.Module):
    """Self-attention without positions, and feed-forward, each with its norm in front."""

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads, head_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, mask: Tensor | None, memory: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x), mask, memory)
        return x + self.ff(self.norm3(x))


class Attention(nn.Module):
    """[N, T, C] to [N, T, C]."""

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, heads * head_dim, bias=False)
        self.to_k = nn.Linear(channels, heads * head_dim, bias=False)
        self.to_v = nn.Linear(channels, heads * head_dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(heads * head_dim, channels)])
        self._fused = Derived[Tensor]()

    def forward(self, x: Tensor, mask: Tensor | None, memory: Tensor | None) -> Tensor:
        weights = [self.to_q.weight, self.to_k.weight, self.to_v.weight]
        # one product instead of three: at a block's width the launches cost more than the arithmetic
        fused = self._fused.get(weights, lambda: torch.cat(weights))
        query, key, value = F.linear(x, fused).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [3, N, H, T, D]
        key, value = remember(memory, key, value)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.to_out[0](x.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Four times as wide inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"0": GeluLinear(channels, 4 * channels), "2": nn.Linear(4 * channels, channels)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["2"](self.net["0"](x))


class GeluLinear(nn.Module):
    """A linear layer and GELU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))
