"""Words without grammar, rare ones more often than text has them: what a decoder cannot say, it has met too seldom.

A pocket voice learns how a word is said by meeting it, and running text is mostly words that it has met a thousand times. So
words are drawn by the square root of their frequency, and no sentence lets them be guessed.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from string import ascii_lowercase

from training.text import Side, side_of
from training.wordnet import FOLDER, WordNet, wordnet

_SHORTEST, _LONGEST = 3, 9
_GLOSS = 0.125
"""Weight of a word in a definition beside one in an example, which is more like what is said."""
_POWER = 0.5
_SPELLED = 0.2
"""Share of lists that hold some letters, each said by its name: it is soon over, and nothing else sounds like it."""


def weights(net: WordNet) -> dict[str, float]:
    """How often each word of WordNet's sentences is drawn, up to a factor. Held-out sentences lend no words."""
    counts: Counter[str] = Counter()
    for texts, weight in ((net.examples, 1.0), (net.glosses, _GLOSS)):
        for text in texts:
            if side_of(text) == "train":
                counts.update(dict.fromkeys(re.findall(r"\b[a-z]{2,15}\b", text.lower()), weight))
    return {word: count**_POWER for word, count in counts.items()}


def word_lists(side: Side, seed: int = 0, folder: Path = FOLDER) -> Iterator[str]:
    """Endless texts of a few words each, all of one side. Raises `FileNotFoundError` where WordNet is not installed."""
    known = weights(wordnet(folder))
    words, totals = tuple(known), tuple(accumulate(known.values()))
    chooser = random.Random(f"words/{side}/{seed}")
    while True:
        drawn = chooser.choices(words, cum_weights=totals, k=chooser.randint(_SHORTEST, _LONGEST))
        if chooser.random() < _SPELLED:
            drawn.insert(chooser.randint(0, len(drawn)), " ".join(chooser.choices(ascii_lowercase, k=chooser.randint(2, 4))))
        text = " ".join(drawn) + chooser.choice((".", ".", "", "?", "!"))
        if side_of(text) == side:
            yield text
