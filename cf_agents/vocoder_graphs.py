"""The vocoder's networks as recordings: the flow's pass over tokens, and HiFT's decoding of a window.

A block of speech is thousands of small kernels, whose launches cost a GPU more than their arithmetic. Shapes are padded to few:
rows to a power of two, the flow's tokens and past and HiFT's frames to steps. What depends on the rows is copied to where a
recording reads it, and out of there before the next one runs. What is larger than was foreseen runs as it is.

    the flow's keys and values   [ . . past | new . ]   rows aligned at the border, '.' is masked; one memory for all shapes

Knows nothing of voices, of utterances or of how they are recorded. One thread owns it, as it owns the vocoder.

Letters: N rows, T tokens, A look-ahead, C channels, S Euler steps, M mel bins, W frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cf_agents.config import FRAMES_PER_TOKEN, HOP_SAMPLES
from cf_agents.engines.graphs import Capture, Graphs
from cf_agents.models.flow import ABSENT, Flow, Passed, PassInputs
from cf_agents.models.flow_cache import TAIL, FlowCache, Memory, Tails, align, reach
from cf_agents.models.hift import Cuts, HiFT, Window
from cf_agents.models.stft import centre
from cf_agents.vocoder import Vocoder, VocoderVoice

_TOKENS_STEP = 16
"""Context and new tokens of a pass are padded to this, then doubled: 16, 32, 64, 128."""
_USUAL_TOKENS = 64
_MOST_TOKENS = 128
_PAST_STEP = 128
_MOST_PAST = 512
"""Tokens that a pass may stand on: a long prompt, and a window or ten seconds of speech."""
_FRAMES_STEP = 32
_OWED_STEP = 16
_MOST_FRAMES = 128


def record(vocoder: Vocoder, voice: VocoderVoice, most: int, block: int) -> None:
    """Speak to nobody in blocks of so many tokens, in up to `most` utterances at once, so that the shapes of streaming are
    recorded before somebody waits for them. Takes seconds."""
    config = vocoder.flow.config
    blocks = 2 + -(-max(config.history_tokens, config.window_tokens) // block)
    counts = sorted({_power(n) for n in range(1, most + 1)}, reverse=True)  # the largest first: its memory does for all
    for count in counts:
        for last in (block, block - 1, 0):  # in `chunk` mode the second ends in a chunk that is wider than others
            states = [vocoder.open(voice, 0) for _ in range(count)]
            for n in range(blocks + 1):
                ends = n == blocks
                vocoder.step(states, [[0] * (last if ends else block)] * count, [ends] * count)
        states = [vocoder.open(voice, 0) for _ in range(count)]
        if all(more for _, more in vocoder.begin(states, [[0] * block] * count, [False] * count)):
            vocoder.rest(states)


@dataclass(frozen=True, eq=False)
class _Layers:
    """`flow_cache.Past` over memory that stays where it is."""

    memory: Memory
    token_tails: Tails
    estimator_tails: Sequence[Tails]


@dataclass(frozen=True, eq=False)
class _PassMemory:
    """Where the recordings of one shape read."""

    inputs: PassInputs
    memory: Memory
    token_tail: Tensor
    """[N, TAIL, C]"""
    estimator_tail: Tensor
    """[S, N, TAIL, C]"""
    past: Tensor
    """int64 [N]"""
    new: Tensor
    """int64 [N]"""


@dataclass(frozen=True, eq=False)
class _Recorded:
    """`flow.Passed` of rows whose keys and values lie in the shared memory until the next pass."""

    memory: Memory
    tails: tuple[Tensor, Tensor]
    border: int
    past: Sequence[int]
    new: Sequence[int]

    def caches(self) -> list[FlowCache]:
        """See `Passed.caches`."""
        token_tail, estimator_tail = (tail[: len(self.new)].clone() for tail in self.tails)
        return [
            FlowCache(
                self.memory.row(row).cut(self.border - past, self.border + new).copied(), token_tail[row], estimator_tail[row]
            )
            for row, (past, new) in enumerate(zip(self.past, self.new, strict=True))
        ]

    def forget(self) -> None:
        """See `Passed.forget`: nothing of it is anybody's past."""
        return


