"""Processes that train one model together: they share gradients, and end after the same step whatever their clocks say."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from training import ranks
from training.batches import Sizes
from training.loop import schedule

RANKS = 2
AHEAD_S = 1000.0


def train(meeting: Path, rank: int, told: Connection) -> None:
    """A process whose clock is ahead by its number, and whose gradient is its number. Tells its steps and the mean."""
    now = time.time
    time.time = lambda: now() + AHEAD_S * rank
    ranks.join(meeting, rank, RANKS)
    course = schedule(0, 0.02 / 60, clock=ranks.clock)
    gradient = torch.empty(3)
    step = 0
    while not course.over(step):
        gradient.fill_(rank)
        ranks.average([gradient])
        step += 1
    told.send((step, gradient.tolist()))


@pytest.mark.timeout(120)
def test_processes_share_gradients_and_end_after_the_same_step(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe(duplex=False) for _ in range(RANKS)]
    processes = [
        context.Process(target=train, args=(tmp_path / "meeting", rank, end[1]), daemon=True) for rank, end in enumerate(ends)
    ]
    for process in processes:
        process.start()
    said = []
    for process, (hears, _) in zip(processes, ends, strict=True):
        assert hears.poll(60), "a process waits for one that has ended"
        said.append(hears.recv())
        process.join()
    assert said[0][0] > 0
    assert said == [(said[0][0], [0.5] * 3)] * RANKS


def test_a_step_of_many_processes_sees_as_much_as_that_of_one() -> None:
    sizes = Sizes(speech_tokens=4000, prompts=3)
    assert sizes.shared(2) == Sizes(speech_tokens=2000, prompts=3)
    assert sizes.shared(1) == sizes
