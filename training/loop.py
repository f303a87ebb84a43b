"""The training loop that every stage shares: resumable, logged, guarded against NaN. Knows nothing of networks or data.

STAGE/state-0.pt, state-1.pt   weights, optimisers and step, written in turn: one is whole whatever happens to the other
STAGE/log.csv                  a line of losses every `log_every` steps
STAGE/loss.png                 drawn of it at the end, where matplotlib is installed
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import Optimizer

LossParts = Mapping[str, Tensor]
"""Scalars by name. "loss" is what is minimised; the rest is logged."""


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then half a cosine down to `floor` of the peak: a factor of each optimiser's own learning rate."""

    steps: int
    warm_up: int = 100
    floor: float = 0.05

    def at(self, step: int) -> float:
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        done = min(1.0, (step - self.warm_up) / max(1, self.steps - self.warm_up))
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * done))

    def over(self, step: int) -> bool:
        """Whether `step` steps are all."""
        return step >= self.steps


@dataclass(frozen=True)
class Deadline:
    """Warm-up, a plateau, and straight down to 0 over the last `fall_s` seconds before `end_s` (as `time.time` counts).

    For a machine that is lent until an hour, at a speed nobody knows. A run that goes on with a later
    end is on the plateau again.
    """

    end_s: float
    fall_s: float
    warm_up: int = 100
    clock: Callable[[], float] = time.time

    def at(self, step: int) -> float:
        left = max(0.0, self.end_s - self.clock())
        return min(1.0, (step + 1) / self.warm_up, left / self.fall_s)

    def over(self, step: int) -> bool:
        return self.clock() >= self.end_s


def schedule(
    steps: int, minutes: float | None, warm_up: int = 100, fall: float = 0.5, clock: Callable[[], float] = time.time
) -> Schedule | Deadline:
    """So many steps, or so many minutes from now, the learning rate falling over the last `fall` of them."""
    if minutes is None:
        return Schedule(steps, warm_up)
    return Deadline(clock() + 60 * minutes, fall * 60 * minutes, warm_up, clock)


@dataclass
class Trainer:
    """What a stage's run is made of. `average` shares gradients between processes (see `training.ranks`).

    With `mean`, a running mean of the weights is kept beside them: each step moves it by 1 - `mean` of the way, more in the
    first steps. It is what `newest_state` calls "averaged".
    """

    folder: Path
    module: nn.Module
    optimisers: Sequence[Optimizer]
    schedule: Schedule | Deadline
    clip: float = 1.0
    log_every: int = 25
    save_every: int = 200
    average: Callable[[Sequence[Tensor]], None] | None = None
    mean: float | None = None
    writes: bool = True
    """False for every process but one."""
    step: int = 0
    peaks: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.peaks = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.averaged: dict[str, Tensor] = {}
        self._resume()
        if self.mean is not None and not self.averaged:
            self.averaged = {name: value.detach().clone() for name, value in self.module.named_parameters()}

    def run(self, losses: Callable[[int], LossParts], evaluate: Callable[[], Mapping[str, float]] | None = None) -> None:
        """Train until the schedule ends. `losses` of a step number; `evaluate` is called and logged at every save.

        A step whose gradient is not finite is skipped and counted in the log.
        """
        kept: dict[str, float] = {}
        skipped, count, since = 0, 0, time.perf_counter()
        with _progress(self.writes) as progress:
            task = progress.add_task(
                self.folder.name, total=getattr(self.schedule, "steps", None), completed=self.step, note=""
            )
            self.module.train()
            while not self.schedule.over(self.step):
                parts = losses(self.step)
                skipped += not self._update(parts["loss"])
                self.step += 1
                count += 1
                for name, value in parts.items():
                    kept[name] = kept.get(name, 0.0) + float(value.detach())
                last = self.schedule.over(self.step)
                if self.step % self.log_every == 0 or last:
                    now = time.perf_counter()
                    line = {name: value / count for name, value in kept.items()}
                    self._log({**line, "skipped": skipped, "seconds_a_step": (now - since) / count})
                    progress.update(task, completed=self.step, note=" ".join(f"{k} {v:.3f}" for k, v in line.items()))
                    kept, count, since = {}, 0, now
                if self.step % self.save_every == 0 or last:
                    self._save()
                    if evaluate is not None and self.writes:
                        self.module.eval()
                        self._log({f"held_out_{name}": value for name, value in evaluate().items()})
                        self.module.train()
                        since = time.perf_counter()
        self.module.eval()
        if self.writes:
            plot(self.folder / "log.csv", self.folder / "loss.png")

    def _update(self, loss: Tensor) -> bool:
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()
        parameters = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
        if self.average is not None:
            self.average([parameter.grad for parameter in parameters if parameter.grad is not None])
        norm = nn.utils.clip_grad_norm_(parameters, self.clip)
        if not torch.isfinite(norm):
            return False
        factor = self.schedule.at(self.step)
        for optimiser, peaks in zip(self.optimisers, self.peaks, strict=True):
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            optimiser.step()
        if self.averaged and self.mean is not None:
            moved = 1.0 - min(self.mean, (self.step + 1) / (self.step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.averaged.values()), list(self.module.parameters()), moved)
        return True

    def _save(self) -> None:
        if not self.writes:
            return
        state = {
            "step": self.step,
            "module": self.module.state_dict(),
            "averaged": self.averaged,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        target = self.folder / f"state-{(self.step // self.save_every) % 2}.pt"
        partial = target.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(target)

    def _resume(self) -> None:
        state = newest_state(self.folder)
        if state is None:
            return
        self.step = state["step"]
        self.module.load_state_dict(state["module"])
        self.averaged = state.get("averaged", {})
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)

    def _log(self, line: Mapping[str, float]) -> None:
        if not self.writes:
            return
        with (self.folder / "log.csv").open("a", newline="") as file:
            out = csv.writer(file)
            for name, value in line.items():
                out.writerow([self.step, name, f"{value:.6g}"])


def newest_state(folder: Path) -> dict | None:
    """The latest whole checkpoint of a stage's folder, None where there is none."""
    states = []
    for path in sorted(folder.glob("state-*.pt")):
        try:
            states.append(torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, EOFError, OSError):
            continue
    return max(states, key=lambda state: state["step"], default=None)


def load_newest(folder: Path, module: nn.Module) -> nn.Module:
    """Fill `module` from a stage's latest checkpoint, the running mean where there is one, and put it in evaluation mode.

    Raises `FileNotFoundError` without one.
    """
    state = newest_state(folder)
    if state is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint: run that stage first.")
    module.load_state_dict(state["module"])
    module.load_state_dict(state.get("averaged", {}), strict=False)
    return module.eval()


def plot(log: Path, target: Path) -> None:
    """Draw every series of a log over steps; nothing happens where matplotlib is missing or the log is empty."""
    if find_spec("matplotlib") is None or not log.exists():
        return
    from matplotlib.figure import Figure

    series: dict[str, list[tuple[int, float]]] = {}
    with log.open(newline="") as file:
        for step, name, value in csv.reader(file):
            series.setdefault(name, []).append((int(step), float(value)))
    names = [name for name in series if name not in ("skipped", "seconds_a_step")]
    if not names:
        return
    figure = Figure(figsize=(9, 2.2 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        axes.plot(*zip(*series[name], strict=True))
        axes.set_ylabel(name)
    figure.savefig(target, dpi=80)


def _progress(shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"), disable=not shown)
