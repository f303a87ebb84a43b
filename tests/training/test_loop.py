"""The loop may be stopped anywhere: what comes of it is the same, and a bad step leaves the weights alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.loop import Deadline, Schedule, Trainer, load_newest, newest_state, plot


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


def test_a_deadline_ends_a_run_with_the_rate_at_nothing(tmp_path: Path) -> None:
    now = [100.0]
    deadline = Deadline(end_s=200.0, fall_s=50.0, warm_up=4, clock=lambda: now[0])
    assert [deadline.at(step) for step in (0, 1, 3, 50)] == [0.25, 0.5, 1.0, 1.0]
    now[0] = 175.0
    assert deadline.at(50) == 0.5
    assert not deadline.over(50)
    run = trainer(tmp_path, 1)
    run.schedule = deadline
    of = losses(run.module)

    def losses_over_time(step: int) -> dict[str, Tensor]:
        now[0] += 10.0
        return of(step)

    run.run(losses_over_time)
    assert run.step == 3
    assert run.optimisers[0].param_groups[0]["lr"] == 0.0
    assert newest_state(tmp_path) is not None, "the last step is saved, whatever its number"


def test_the_running_mean_is_kept_and_is_what_is_loaded(tmp_path: Path) -> None:
    def of(mean: float | None, steps: int) -> Trainer:
        made = trainer(tmp_path, steps, save_every=3)
        made.mean = mean
        made.__post_init__()
        return made

    run = of(0.5, 3)
    seen = [weights(run.module)]
    step = losses(run.module)

    def watched(number: int) -> dict[str, Tensor]:
        if number:
            seen.append(weights(run.module))
        return step(number)

    run.run(watched)
    seen.append(weights(run.module))
    expected = seen[0]
    for number, values in enumerate(seen[1:]):
        share = min(0.5, (number + 1) / (number + 10))
        expected = share * expected + (1 - share) * values
    loaded = load_newest(tmp_path, nn.Linear(3, 1))
    assert torch.allclose(weights(loaded), expected, atol=1e-6)
    assert not torch.equal(weights(loaded), weights(run.module))
    again = of(0.5, 6)
    assert torch.equal(weights(again.module), weights(run.module)), "training goes on from the weights, not from their mean"
    assert torch.allclose(torch.cat([value.flatten() for value in again.averaged.values()]), expected)
