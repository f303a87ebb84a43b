"""HiFT: mel frames to waveform, in one piece or as they come.

What streaming rests on: a sample hears mel at most 14 frames away, and hardly beyond 10. So a step decodes a window that begins
`left_frames` before the first frame still owed and ends at the newest frame, and gives out all but the last `right_frames`. The
excitation is not made again: F0 is committed once the 5 frames it looks ahead are there, and phase and noise go on by absolute
position. What is beyond the newest frame is guessed to be that frame, held: 13 to 20 dB nearer to the whole than zeros.

    mel      ...|--left--|======= owed =======|--right--|.held.|
    window      a        e                    n-right   n            given out: [e, n - right), all of it at the end

Later stages look less far, so each works only on what the frames given out can hear (see `_reaches`): same audio, less work.
Knows nothing of tokens, threads or voices. Weights are float32: the phase and the noise need it.

Shapes: N rows, M mel bins, C channels, W frames of a window, H harmonics with the fundamental.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cf_agents.config import HOP_SAMPLES, SAMPLE_RATE, HiFTConfig
from cf_agents.errors import ConfigError
from cf_agents.models.f0 import F0_REACH_FRAMES, F0Predictor
from cf_agents.models.layout import WeightNormConv1d, WeightNormConvTranspose1d
from cf_agents.models.noise import SOURCE_STREAM, NoiseSource, SeededNoise
from cf_agents.models.resblock import ResBlock, resblock_reach
from cf_agents.models.source import HarmonicSource, draw_offsets
from cf_agents.models.stft import centre, istft, stft

MAGNITUDE_LIMIT = 100.0
LAST_LEAKY_SLOPE = 0.01
HELD_FRAMES = F0_REACH_FRAMES
"""Times the newest frame is repeated in a window: more changes nothing that is given out."""
FADE_SAMPLES = SAMPLE_RATE // 50
"""An utterance begins with this many samples of silence, then as many of a raised cosine: what spills over from the prompt."""


@dataclass
class HiFTState:
    """One utterance on its way to sound; whoever opened it drops it, nothing else holds it."""

    noise: NoiseSource
    """One channel, by absolute sample."""
    offsets: Tensor
    """[H] radians."""
    mel: Tensor
    """[M, frames - tail] the frames that the next window begins with."""
    source: Tensor
    """[hop (committed - tail)] the excitation of those whose F0 is final."""
    phase: Tensor
    """[] int64, of the fundamental at frame `committed`."""
    frames: int = 0
    emitted: int = 0
    committed: int = 0
    tail: int = 0
    """Absolute index of the first frame kept."""
    closed: bool = False

    @property
    def held_samples(self) -> int:
        """Samples owed for the mel received so far."""
        return (self.frames - self.emitted) * HOP_SAMPLES


@dataclass(frozen=True)
class Window:
    """Of `width` decoded frames, those from `start` to `stop - 1` are wanted."""

    width: int
    start: int
    stop: int


Spans = Sequence[tuple[int, int]]
"""Of each row the samples from the first to before the second, at one rate; the same first one in all where rows end apart."""


@dataclass(frozen=True)
class Cuts:
    """Which part of a window each stage works on: all before the first stage, then before each other one."""

    spans: Sequence[Spans]
    """Of each row, or one for all of them."""
    ends: Sequence[Tensor | None]
    """[N] valid samples of each row, from the start of its span; None where all are."""


class Decode(Protocol):
    """How windows are decoded where that is not launched kernel by kernel."""

    def __call__(self, hift: HiFT, mel: Tensor, sources: Sequence[Tensor], windows: Sequence[Window]) -> list[Tensor] | None:
        """`HiFT.decode`; None where it is not made for these windows."""
        ...


class HiFT(nn.Module):
    """HiFT-GAN (Li et al. 2023, arXiv:2309.09493): F0 predictor, harmonic source, upsampling convolutions, inverse STFT.

    Its modules carry the names of the released `mel2wav` tensors. Raises `ConfigError` when the window of `config` is shorter
    than the F0 predictor's reach, or its rates do not make `HOP_SAMPLES`.
    """

    def __init__(self, config: HiFTConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        base, bins = config.base_channels, config.istft_fft + 2
        self.f0_predictor = F0Predictor(config.mel_bins, config.f0_channels)
        self.m_source = HarmonicSource(
            config.harmonics, config.sine_amplitude, config.noise_std, config.voiced_threshold_hz, SAMPLE_RATE, HOP_SAMPLES
        )
        self.conv_pre = WeightNormConv1d(config.mel_bins, base, 7, padding=3)
        self.ups = nn.ModuleList()
        self.source_downs = nn.ModuleList()
        self.source_resblocks = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for stage, (rate, kernel) in enumerate(zip(config.upsample_rates, config.upsample_kernels, strict=True)):
            channels = base >> (stage + 1)
            self.ups.append(WeightNormConvTranspose1d(channels * 2, channels, kernel, rate, padding=(kernel - rate) // 2))
            down = math.prod(config.upsample_rates[stage + 1 :])
            shape = (1, 1, 0) if down == 1 else (down * 2, down, down // 2)
            self.source_downs.append(nn.Conv1d(bins, channels, shape[0], shape[1], padding=shape[2]))
            self.source_resblocks.append(ResBlock(channels, config.source_kernels[stage], config.source_dilations[stage]))
            for kernel_size, dilations in zip(config.resblock_kernels, config.resblock_dilations, strict=True):
                self.resblocks.append(ResBlock(channels, kernel_size, dilations))
        self.conv_post = WeightNormConv1d(base >> len(config.upsample_rates), bins, 7, padding=3)
        self._reaches = _reaches(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.conv_pre.weight.device

    def open(self, seed: int) -> HiFTState:
        """A new utterance. `seed` fixes its phase offsets and noise, whatever else is in a batch."""
        weight, count = self.conv_pre.weight, self.config.harmonics + 1
        return HiFTState(
            noise=SeededNoise(seed, 1, SOURCE_STREAM, weight.device),
            offsets=draw_offsets(seed, count, weight.device).to(weight.dtype),
            mel=weight.new_empty(self.config.mel_bins, 0),
            source=weight.new_empty(0),
            phase=torch.zeros((), dtype=torch.int64, device=weight.device),
        )

    @torch.inference_mode()
    def step(
        self, states: Sequence[HiFTState], mels: Sequence[Tensor], last: Sequence[bool], decode: Decode | None = None
    ) -> list[Tensor]:
        """Take new mel frames [M, T] of each utterance (T may be 0) and give out the audio they settle, [samples] each.

        After `last` an utterance has given out exactly `HOP_SAMPLES` samples per frame and takes no more. A row is the same,
        within rounding, whatever else is in the batch. decode: what decodes windows, if it can.
        """
        assert len({id(state) for state in states}) == len(states) == len(mels) == len(last)
        for state, mel, ends in zip(states, mels, last, strict=True):
            assert not state.closed, "this utterance has had its last step: open a new one"
            assert mel.shape[0] == self.config.mel_bins
            state.mel = torch.cat([state.mel, mel.to(state.mel)], 1)
            state.frames += mel.shape[1]
            state.closed = ends
        stops = [state.frames - (0 if state.closed else self.config.right_frames) for state in states]
        ready = [i for i, state in enumerate(states) if stops[i] > state.emitted]
        audio = [self.conv_pre.weight.new_empty(0) for _ in states]
        if ready:
            made = self._advance([states[i] for i in ready], [stops[i] for i in ready], decode)
            for i, pcm in zip(ready, made, strict=True):
                audio[i] = pcm
        return audio

    def _advance(self, states: Sequence[HiFTState], stops: Sequence[int], decode: Decode | None) -> list[Tensor]:
        rows = [state.mel if state.closed else _hold_last(state.mel) for state in states]
        mel = _pad_rows(rows)  # [N, M, W]
        sources = self._excite(states, mel, [row.shape[1] for row in rows])
        windows = [
            Window(row.shape[1], state.emitted - state.tail, stop - state.tail)
            for row, state, stop in zip(rows, states, stops, strict=True)
        ]
        audio = decode(self, mel, sources, windows) if decode is not None else None
        if audio is None:
            audio = self.decode(mel, sources, windows)
        for row, (state, stop) in enumerate(zip(states, stops, strict=True)):
            if state.emitted * HOP_SAMPLES < 2 * FADE_SAMPLES:
                audio[row] = fade_in(audio[row], state.emitted * HOP_SAMPLES)
            state.emitted = stop
            tail = max(0, stop - self.config.left_frames)
            state.mel = state.mel[:, tail - state.tail :].clone()
            state.source = sources[row][
                (tail - state.tail) * HOP_SAMPLES : (state.committed - state.tail) * HOP_SAMPLES
            ].clone()
            state.tail = tail
        return audio

    def _excite(self, states: Sequence[HiFTState], mel: Tensor, widths: Sequence[int]) -> list[Tensor]:
        """The excitation of each window, [hop width]; commits what no later frame can change, and the phase with it."""
        f0 = self.f0_predictor(mel, _upto(_ends([(0, width) for width in widths], mel.device), mel))  # [N, W]
        fresh = [f0[row, s.committed - s.tail : width] for row, (s, width) in enumerate(zip(states, widths, strict=True))]
        noise = [
            s.noise.frames(s.committed * HOP_SAMPLES, (s.tail + width) * HOP_SAMPLES)[0]
            for s, width in zip(states, widths, strict=True)
        ]
        made, phases = self.m_source(
            _pad_rows(fresh),
            torch.stack([state.phase for state in states]),
            torch.stack([state.offsets for state in states]),
            _pad_rows(noise).to(f0),
        )
        sources = []
        for row, state in enumerate(states):
            sources.append(torch.cat([state.source, made[row, : fresh[row].shape[0] * HOP_SAMPLES]]))
            final = state.frames if state.closed else max(state.committed, state.frames - F0_REACH_FRAMES)
            state.phase = phases[row, final - state.committed].clone()
            state.committed = final
        return sources

    def decode(self, mel: Tensor, sources: Sequence[Tensor], windows: Sequence[Window]) -> list[Tensor]:
        """The audio of the wanted frames of each window, [hop (stop - start)], without the fade at an utterance's start.

        `mel` is [N, M, W], 0 past each row's width; `sources` are the excitations, [hop width] each. An edge of a window is
        taken for an edge of the utterance: frames within `left_frames` or `right_frames` of an edge that is not are unsettled.
        """
        cfg = self.config
        centred = _pad_rows([centre(source, cfg.istft_fft) for source in sources])
        spans = self.spans(windows)
        pcm = self.sound(mel, centred, Cuts(spans, [_ends(each, mel.device) for each in spans]))
        return [
            pcm[row, window.start * HOP_SAMPLES - lo : window.stop * HOP_SAMPLES - lo]
            for row, (window, lo) in enumerate(zip(windows, self.sound_starts(spans), strict=True))
        ]

    def spans(self, windows: Sequence[Window]) -> list[list[tuple[int, int]]]:
        """What each stage needs of each window, in samples at the rate of its input."""
        spans = [[(0, window.width) for window in windows]]
        rate = 1
        for stage, factor in enumerate(self.config.upsample_rates[:-1]):
            rate *= factor
            spans.append([_wanted(window, rate, self._reaches[stage + 1]) for window in windows])
        return spans

    def sound_starts(self, spans: Sequence[Spans]) -> list[int]:
        """The sample of its window that each row of `sound` begins with."""
        return [lo * self.config.upsample_rates[-1] * self.config.istft_hop for lo, _ in spans[-1]]

    def sound(self, mel: Tensor, centred: Tensor, cuts: Cuts) -> Tensor:
        """Sound [N, samples] of the last stage's spans, from mel [N, M, W] and the centred excitation [N, hop W + n_fft]."""
        cfg = self.config
        hop = HOP_SAMPLES // cfg.istft_hop  # STFT frames per mel frame
        spectrum = stft(centred, cfg.istft_fft, cfg.istft_hop)  # [N, n_fft + 2, hop W + 1]
        x = self.conv_pre(mel)
        if (mask := _upto(cuts.ends[0], x)) is not None:
            x = x * mask
        rate = 1
        for stage, factor in enumerate(cfg.upsample_rates):
            spans, ends = cuts.spans[stage], cuts.ends[stage]
            if stage > 0:
                base = cfg.upsample_rates[stage - 1]
                before = [(lo * base, hi * base) for lo, hi in cuts.spans[stage - 1]]
                x = _crop(x, [(lo - first, hi - first) for (lo, hi), (first, _) in zip(spans, before, strict=True)])
            down = hop // rate
            excitation = _crop(spectrum, [(lo * down, hi * down + 1) for lo, hi in spans])
            x = self._stage(stage, x, excitation, ends, down)
            rate *= factor
        mask = _upto(_scaled(cuts.ends[-1], cfg.upsample_rates[-1], 1), x)
        x = self.conv_post(F.leaky_relu(x, LAST_LEAKY_SLOPE))  # [N, n_fft + 2, hop W + 1]
        log_magnitude, phase = x.split(cfg.istft_fft // 2 + 1, 1)
        pcm = istft(log_magnitude.exp().clamp(max=MAGNITUDE_LIMIT), phase.sin(), cfg.istft_fft, cfg.istft_hop, mask)
        return pcm.clamp(-cfg.audio_limit, cfg.audio_limit)

    def _stage(self, stage: int, x: Tensor, excitation: Tensor, ends: Tensor | None, down: int) -> Tensor:
        """Upsample `x` [N, C, T] by the stage's factor, add the excitation at that rate, average the residual blocks."""
        cfg = self.config
        factor, final = cfg.upsample_rates[stage], stage == len(cfg.upsample_rates) - 1
        x = self.ups[stage](F.leaky_relu(x, cfg.leaky_slope))
        if final:
            # One mirrored sample in front: as many samples as STFT frames, each a frame later.
            x = F.pad(x, (1, 0), mode="reflect")
        mask = _upto(_scaled(ends, factor, int(final)), x)
        if (there := _upto(_scaled(ends, down, 1), excitation)) is not None:
            excitation = excitation * there
        harmonics = self.source_downs[stage](excitation)
        if mask is not None:
            harmonics = harmonics * mask
        x = x + self.source_resblocks[stage](harmonics, mask)
        if mask is not None:
            x = x * mask
        count = len(cfg.resblock_kernels)
        branches = self.resblocks[stage * count : (stage + 1) * count]
        total = branches[0](x, mask)
        for branch in branches[1:]:
            total = total + branch(x, mask)
        return total / count


def fade_in(audio: Tensor, position: int) -> Tensor:
    """`audio` [samples], whose first is sample `position` of its utterance, under the fade at the utterance's start."""
    ramp = (torch.linspace(math.pi, 0, FADE_SAMPLES).cos() + 1) / 2
    fade = torch.cat([torch.zeros(FADE_SAMPLES), ramp]).to(audio)[position : position + audio.shape[0]]
    return torch.cat([audio[: fade.shape[0]] * fade, audio[fade.shape[0] :]])


def _hold_last(mel: Tensor) -> Tensor:
    """`mel` [M, T] with its last frame held: nearer to any speech to come than the zeros of a convolution's padding."""
    return torch.cat([mel, mel[:, -1:].expand(-1, HELD_FRAMES)], 1)


def _reaches(config: HiFTConfig) -> list[int]:
    """Samples on each side of a wanted one that each stage needs, counted at the rate of the stage's input."""
    # The inverse STFT hears n_fft / 2 samples around, one frame is the mirrored one's shift, 3 are `conv_post`'s.
    needed = config.istft_fft // (2 * config.istft_hop) + 1 + 3
    branch = max(resblock_reach(k, d) for k, d in zip(config.resblock_kernels, config.resblock_dilations, strict=True))
    reaches = []
    for stage in reversed(range(len(config.upsample_rates))):
        rate, kernel = config.upsample_rates[stage], config.upsample_kernels[stage]
        needed += branch
        source = needed + resblock_reach(config.source_kernels[stage], config.source_dilations[stage]) + 1
        needed = max(math.ceil(source / rate), math.ceil((needed + kernel) / rate))
        reaches.append(needed)
    return reaches[::-1]


def _wanted(window: Window, rate: int, reach: int) -> tuple[int, int]:
    return max(0, window.start * rate - reach), min(window.width * rate, window.stop * rate + reach)


def _ends(spans: Spans, device: torch.device) -> Tensor | None:
    """[N] lengths of spans; None when they are equal."""
    lengths = [hi - lo for lo, hi in spans]
    return None if min(lengths) == max(lengths) else torch.tensor(lengths, device=device)


def _scaled(ends: Tensor | None, factor: int, extra: int) -> Tensor | None:
    return None if ends is None else ends * factor + extra


def _upto(ends: Tensor | None, like: Tensor) -> Tensor | None:
    """[N, 1, T] ones up to each row's end and zeros after, for rows that are `like` [N, C, T]; None when no row needs it."""
    if ends is None:
        return None
    return (torch.arange(like.shape[2], device=like.device) < ends[:, None])[:, None].to(like.dtype)


def _crop(x: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Of each row of `x` [N, C, T] the samples from `lo` to `hi - 1`, zeros after the shorter ones."""
    lo, hi = spans[0]
    if all(span == (lo, hi) for span in spans):
        return x[:, :, lo:hi]
    return _pad_rows([x[row, :, lo:hi] for row, (lo, hi) in enumerate(spans)])


def _pad_rows(rows: Sequence[Tensor]) -> Tensor:
    """Stack tensors that differ in their last axis, zeros after the shorter ones."""
    width = max(row.shape[-1] for row in rows)
    return torch.stack([row if row.shape[-1] == width else F.pad(row, (0, width - row.shape[-1])) for row in rows])


def _check(config: HiFTConfig) -> None:
    if math.prod(config.upsample_rates) * config.istft_hop != HOP_SAMPLES:
        raise ConfigError(f"HiFT's upsample_rates times istft_hop must be {HOP_SAMPLES}; correct them in config.json.")
    if config.left_frames < 0 or config.right_frames < 0 or config.left_frames + config.right_frames < 2 * F0_REACH_FRAMES:
        raise ConfigError(
            f"HiFT's left_frames {config.left_frames} and right_frames {config.right_frames} must make at least "
            f"{2 * F0_REACH_FRAMES} frames: F0 looks {F0_REACH_FRAMES} to each side. Raise one of them."
        )
