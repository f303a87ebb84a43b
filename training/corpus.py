"""What the decoder is trained on: assistant sentences, open vocabulary, figures, single words, and segments of every length.

`text.sentences` are the templates alone, `open_sentences` those of WordNet; `mixed` has them all, cut and joined as the
package's segmenter would hand them over. A sentence's side is told by its words (`text.side_of`), whatever it is joined to.

Capitals are kept, for espeak-ng to know what is spelled; the decoder reads small letters (`characters.encode`).
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from cf_agents.text.normalise import normalise
from training.characters import FOLDED
from training.text import CHARACTERS, SHORT, Side, sentences, side_of, word_list
from training.wordnet import FOLDER, WordNet, wordnet
from training.written import Slot, slots, written

LONGEST = 350
_MERGED = 160
_FOREIGN = re.compile(f"[^{re.escape(CHARACTERS)}A-Z]")


def spoken_form(raw: str) -> str:
    """Text as the package hands it to the decoder, in `CHARACTERS` and capitals."""
    said = unicodedata.normalize("NFKD", normalise(raw).text)
    folded = "".join(FOLDED.get(sign, sign) for sign in said)
    return re.sub(r" +", " ", _FOREIGN.sub("", folded)).strip()


def open_sentences(side: Side, seed: int = 0, folder: Path = FOLDER) -> Iterator[str]:
    """Endless examples (and, less often, definitions) of WordNet, none of them twice before all were there.

    In the spoken form, small letters. Raises `FileNotFoundError` where WordNet is not installed.
    """
    return (text.lower() for text in _open(side, seed, wordnet(folder)))


def mixed(side: Side, seed: int = 0, folder: Path = FOLDER) -> Iterator[str]:
    """Endless texts of one side, of at most `LONGEST` characters. Raises as `open_sentences` does."""
    net = wordnet(folder)
    chooser = random.Random(f"mixed/{side}/{seed}")
    templates, opened, known = sentences(side, seed), _open(side, seed, net), slots(net)

    def one() -> str:
        """A sentence on its own."""
        draw = chooser.random()
        if draw < 0.15:
            return next(templates)
        return next(opened) if draw < 0.8 else _drawn(side, lambda: written(chooser, known))

    while True:
        draw = chooser.random()
        if draw < 0.06:
            # The fixed ones belong to training, every one.
            fixed = side == "train" and chooser.random() < 0.5
            text = chooser.choice(SHORT) if fixed else _drawn(side, lambda: _short(chooser, known))
        elif draw < 0.18:
            text = _drawn(side, lambda: _words(chooser, net))
        elif draw < 0.26:
            text = _joined(one, chooser.randint(80, _MERGED))
        elif draw < 0.295:
            text = _joined(one, chooser.randint(_MERGED, LONGEST))
        elif draw < 0.325:
            text = _drawn(side, lambda: _cut(one(), chooser))
        else:
            text = one()
        if len(text) <= LONGEST:
            yield text


def _open(side: Side, seed: int, net: WordNet) -> Iterator[str]:
    chooser = random.Random(f"open/{side}/{seed}")
    examples, glosses = ([text for text in texts if side_of(text) == side] for texts in (net.examples, net.glosses))
    while True:
        # Definitions are many and dry: one for every three examples.
        chosen = [*examples, *chooser.sample(glosses, min(len(glosses), len(examples) // 3))]
        chooser.shuffle(chosen)
        # Digits and abbreviations are other words when they are spoken.
        yield from (text for text in map(spoken_form, chosen) if side_of(text) == side)


def _drawn(side: Side, draw: Callable[[], str]) -> str:
    """Draw until a text is of the side. Held out, that is one draw in fifty."""
    while True:
        text = spoken_form(draw())
        if text and side_of(text) == side:
            return text


def _joined(one: Callable[[], str], most: int) -> str:
    text = one()
    while len(longer := f"{text} {one()}") <= most:
        text = longer
    return text


def _cut(text: str, chooser: random.Random) -> str:
    """The beginning of a sentence, as it is spoken when the rest is not written yet."""
    words = text.split(" ")
    kept = " ".join(words[: chooser.randint(1, max(1, len(words) - 1))]).rstrip(",.?!-")
    return kept + chooser.choice(("", "", ","))


def _words(chooser: random.Random, net: WordNet) -> str:
    """Words without grammar: what follows a word must not be guessed from it."""
    count = chooser.randint(1, 8)
    pools = (net.words, net.words[:1500], net.words, net.people, net.places)
    return " ".join(chooser.choice(chooser.choice(pools)) for _ in range(count)) + chooser.choice((".", ".", "", "?", "!"))


def _short(chooser: random.Random, known: dict[str, Slot]) -> str:
    shape = chooser.choice(_SHORT_SHAPES)
    filled = re.sub(r"\{(\w+)\}", lambda found: known[found[1]](chooser), shape)
    return filled + chooser.choice((".", ".", "!", "?", ""))


_SHORT_SHAPES = word_list(
    "{first} {person} {place} {n} {n} {time} {date} {day} {money} {ordinal} {word} {word} {common} {common}_{common} "
    "{spelled} {percent} Hi_{first} Hello_{first} Bye_{first} Thanks,_{first} Yes,_{common} No,_{common} Okay,_{common} "
    "Sure,_{first} The_{word} A_{word} {adj} Very_{adj} Not_{adj} {verb}_it My_{thing} Your_{thing} At_{time} On_{day} "
    "In_{place} Hm Oh Ah Hey Wow Right Really Exactly Absolutely Of_course Okay Yeah Nope Done Wait Stop Go_on Go_ahead "
    "Got_it I_see I_know Me_too Why_not What Who When Where How Yes No Hi Hello Sure Okay,_sure Thank_you Sorry"
)
