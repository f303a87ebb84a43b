"""CAM++ speaker encoder: an x-vector from Kaldi filter banks, which conditions the flow.

Wang et al. 2023, "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware Masking": a small 2-D
convolutional head, densely connected time-delay layers with a context mask each, mean and deviation pooling. Module names are
the released file's. Inference only; knows nothing of files or voices.

Shape letters: T samples, F frames, M mel bins, C channels, E embedding.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cf_agents.config import XVectorConfig
from cf_agents.models.reference.features import kaldi_fbank

# (layers, dilation) of the three dense blocks.
_BLOCKS = ((12, 1), (24, 2), (16, 2))
_SEGMENT_FRAMES = 100


class XVector(nn.Module):
    """Speaker embedding from 16 kHz speech; not normalised, the flow does that."""

    def __init__(self, config: XVectorConfig) -> None:
        super().__init__()
        self.config = config
        self.head = _Head(config.head_channels)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = config.init_channels
        layers["tdnn"] = _Tdnn(self.head.features(config.mel_bins), channels)
        for index, (count, dilation) in enumerate(_BLOCKS, start=1):
            layers[f"block{index}"] = _DenseBlock(count, channels, config.growth_rate, config.bottleneck_scale, dilation)
            channels += count * config.growth_rate
            layers[f"transit{index}"] = _Transit(channels, channels // 2)
            channels //= 2
        layers["out_nonlinear"] = _norm_relu(channels)
        layers["stats"] = _StatisticsPooling()
        layers["dense"] = _Embedding(2 * channels, config.embedding_dim)
        self.xvector = nn.Sequential(layers)

    def forward(self, features: Tensor) -> Tensor:
        """Filter banks float32 [N, F, M] to embeddings [N, E]."""
        return self.xvector(self.head(features.transpose(1, 2)))

    @torch.inference_mode()
    def embed(self, wave: Tensor) -> Tensor:
        """The x-vector [E] of a 16 kHz wave [T]; the mean of each bin over time is removed first."""
        features = kaldi_fbank(wave, self.config.mel_bins)
        return self((features - features.mean(dim=0, keepdim=True))[None])[0]


class _Head(nn.Module):
    """Residual 2-D convolutions over (bin, frame): bins are divided by eight, frames kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = nn.Sequential(_Residual(channels, halve=True), _Residual(channels, halve=False))
        self.layer2 = nn.Sequential(_Residual(channels, halve=True), _Residual(channels, halve=False))
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def features(self, mel_bins: int) -> int:
        return self.channels * (mel_bins // 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x[:, None])))  # [N, C, M, F]
        x = self.layer2(self.layer1(x))
        x = F.relu(self.bn2(self.conv2(x)))
        return x.flatten(1, 2)  # [N, C M / 8, F]


class _Residual(nn.Module):
    def __init__(self, channels: int, *, halve: bool) -> None:
        super().__init__()
        stride = (2 if halve else 1, 1)
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if halve:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class _Tdnn(nn.Module):
    """Halves the frame rate."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 5, stride=2, padding=2, bias=False)
        self.nonlinear = _norm_relu(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x))


class _ContextMask(nn.Module):
    """A local convolution gated by what the whole recording and the current second sound like (equations 3 to 6)."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(in_channels, in_channels // 2, 1)
        self.linear2 = nn.Conv1d(in_channels // 2, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        segments = F.avg_pool1d(x, _SEGMENT_FRAMES, _SEGMENT_FRAMES, ceil_mode=True)
        local = segments.repeat_interleave(_SEGMENT_FRAMES, dim=-1)[..., : x.shape[-1]]
        context = F.relu(self.linear1(x.mean(dim=-1, keepdim=True) + local))
        return self.linear_local(x) * torch.sigmoid(self.linear2(context))


class _DenseLayer(nn.Module):
    def __init__(self, in_channels: int, growth: int, bottleneck: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = _norm_relu(in_channels)
        self.linear1 = nn.Conv1d(in_channels, bottleneck, 1, bias=False)
        self.nonlinear2 = _norm_relu(bottleneck)
        self.cam_layer = _ContextMask(bottleneck, growth, dilation)

    def forward(self, x: Tensor) -> Tensor:
        return self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))


class _DenseBlock(nn.Module):
    """Each layer hears the block's input and every layer before it."""

    def __init__(self, layers: int, in_channels: int, growth: int, scale: int, dilation: int) -> None:
        super().__init__()
        for index in range(layers):
            layer = _DenseLayer(in_channels + index * growth, growth, scale * growth, dilation)
            self.add_module(f"tdnnd{index + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = torch.cat([x, layer(x)], dim=1)
        return x


class _Transit(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.nonlinear = _norm_relu(in_channels)
        self.linear = nn.Conv1d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.nonlinear(x))


class _StatisticsPooling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean(dim=-1), x.std(dim=-1)], dim=-1)


class _Embedding(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 1, bias=False)
        self.nonlinear = nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(out_channels, affine=False)))

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x[..., None])[..., 0])


def _norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(channels), relu=nn.ReLU()))
