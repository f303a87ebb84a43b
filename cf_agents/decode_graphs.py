"""Whole denoising steps as recordings: forward, guidance, score, sampling and unmasking in one replay.

    utterances   [ real: n | padding ]  U of them          rows   [ conditional: U | null: U, where any is guided ]

Batches are padded to a few sizes. The tensors of a size stay where they are and are filled anew; one recording serves all
batches of a size whose forward is laid out alike. Knows the decoder's batches and an engine that can be planned apart.

Shapes: N utterances, padded to U, D positions, K steps, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from cf_agents.engines.base import Row, Scored
from cf_agents.engines.graphs import Capture, Graphs
from cf_agents.engines.paged_plan import Shape, held_buckets, rows_bucket
from cf_agents.step_batch import ABSENT, Denoised, StepBatch

Denoise = Callable[[StepBatch, Tensor, Callable[[Tensor], Scored]], Denoised]
"""`Decoder.denoise`."""

_TENSORS = ("tokens", "present", "guidance", "temperature", "jitter", "prior", "scheduled", "last")
_MAYBE = ("marginal", "uniform", "quantiles")
_BESIDE = {"tokens": ABSENT, "quantiles": 2.0}
"""What padding is filled with, where that is not 0."""


P = TypeVar("P", bound=Hashable)
"""What one forward needs, on the device; equal to itself only."""


class PlannedEngine(Protocol[P]):
    """The part of `PagedEngine` that is needed: a score in three parts of which the middle one is device work alone."""

    def prepare(self, rows: Sequence[Row | None], sizes: Sequence[int], width: int, shape: Shape | None = None) -> P: ...
    def forward(self, prepared: P, tokens: Tensor) -> Scored: ...
    def settle(self, rows: Sequence[Row | None]) -> None: ...


class StepGraphs(Generic[P]):
    """Recordings of denoising steps over one engine."""

    def __init__(self, engine: PlannedEngine[P], capture: Capture) -> None:
        self._engine = engine
        self._graphs: Graphs[Denoised] = Graphs(capture)
        self._fixed: dict[Hashable, tuple[StepBatch, Tensor]] = {}
        self._filled: dict[Hashable, StepBatch] = {}

    @property
    def recordings(self) -> int:
        """How many there are."""
        return len(self._graphs)

    @torch.inference_mode()
    def step(self, batch: StepBatch, step: Tensor, denoise: Denoise) -> Denoised:
        """`denoise(batch, step, ...)`, replayed. What it returns is overwritten by the next step."""
        count = batch.tokens.shape[0]
        key, fixed, fixed_step = self._fill(batch, step)
        prepared = self._engine.prepare(fixed.rows, _sizes(batch, fixed), batch.tokens.shape[1])
        tokens, masked, places = self._run(key, fixed, fixed_step, prepared, denoise)
        self._engine.settle(fixed.rows)
        return Denoised(tokens[:count], masked[:count], None if places is None else places[:count])

    @torch.inference_mode()
    def record(self, batch: StepBatch, denoise: Denoise) -> None:
        """Record all steps of batches of this size and these knobs: with no, some and all rows holding a block back."""
        width = batch.tokens.shape[1]
        key, fixed, fixed_step = self._fill(batch, torch.zeros_like(batch.last))
        rows: list[Row | None] = [None] * len(fixed.rows)
        for held in held_buckets(len(rows)):
            shape = Shape(len(rows), held, width, width if held else 0)
            prepared = self._engine.prepare(rows, [0] * len(rows), width, shape)
            self._run(key, fixed, fixed_step, prepared, denoise)

    def _run(self, key: Hashable, fixed: StepBatch, step: Tensor, prepared: P, denoise: Denoise) -> Denoised:
        def work() -> Denoised:
            return denoise(fixed, step, lambda tokens: self._engine.forward(prepared, tokens))

        # What was prepared is part of the key: a recording reads its memory.
        return self._graphs.run((key, prepared), work)

    def _fill(self, batch: StepBatch, step: Tensor) -> tuple[Hashable, StepBatch, Tensor]:
        """The tensors of the batch's size, filled with it."""
        count, width = batch.tokens.shape
        padded = rows_bucket(count)
        guided = len(batch.rows) > count
        key = (padded, width, batch.scheduled.shape[1], guided, *_present(batch))
        if key not in self._fixed:
            self._fixed[key] = _padded(batch, padded), step.new_zeros(padded)
        fixed, fixed_step = self._fixed[key]
        if self._filled.get(key) is not batch:
            self._filled[key] = batch
            fixed = dataclasses.replace(fixed, rows=_rows(batch, padded), sizes=batch.sizes)
            self._fixed[key] = fixed, fixed_step
            for name in (*_TENSORS, *_present(batch)):
                kept: Tensor = getattr(fixed, name)
                kept[:count].copy_(getattr(batch, name))
                kept[count:] = _BESIDE.get(name, 0)
        fixed.tokens[:count].copy_(batch.tokens)
        fixed_step[:count].copy_(step)
        return key, fixed, fixed_step


def _padded(batch: StepBatch, count: int) -> StepBatch:
    """Memory for `count` utterances that are like those of the batch."""

    def room(tensor: Tensor) -> Tensor:
        return tensor.new_zeros(count, *tensor.shape[1:])

    memory = {name: room(getattr(batch, name)) for name in (*_TENSORS, *_present(batch))}
    return dataclasses.replace(batch, rows=(), guided=None, **memory)


def _present(batch: StepBatch) -> list[str]:
    return [name for name in _MAYBE if getattr(batch, name) is not None]


def _rows(batch: StepBatch, count: int) -> tuple[Row | None, ...]:
    own = len(batch.sizes)
    rows = [*batch.rows[:own], *[None] * (count - own)]
    if len(batch.rows) == own:
        return tuple(rows)
    nulls: list[Row | None] = [None] * count
    for at, row in zip(batch.guided_at, batch.rows[own:], strict=True):
        nulls[at] = row
    return (*rows, *nulls)


def _sizes(batch: StepBatch, fixed: StepBatch) -> list[int]:
    count = fixed.tokens.shape[0]
    sizes = [*batch.sizes, *[0] * (count - len(batch.sizes))]
    return sizes * (len(fixed.rows) // count)