class FlowGraphs:
    """`flow.Passes` as recordings, of up to `most` rows."""

    def __init__(self, capture: Capture, most: int) -> None:
        self._graphs: Graphs[tuple[Tensor, Tensor, Tensor]] = Graphs(capture)
        self._most = most
        self._known: dict[tuple[int, int, int], _PassMemory] = {}
        self._room: tuple[int, Memory] | None = None
        self._tables: list[Tensor] = []

    def __len__(self) -> int:
        """How many recordings there are."""
        return len(self._graphs)

    @torch.inference_mode()
    def __call__(
        self, flow: Flow, inputs: PassInputs, caches: Sequence[FlowCache], new: Sequence[int]
    ) -> tuple[Tensor, Passed] | None:
        """See `Passes`."""
        past = [cache.length for cache in caches]
        rows, tokens, border = _power(len(new)), _TOKENS_STEP * _power(-(-max(new) // _TOKENS_STEP)), _up(max(past), _PAST_STEP)
        if len(new) > self._most or tokens > _MOST_TOKENS or border > _MOST_PAST:
            return None
        kept = self._kept(flow, rows, border, tokens)
        _fill(kept, inputs, caches, border, past, new)

        mel, *tails = self._graphs.run((rows, border, tokens), lambda: _hear(flow, kept, border, tokens))
        return mel[: len(new)], _Recorded(kept.memory, (tails[0], tails[1]), border, past, new)

    def _kept(self, flow: Flow, rows: int, border: int, tokens: int) -> _PassMemory:
        shape = (rows, border, tokens)
        if shape not in self._known:
            config, like = flow.config, flow.encoder_proj.weight
            frames = FRAMES_PER_TOKEN * tokens
            # Recordings read these, whatever longer ones are made for others.
            self._tables = self._tables or flow.encoder.reserve(FRAMES_PER_TOKEN * (_MOST_PAST + _MOST_TOKENS))
            ids = torch.full((rows, tokens + config.lookahead_tokens), ABSENT, dtype=torch.int64, device=like.device)
            tail = like.new_zeros(config.steps, rows, TAIL, flow.decoder.estimator.tail_channels)
            self._known[shape] = _PassMemory(
                PassInputs(
                    ids,
                    like.new_zeros(rows, config.mel_bins),
                    torch.zeros(rows, frames, config.mel_bins, device=like.device),
                    torch.zeros(rows, frames, config.mel_bins, device=like.device),
                ),
                self._shared(flow, rows, border + max(tokens, _USUAL_TOKENS)).each(
                    lambda part, rate: _front(part, rows, rate * (border + tokens))
                ),
                like.new_zeros(rows, TAIL, 2 * config.encoder_dim),
                tail,
                torch.zeros(rows, dtype=torch.int64, device=like.device),
                torch.full((rows,), tokens, dtype=torch.int64, device=like.device),
            )
        return self._known[shape]

    def _shared(self, flow: Flow, rows: int, tokens: int) -> Memory:
        """Memory for such a shape and all smaller ones. Recordings of smaller ones from before keep theirs."""
        if self._room is None or self._room[0] < rows * tokens:
            self._room = rows * tokens, flow.room(rows, tokens)
        return self._room[1]


class HiFTGraphs:
    """`hift.Decode` as recordings, of up to `most` rows."""

    def __init__(self, capture: Capture, most: int) -> None:
        self._graphs: Graphs[Tensor] = Graphs(capture)
        self._most = most
        self._known: dict[Window, dict[int, _WindowMemory]] = {}

    def __len__(self) -> int:
        """How many recordings there are."""
        return len(self._graphs)

    @torch.inference_mode()
    def __call__(self, hift: HiFT, mel: Tensor, sources: Sequence[Tensor], windows: Sequence[Window]) -> list[Tensor] | None:
        """See `Decode`. Rows whose windows begin alike run together: only where they end may differ in a recording."""
        shapes = [_padded(window) for window in windows]
        if len(windows) > self._most or max(shape.width for shape in shapes) > _MOST_FRAMES:
            return None
        audio: dict[int, Tensor] = {}
        for start in sorted({window.start for window in windows}):
            rows = [row for row, window in enumerate(windows) if window.start == start]
            shape = Window(max(shapes[row].width for row in rows), start, max(shapes[row].stop for row in rows))
            audio |= zip(
                rows,
                self._run(hift, shape, mel[rows], [sources[row] for row in rows], [windows[row] for row in rows]),
                strict=True,
            )
        return [audio[row] for row in range(len(windows))]

    def _run(
        self, hift: HiFT, shape: Window, mel: Tensor, sources: Sequence[Tensor], windows: Sequence[Window]
    ) -> list[Tensor]:
        count = _power(len(windows))
        spans = hift.spans([shape])
        kept = self._kept(hift, shape, count, len(spans))
        _fill_window(hift, kept, mel, sources, windows, spans)
        cuts = Cuts(spans, list(kept.ends))
        sound = self._graphs.run((count, shape), lambda: hift.sound(kept.mel, kept.centred, cuts))[: len(windows)].clone()
        (begin,) = hift.sound_starts(spans)
        return [
            sound[row, window.start * HOP_SAMPLES - begin : window.stop * HOP_SAMPLES - begin]
            for row, window in enumerate(windows)
        ]

    def _kept(self, hift: HiFT, shape: Window, count: int, stages: int) -> _WindowMemory:
        known = self._known.setdefault(shape, {})
        if count not in known:
            like = hift.conv_pre.weight
            known[count] = _WindowMemory(
                like.new_zeros(count, hift.config.mel_bins, shape.width),
                like.new_zeros(count, HOP_SAMPLES * shape.width + hift.config.istft_fft),
                torch.zeros(stages, count, dtype=torch.int64, device=like.device),
            )
        return known[count]


@dataclass(frozen=True, eq=False)
class _WindowMemory:
    """Where the recordings of one shape of windows read."""

    mel: Tensor
    """[N, M, W]"""
    centred: Tensor
    """[N, hop W + n_fft]"""
    ends: Tensor
    """int64 [stages, N], see `Cuts.ends`."""


def _fill(
    kept: _PassMemory, inputs: PassInputs, caches: Sequence[FlowCache], border: int, past: Sequence[int], new: Sequence[int]
) -> None:
    """Rows, and behind them padding that sees only itself: finite whatever it is."""
    count, device = len(new), kept.past.device
    kept.inputs.tokens.fill_(ABSENT)
    for own, given in (
        (kept.inputs.tokens, inputs.tokens),
        (kept.inputs.condition, inputs.condition),
        (kept.inputs.noise, inputs.noise),
    ):
        own[:count, : given.shape[1]].copy_(given)
        if own is not kept.inputs.tokens:
            own[:count, given.shape[1] :] = 0
    kept.inputs.speaker[:count].copy_(inputs.speaker)
    kept.token_tail[:count].copy_(torch.stack([cache.token_tail for cache in caches]))
    kept.estimator_tail[:, :count].copy_(torch.stack([cache.estimator_tail for cache in caches], 1))
    tokens = kept.inputs.noise.shape[1] // FRAMES_PER_TOKEN
    rest = len(kept.past) - count
    lengths = torch.tensor([[*past, *[0] * rest], [*new, *[tokens] * rest]])
    kept.past.copy_(lengths[0].to(device))
    kept.new.copy_(lengths[1].to(device))
    align(kept.memory, caches, border)


def _hear(flow: Flow, kept: _PassMemory, border: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Device work of a pass: mel [N, 2T, M], and the tails [N, TAIL, C] and [N, S, TAIL, C] for the next."""
    layers = _Layers(
        kept.memory,
        Tails(kept.token_tail, kept.new),
        [Tails(tail, FRAMES_PER_TOKEN * kept.new) for tail in kept.estimator_tail],
    )
    device = kept.past.device
    who = reach(border, tokens, device).within(border, kept.past, kept.new, device)
    mel = flow.network(kept.inputs, who, layers)
    return mel, layers.token_tails.left(), torch.stack([tails.left() for tails in layers.estimator_tails], 1)


def _fill_window(
    hift: HiFT,
    kept: _WindowMemory,
    mel: Tensor,
    sources: Sequence[Tensor],
    windows: Sequence[Window],
    spans: Sequence[Sequence[tuple[int, int]]],
) -> None:
    count, width = len(windows), min(mel.shape[2], kept.mel.shape[2])
    kept.mel[:count, :, :width].copy_(mel[:, :, :width])
    kept.mel[:count, :, width:] = 0
    for row, source in enumerate(sources):
        own = centre(source, hift.config.istft_fft)
        kept.centred[row, : len(own)].copy_(own)
        kept.centred[row, len(own) :] = 0
    starts = [span[0][0] for span in spans]
    ends = [[hi - lo for _, hi in own] for own, lo in zip(hift.spans(windows), starts, strict=True)]
    kept.ends[:, :count].copy_(torch.tensor(ends).to(kept.ends.device))


def _padded(window: Window) -> Window:
    return Window(_up(window.width, _FRAMES_STEP), window.start, window.start + _up(window.stop - window.start, _OWED_STEP))


def _front(part: Tensor, rows: int, places: int) -> Tensor:
    """The first of `part` [..., N, H, places, D] as a tensor of its own shape for so many rows and places."""
    shape = (*part.shape[:-4], rows, part.shape[-3], places, part.shape[-1])
    return part.view(-1)[: torch.Size(shape).numel()].view(shape)


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


def _up(count: int, step: int) -> int:
    return -(-count // step) * step
