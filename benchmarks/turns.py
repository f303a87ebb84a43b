"""What the benchmarks of the two agent frameworks have in common: a reply that is interrupted over and over, and its figures.

first audio      from the first token of the language model to the first audio out of the adapter
last audio       from the interruption to the last audio or words out of the adapter
told             from the interruption to when the framework tells the adapter (LiveKit: closes its stream)
last when told   from then to the last audio or words out of the adapter
silence          from the interruption to when what plays is told to be silent
late             what came out of the adapter behind the interruption: none may
foreign          what came out of it in a turn and belongs to another: none may
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, field

import numpy as np

from benchmarks.machine import describe

ANSWER = (
    "Certainly, I can look that up for you. The first train leaves at nine in the morning, and the next an hour later. " * 3
)
TOKEN_CHARS = 4
HEARD_S = (0.0, 0.3)
"""Between these, at random, is how long a reply is heard before it is interrupted."""
AFTERWARDS_S = 0.05
"""How long what comes late is waited for."""


@dataclass
class Figures:
    """Of all turns of all bots. Times in seconds."""

    first_s: list[float] = field(default_factory=list)
    last_s: list[float] = field(default_factory=list)
    silence_s: list[float] = field(default_factory=list)
    told_s: list[float] = field(default_factory=list)
    last_told_s: list[float] = field(default_factory=list)
    before_end: int = 0
    """Turns whose audio began before the language model had ended."""
    late: int = 0
    foreign: int = 0


def text_of(bot: int, turn: int) -> str:
    """What a bot says in a turn, and no other bot in no other turn."""
    return f"Answer {turn} of bot {bot}. {ANSWER}"


def is_foreign(words: str, text: str) -> bool:
    """Whether words that were heard are not the beginning of a text."""
    said = words.split()
    return text.split()[: len(said)] != said


def heard_s(source: random.Random) -> float:
    """After how much of a reply the next interruption comes."""
    return source.uniform(*HEARD_S)


def parser(description: str | None, links: tuple[str, ...]) -> argparse.ArgumentParser:
    """The arguments of both; the first link is the default."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--turns", type=int, default=200, help="of all bots together")
    made.add_argument("--bots", type=int, default=1)
    made.add_argument("--model", default="tiny")
    made.add_argument("--link", choices=links, default=links[0])
    made.add_argument("--token-ms", type=float, default=30.0)
    return made


def turns_each(args: argparse.Namespace) -> int:
    """Turns of one bot."""
    return -(-args.turns // args.bots)


def report(what: str, args: argparse.Namespace, figures: Figures) -> None:
    """Print the table."""
    print(f"{args.bots} {what}, {args.model}, {args.link} link, a token each {args.token_ms:g} ms; {describe()}")
    print(f"{'ms':16}{'p50':>9}{'p99':>9}{'max':>9}{'turns':>8}")
    rows = {
        "first audio": figures.first_s,
        "last audio": figures.last_s,
        "told": figures.told_s,
        "last when told": figures.last_told_s,
        "silence": figures.silence_s,
    }
    for name, values_s in rows.items():
        if not values_s:
            continue
        p50, p99 = np.percentile(values_s, [50, 99]) * 1e3
        print(f"{name:16}{p50:9.2f}{p99:9.2f}{max(values_s) * 1e3:9.2f}{len(values_s):8}")
    print(f"audio after the interruption in {sum(last_s > 0.0 for last_s in figures.last_s)} turns")
    print(f"first audio before the text's end: {figures.before_end} of {len(figures.first_s)}")
    print(f"late {figures.late}, foreign {figures.foreign}", flush=True)
