"""Recorded steps are the plain ones. CUDA graphs are played by tapes: what was not in memory is baked in just so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from cf_agents.config import DecodeParams
from cf_agents.decode import Decoder
from cf_agents.decode_graphs import StepGraphs
from cf_agents.engines.graphs import Captured, Graphs, Out
from tests.small import ALIGNED, prefix, small_engine, small_paged_engine
from tests.test_decode import run, takes


class Tape(TorchDispatchMode):
    """Writes down every operation. What the host reads is refused, as a CUDA capture refuses it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host reads a value in a recording"
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out


class Played:
    """Runs the operations of a tape over the memory they were written down with; outputs are written where they were, and what
    the others of its pool gave out is gone."""

    def __init__(self, tape: Tape, outputs: list[torch.Tensor], pool: list[Played]) -> None:
        self._tape, self._outputs, self._pool = tape, outputs, pool
        self._kept = [output.clone() for output in outputs]
        self.replays = 0

    @property
    def kept(self) -> list[torch.Tensor]:
        return self._kept

    def replay(self) -> None:
        self.replays += 1
        now: dict[int, torch.Tensor] = {}

        def current(value: Any) -> Any:
            return now.get(id(value), value) if isinstance(value, torch.Tensor) else value

        for func, args, kwargs, out in self._tape.calls:
            new = func(*tree_map(current, args), **tree_map(current, kwargs))
            now.update(zip(map(id, tree_flatten(out)[0]), tree_flatten(new)[0], strict=True))
        for kept, output in zip(self._kept, self._outputs, strict=True):
            kept.copy_(now[id(output)])
        self.spoil_others()

    def spoil_others(self) -> None:
        """As recordings do that share their memory."""
        for other in self._pool:
            for kept in other.kept if other is not self else ():
                kept.fill_(torch.nan if kept.is_floating_point() else 0)


class TapeCapture:
    def __init__(self) -> None:
        self.captured: list[Played] = []

    def __call__(self, work: Callable[[], Out]) -> tuple[Captured, Out]:
        with Tape() as tape:
            outputs, layout = tree_flatten(work())
        played = Played(tape, [output for output in outputs if output is not None], self.captured)
        self.captured.append(played)
        played.spoil_others()
        kept = iter(played.kept)
        return played, tree_unflatten([None if output is None else next(kept) for output in outputs], layout)


def test_a_recording_reads_what_is_in_memory_when_it_is_replayed() -> None:
    held, baked = torch.tensor([1.0]), [2.0]
    graphs: Graphs[torch.Tensor] = Graphs(TapeCapture())
    assert graphs.run("sum", lambda: held * baked[0]).item() == 2.0
    held.fill_(5.0)
    baked[0] = 100.0
    assert graphs.run("sum", lambda: held * baked[0]).item() == 10.0
    assert len(graphs) == 1


PARAMS = replace(DecodeParams.preset("released"), steps=4)
KNOBS = {
    "guided": [PARAMS] * 5,
    "some guided": [PARAMS, replace(PARAMS, guidance=0.0), PARAMS, replace(PARAMS, guidance=0.0), PARAMS],
    "unguided": [replace(PARAMS, guidance=0.0)] * 5,
    "greedy": [replace(PARAMS, temperature=0.0, position_noise=0.0)] * 5,
    "marginal beside causal": [replace(PARAMS, prior="marginal" if n % 2 else "causal") for n in range(5)],
    "other steps and blocks": [replace(PARAMS, steps=3 + n, block_size=16 if n % 2 else 9) for n in range(5)],
}


@pytest.mark.parametrize("knobs", KNOBS)
def test_recorded_steps_make_the_same_tokens(knobs: str) -> None:
    """Five utterances that come late and leave early, so that sizes, held blocks and rows change all the time."""
    jobs = [(prefix(8 + 7 * n, n, voice=n % 2), replace(p, max_tokens=20 + 7 * n), n) for n, p in enumerate(KNOBS[knobs])]
    starts = [0, 0, 2, 3, 6]
    engine, capture = small_paged_engine(max_rows=10, pad_held=True), TapeCapture()
    with torch.inference_mode():
        found = run(Decoder(engine, StepGraphs(engine, capture)), jobs, starts)
    assert found == run(Decoder(small_engine(max_rows=10)), jobs, starts)
    assert sum(recording.replays for recording in capture.captured) > len(capture.captured)


def test_nothing_is_recorded_after_all_was() -> None:
    engine, capture = small_paged_engine(max_rows=8, pad_held=True), TapeCapture()
    graphs = StepGraphs(engine, capture)
    decoder = Decoder(engine, graphs)
    params = replace(PARAMS, max_tokens=48)
    decoder.record(params, 3)
    known = graphs.recordings
    run(decoder, [(prefix(8, n), params, n) for n in range(3)], [0, 1, 2])
    assert graphs.recordings == known


@pytest.mark.parametrize("knobs", ["guided", "some guided", "greedy"])
def test_blocks_are_denoised_again_in_the_recordings_there_are(knobs: str) -> None:
    every = tuple((n, n + 1) for n in range(1, 7))
    jobs = [(prefix(8 + n, n), replace(p, max_tokens=32), n, every) for n, p in enumerate(KNOBS[knobs][:3])]
    engine, plain = small_paged_engine(max_rows=8, pad_held=True, config=ALIGNED), Decoder(small_engine(config=ALIGNED))
    graphs = StepGraphs(engine, TapeCapture())
    decoder = Decoder(engine, graphs)
    for params in KNOBS[knobs][:2]:
        decoder.record(replace(params, max_tokens=32), 3)
    known = graphs.recordings
    again = takes(plain, jobs)
    assert sum(again) > 0
    with torch.inference_mode():
        assert run(decoder, jobs, [0, 1, 2]) == run(plain, jobs, [0, 0, 0])
    assert graphs.recordings == known
