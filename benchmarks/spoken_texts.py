"""What is said to find out whether a voice is understood: sentences held out of training, and what voices stumble over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from training.corpus import open_sentences
from training.text import sentences

SHORTEST = 18


@dataclass(frozen=True)
class TextSet:
    """Texts of one kind, each spoken on its own, or all through one stream."""

    name: str
    texts: tuple[str, ...]
    in_a_row: bool = False


SPECIAL = (
    TextSet("short", ("Hi!", "Yes.", "No.", "Okay, sure.", "Thanks.", "One moment.", "Good morning.", "Why not?", "Goodbye.")),
    TextSet(
        "numbers",
        (
            "The total is 1,482 units.",
            "Your code is 7 0 4 9.",
            "That makes $36.50 in all.",
            "About 12.5% of the 640 parts are left.",
            "Flight 208 leaves from gate 17.",
            "It is 3/4 of a mile, or 1.2 km.",
        ),
    ),
    TextSet(
        "dates",
        (
            "We meet on March 3rd at 4:15 pm.",
            "It was built in 1968.",
            "The deadline is 2025-11-30.",
            "Come on Tuesday, the 9th of June.",
            "They close at 18:30 on December 24.",
        ),
    ),
    TextSet(
        "names",
        (
            "Please ask for Olivia Bennett.",
            "Samuel Ortega will call you from Denver.",
            "My name is Hannah Fischer.",
            "The hotel is in Lisbon, not in Madrid.",
            "Is Dmitri there, or only Aisha?",
        ),
    ),
    TextSet(
        "abbreviations",
        (
            "Dr. Allen lives on Park Ave., not on Mill St.",
            "Mr. and Mrs. Cole are here.",
            "Bring a pen, a cup, etc.",
            "The CEO and the FBI use the same PDF.",
            "It weighs 5 lbs. vs. 6 lbs. before.",
        ),
    ),
    TextSet(
        "long",
        (
            "When the last train had gone and the lamps along the platform went out one after another, the old man picked up "
            "his bag, looked at the dark hills on the other side of the river, and began to walk slowly down the narrow road "
            "that would take him, before the sun came up, to the small white house at the end of the village.",
            "If you would like to change the date of your visit, please tell me the name on the booking and the new day you "
            "have in mind, and I will look for a free room, send you the price and the address by mail, and keep the old "
            "booking until you have had the time to read it and to say yes or no.",
        ),
    ),
)


def text_sets(count: int, seed: int, words: Callable[[str], str], row: int = 20) -> list[TextSet]:
    """`count` held-out assistant and open-vocabulary sentences, the special sets, and `row` sentences to be said in a row.

    `words` tells texts apart: of two with the same words one is taken. Raises `FileNotFoundError` where WordNet, the source of
    open vocabulary, is not installed.
    """
    assistant = _some(sentences("held_out", seed), count + row, words)
    return [
        TextSet("assistant", assistant[:count]),
        TextSet("open", _some(open_sentences("held_out", seed), count, words)),
        *SPECIAL,
        TextSet("in a row", tuple(text[0].upper() + text[1:] for text in assistant[count:]), in_a_row=True),
    ]


def _some(source: Iterator[str], count: int, words: Callable[[str], str]) -> tuple[str, ...]:
    chosen: dict[str, str] = {}
    while len(chosen) < count:
        text = next(source)
        if len(text) > SHORTEST:
            chosen.setdefault(words(text), text)
            chosen.pop("", None)
    return tuple(chosen.values())
