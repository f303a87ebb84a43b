"""Sentences, words and names of WordNet 3.0 (Princeton University; a permissive licence): Debian's package `wordnet-base`.

A line of `data.POS` ends in "| definition; "an example"; "another"". What is coarse is left out: a voice need not learn it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.text import word_list

FOLDER = Path("/usr/share/wordnet")
COMMON = 9000
_PARTS = ("adj", "adv", "noun", "verb")
_PEOPLE, _PLACES = "18", "15"
_COARSE = word_list(
    "fuck shit cunt cock dick piss bitch whore slut bastard nigg fag queer dyke rape rapist sex porn penis vagin vulva anus "
    "anal genital erotic nude naked prostitut brothel orgas masturbat copulat coitus intercourse semen scrot testic breast "
    "nipple buttock arse feces faec excre urin defec vomit fart kill murder suicid tortur nazi slave negro jew gypsy retard "
    "cripple spast imbecile moron incest lesbian homosexual obscen vulgar offensive slang disparag drug cocaine heroin "
    "massacre terroris genocid lynch behead castrat damn"
)
"""How words begin that are left out; "analog" is lost with them."""
_PLAIN = re.compile(r"[A-Za-z' ,.?!-]+")


@dataclass(frozen=True)
class WordNet:
    """Sentences as written, common words by falling frequency, and names of people and places."""

    examples: tuple[str, ...]
    glosses: tuple[str, ...]
    words: tuple[str, ...]
    people: tuple[str, ...]
    places: tuple[str, ...]


@cache
def wordnet(folder: Path = FOLDER) -> WordNet:
    """Read the database. Raises `FileNotFoundError` where it is not installed."""
    if not (folder / "data.noun").exists():
        raise FileNotFoundError(f"{folder} holds no WordNet; on Debian: apt-get install wordnet-base.")
    examples: dict[str, None] = {}
    glosses: dict[str, None] = {}
    names: dict[str, dict[str, None]] = {_PEOPLE: {}, _PLACES: {}}
    counts: Counter[str] = Counter()
    for part in _PARTS:
        for line in (folder / f"data.{part}").read_text("utf-8", "replace").splitlines():
            if line.startswith(" ") or " | " not in line:
                continue
            fields, gloss = line.split(" | ", 1)
            quoted = re.findall(r'"([^"]+)"', gloss)
            meaning = re.sub(r"\([^)]*\)", "", re.split(r'; "', gloss)[0]).split(";")[0].strip()
            examples.update(dict.fromkeys(filter(None, map(_sentence, quoted))))
            glosses.update(dict.fromkeys(filter(None, [_sentence(meaning)])))
            for text in (*quoted, meaning):
                counts.update(re.findall(r"\b[a-z]{2,12}\b", text))
            kind = fields.split()[1]
            if part == "noun" and kind in names and " @i " in fields:
                lemmas = (field.replace("_", " ") for field in fields.split()[4 : 4 + 2 * int(fields.split()[3], 16) : 2])
                names[kind].update((lemma, None) for lemma in lemmas if _is_name(lemma))
    words = tuple(word for word, _ in counts.most_common(COMMON) if not word.startswith(_COARSE))
    return WordNet(tuple(examples), tuple(glosses), words, tuple(names[_PEOPLE]), tuple(names[_PLACES]))


def _sentence(text: str) -> str | None:
    """An example or gloss as a sentence, None when it is short, long, coarse or holds what is no plain English."""
    text = re.sub(r"\s+", " ", text).strip(" ;:,-")
    if not (12 <= len(text) <= 150 and text.count(" ") >= 2 and _PLAIN.fullmatch(text)) or _coarse(text):
        return None
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


def _is_name(lemma: str) -> bool:
    return bool(re.fullmatch(r"[A-Z][a-z]+(?: (?:de |of |of the )?[A-Z][a-z]+){0,2}", lemma)) and not _coarse(lemma)


def _coarse(text: str) -> bool:
    return any(word.startswith(_COARSE) for word in text.lower().replace("-", " ").split())
