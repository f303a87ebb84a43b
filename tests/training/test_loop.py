"""The loop may be stopped anywhere: what comes of it is the same, and a bad step leaves the weights alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.loop import Schedule, Trainer, load_newest, newest_state, plot


def trainer(folder: Path, steps: int, **knobs: int) -> Trainer:
    torch.manual_seed(0)
    module = nn.Linear(3, 1)
    optimiser = torch.optim.AdamW(module.parameters(), 0.1)
    return Trainer(folder, module, [optimiser], Schedule(steps, 2), log_every=2, **knobs)


def losses(module: nn.Module, bad: int = -1) -> object:
    def of(step: int) -> dict[str, Tensor]:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        loss = (module(x) - x.sum(1, keepdim=True)).square().mean()
        return {"loss": loss * float("nan") if step == bad else loss, "part": loss / 2}

    return of


def lines(folder: Path) -> list[list[str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.reader(file))


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", 8, save_every=4)
    whole.run(losses(whole.module))
    first = trainer(tmp_path / "parts", 8, save_every=4)
    stop = losses(first.module)

    def stopping(step: int) -> dict[str, Tensor]:
        if step == 6:
            raise KeyboardInterrupt
        return stop(step)

    with pytest.raises(KeyboardInterrupt):
        first.run(stopping)
    second = trainer(tmp_path / "parts", 8, save_every=4)
    assert second.step == 4
    second.run(losses(second.module))
    assert torch.equal(weights(second.module), weights(whole.module))


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    run = trainer(tmp_path, 1)
    before = weights(run.module)
    run.run(losses(run.module, bad=0))
    assert torch.equal(weights(run.module), before)
    assert ["1", "skipped", "1"] in lines(tmp_path)


def test_one_checkpoint_survives_when_the_other_is_broken(tmp_path: Path) -> None:
    run = trainer(tmp_path, 4, save_every=2)
    run.run(losses(run.module))
    newest = tmp_path / "state-0.pt"
    assert newest_state(tmp_path)["step"] == 4
    newest.write_bytes(newest.read_bytes()[:200])
    assert newest_state(tmp_path)["step"] == 2


def test_the_rate_warms_up_and_falls_to_the_floor() -> None:
    schedule = Schedule(100, 10, floor=0.1)
    assert schedule.at(0) == pytest.approx(0.1)
    assert schedule.at(10) == pytest.approx(1.0)
    assert schedule.at(100) == pytest.approx(0.1)
    assert all(schedule.at(step) >= schedule.at(step + 1) for step in range(10, 100))


def test_the_log_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = trainer(tmp_path, 4)
    run.run(losses(run.module), lambda: {"error": 1.0})
    assert (tmp_path / "loss.png").stat().st_size > 1000
    names = {name for _, name, _ in lines(tmp_path)}
    assert names == {"loss", "part", "skipped", "seconds_a_step", "held_out_error"}
    plot(tmp_path / "absent.csv", tmp_path / "absent.png")
    assert not (tmp_path / "absent.png").exists()


def test_a_stage_that_never_ran_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run that stage first"):
        load_newest(tmp_path, nn.Linear(1, 1))
