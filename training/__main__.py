"""`python -m training STAGE --work DIR`: run a stage, or go on with it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from training import flow, hift
from training.decoder import CONTINUED
from training.stages import STAGES, Work, run

TRAINED = ("tokenizer", "encoder", "hift", "ear", "flow", "adapt", "decoder")
TIMED = ("decoder", "flow", "hift", "adapt")


def main() -> None:
    """Read the command line and run one stage."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and checkpoints, outside the repository")
    parser.add_argument("--steps", type=int, help="train for so many steps instead of the usual number")
    parser.add_argument("--processes", type=int, default=1, help="of data generation, or of the decoder's training")
    parser.add_argument("--rank", type=int, default=0, help="which of the decoder's processes this is")
    parser.add_argument("--start", type=Path, help="checkpoint folder that is gone on from, with data of shard and sound")
    parser.add_argument("--shard", type=int, default=0, help="number of the shard to make")
    parser.add_argument("--words", action="store_true", help="make a shard of word lists, rare words among them, not of texts")
    parser.add_argument("--minutes", type=float, help=f"train {', '.join(TIMED)} for so long, not for a number of steps")
    parser.add_argument("--target", type=Path, help="where the checkpoint is exported to")
    chosen = parser.parse_args()
    started = {"processes": chosen.processes, "rank": chosen.rank, "target": chosen.target}
    work = Work(chosen.work, **started, start=chosen.start, shard=chosen.shard, words=chosen.words)
    if chosen.start is not None or chosen.minutes is not None:
        plan = work.plan
        if chosen.start is not None:
            plan = replace(plan, decoder=CONTINUED, flow=flow.CONTINUED, hift=hift.CONTINUED)
        stages = {name: replace(getattr(plan, name), minutes=chosen.minutes) for name in TIMED}
        work = replace(work, plan=replace(plan, **stages))
    if chosen.steps is not None:
        if chosen.stage not in TRAINED:
            parser.error(f"--steps goes with {', '.join(TRAINED)}")
        work = work.with_steps(chosen.stage, chosen.steps)
    run(chosen.stage, work)


if __name__ == "__main__":
    main()
