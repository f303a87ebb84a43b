"""How wrong words are by how often training met them: what a voice has not learnt, beside what it has hardly heard."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from training.data import INDEX_FILE

BOUNDS = (0, 1, 3, 10, 100)
"""Where each class begins."""


def counts(folder: Path) -> Counter[str]:
    """How often each word is in the texts of all shards under a folder. Raises `FileNotFoundError` where there is none."""
    found: Counter[str] = Counter()
    shards = sorted(folder.glob(f"*/{INDEX_FILE}"))
    if not shards:
        raise FileNotFoundError(f"{folder} holds no shard of training texts: name the folder tokens/train of a run.")
    for shard in shards:
        for text in json.loads(shard.read_text("utf-8"))["text"]:
            found.update(_words(text))
    return found


def table(said: Iterable[str], wrong: Iterable[str], met: Counter[str]) -> list[str]:
    """A line for each class of words: how often met, how many were said, and the share of them that was wrong."""
    totals, errors = ([0] * len(BOUNDS) for _ in range(2))
    for words, sums in ((said, totals), (wrong, errors)):
        for word in words:
            times = min((met[part] for part in _words(word)), default=0)
            sums[max(n for n, bound in enumerate(BOUNDS) if times >= bound)] += 1
    ends = [f"{bound - 1}" for bound in BOUNDS[1:]]
    names = [begin if begin == end else f"{begin} to {end}" for begin, end in zip(map(str, BOUNDS), ends, strict=False)]
    names.append(f"{BOUNDS[-1]} and more")
    rows = zip(names, totals, errors, strict=True)
    return [f"{name} times: {error / total:.2f} of {total}" for name, total, error in rows if total]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())
