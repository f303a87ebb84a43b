"""When each written word is heard.

A model with alignment heads tells where in the text its tokens are: words begin and end where that path comes by. Tokens are
known some time before their audio, so a word is placed before it is heard; what is left of one that goes on past the last
token known takes its share of the length expected.

Any other model gives no word times. Each word then gets a length from its letters and syllables, and pauses from punctuation.
While a segment is still being made the clock runs on these lengths at the speaking rate of the segments before; its end is then
the one thing known for sure, and the words left are fitted into what remains: expect errors of some 0.1 s within a segment.

Either way times are monotone: a word ends no sooner than it begins, and before the next one begins. Knows nothing of audio,
models or streams.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cf_agents.alignment import Alignment
from cf_agents.audio import Word
from cf_agents.text.spoken import Spoken

LETTER_S = 0.045
SYLLABLE_S = 0.08
"""An English word of 4.7 letters and 1.45 syllables then takes 0.33 s: 180 words a minute."""
NAMED_LETTER_S = 0.3
"""A letter on its own is spoken by its name; those that are words are not."""
FIRST_IDEOGRAPH = "\u2e80"
"""From here on a letter is at least a syllable."""
CLAUSE_PAUSE_S = 0.15
SENTENCE_PAUSE_S = 0.35
RATE_LIMITS = (0.5, 2.0)
EARLY_CHARACTERS = 0.25
"""A word has begun when speech is this close to its first letter: the path is smoothed, and would come late."""

_VOWELS = re.compile(r"[aeiouyàâäéèêëíìîïóòôöúùûü]+", re.IGNORECASE)
_LONE_WORDS = frozenset("aAIO")
_WRITTEN = re.compile(r"\s*\S+\s*")
_CLAUSE_END = re.compile(r"[,;:-]\W*$")
_SENTENCE_END = re.compile(r"[.?!]\W*$")


@dataclass(frozen=True)
class WrittenWord:
    """A word as written, white space included, at [start, end) of the segment's text, with its expected length."""

    text: str
    start: int
    end: int
    length_s: float
    pause_s: float
    """Silence that punctuation brings after it."""
    spoken_start: float
    """Where in the spoken form its first letter is, and where its last one ends."""
    spoken_end: float


def speaking_time_s(spoken: str) -> float:
    """Expected length of one word in spoken form, in seconds."""
    letters = sum(character.isalnum() for character in spoken)
    if letters == 1 and spoken.isascii() and spoken[0].isalpha() and spoken[0] not in _LONE_WORDS:
        return NAMED_LETTER_S
    ideographs = sum(character >= FIRST_IDEOGRAPH for character in spoken if character.isalnum())
    syllables = len(_VOWELS.findall(spoken)) or (1 if letters else 0)
    return LETTER_S * letters + SYLLABLE_S * (syllables + ideographs)


def written_words(spoken: Spoken) -> list[WrittenWord]:
    """The words of a segment as white space separates them; joined they spell its source exactly.

    What is spoken as one and written as several, such as "$5 million", is shared out by characters.
    """
    words: list[WrittenWord] = []
    for word in spoken.words:
        said = spoken.said(word)
        pause_s = SENTENCE_PAUSE_S if _SENTENCE_END.search(said) else CLAUSE_PAUSE_S if _CLAUSE_END.search(said) else 0.0
        parts = [(word.start + found.start(), word.start + found.end()) for found in _WRITTEN.finditer(spoken.written(word))]
        letters = [len(spoken.source[start:end].strip()) for start, end in parts]
        whole = max(sum(letters), 1)
        each_s = sum(speaking_time_s(part) for part in said.split()) / whole
        first, last = _letters(said)
        edges = [word.spoken_start + first + (last - first) * n / whole for n in itertools.accumulate(letters, initial=0)]
        for (start, end), count, *span in zip(parts, letters, edges, edges[1:], strict=False):
            pause = pause_s if end == word.end else 0.0
            words.append(WrittenWord(spoken.source[start:end], start, end, each_s * count, pause, *span))
    return words


def _letters(said: str) -> tuple[int, int]:
    """Where the first letter or digit begins and the last one ends; both 0 where there is none."""
    at = [n for n, character in enumerate(said) if character.isalnum()]
    return (at[0], at[-1] + 1) if at else (0, 0)


class SpeakingRate:
    """How slowly a voice speaks against the expected lengths, learnt from finished segments. 1.0 is as expected."""

    def __init__(self) -> None:
        self.factor = 1.0

    def learn(self, expected_s: float, heard_s: float) -> None:
        """A segment expected to take `expected_s` took `heard_s`."""
        if expected_s > 0.0 and heard_s > 0.0:
            slow, fast = RATE_LIMITS
            self.factor = 0.5 * self.factor + 0.5 * min(max(heard_s / expected_s, slow), fast)


class WordClock:
    """Hands out the words of one segment as its audio grows: by where its tokens are in the text, once it is told, else by how
    long words take.

    words: those of the segment. offset: place of the segment's text in the written text. start_s: place of its audio in the
    stream.
    """

    def __init__(self, words: Sequence[WrittenWord], offset: int, start_s: float, rate: SpeakingRate) -> None:
        self._words = words
        self._offset = offset
        self._start_s = start_s
        self._rate = rate
        self._alignment = Alignment()
        self._next = 0
        self._heard_s = 0.0
        self._spoken_until_s = 0.0
        self._starts = list(itertools.accumulate((word.length_s + word.pause_s for word in words), initial=0.0))
        if words:
            # Nobody waits out the pause after the last word.
            self._starts[-1] -= words[-1].pause_s

    def hear(self, places: Sequence[float]) -> None:
        """The characters of the spoken form that the segment's next tokens speak; before their audio is counted, or with it."""
        self._alignment.hear(places)

    def advance(self, seconds: float, last: bool) -> tuple[Word, ...]:
        """The words that begin in the next `seconds` of the segment; with `last` all that are left."""
        began_s, self._heard_s = self._heard_s, self._heard_s + seconds
        found = self._aligned(began_s, last) if self._alignment.until_s else self._expected(began_s, last)
        if last:
            self._rate.learn(self._starts[-1], self._heard_s)
        return found

    def _aligned(self, began_s: float, last: bool) -> tuple[Word, ...]:
        found: list[Word] = []
        path, total_s = self._alignment, self._starts[-1]
        for word, expected_s in zip(self._words[self._next :], self._starts[self._next :], strict=False):
            start_s = path.when(word.spoken_start - EARLY_CHARACTERS)
            if start_s is None and last:
                start_s = self._heard_s - (total_s - expected_s) * self._rate.factor
            if start_s is None or (start_s >= self._heard_s and not last):
                break
            start_s = min(max(start_s, began_s, self._spoken_until_s), self._heard_s)
            end_s = path.when(word.spoken_end)
            if end_s is None:
                end_s = path.until_s + self._left_s(word)
            self._spoken_until_s = max(start_s, min(end_s, self._heard_s) if last else end_s)
            found.append(self._word(word, start_s, self._spoken_until_s))
        self._next += len(found)
        return tuple(found)

    def _left_s(self, word: WrittenWord) -> float:
        """What is left of a word behind the last token known: its letters at the segment's pace so far, or at the one expected.

        The shorter of both, for the next word begins no sooner than this one is told to end.
        """
        path, letters = self._alignment, word.spoken_end - word.spoken_start
        left = min(max(word.spoken_end - path.place, 0.0), letters)
        if left <= 0.0:
            return 0.0
        paces = [word.length_s * self._rate.factor / letters]
        if path.place > 0.0:
            paces.append(path.until_s / path.place)
        return left * min(paces)

    def _expected(self, began_s: float, last: bool) -> tuple[Word, ...]:
        first, words = self._next, len(self._words)
        if last:
            self._next = words
            time = self._fitted(min(max(began_s, self._spoken_until_s), self._heard_s))
        else:
            # The segment goes on, so its last word is still to come, however fast the lengths say it was spoken.
            factor = self._rate.factor
            while self._next < words - 1 and self._starts[self._next] * factor < self._heard_s:
                self._next += 1
            time = factor.__mul__
        if self._next > first:
            self._spoken_until_s = time(self._starts[self._next - 1] + self._words[self._next - 1].length_s)
        found: list[Word] = []
        for word, expected_s in zip(self._words[first : self._next], self._starts[first:], strict=False):
            start_s = time(expected_s)
            found.append(self._word(word, start_s, max(start_s, time(expected_s + word.length_s))))
        return tuple(found)

    def _fitted(self, began_s: float) -> Callable[[float], float]:
        """From expected times to times between `began_s`, where the words left may begin, and the end of the segment."""
        factor, end_s, expected_s = self._rate.factor, self._heard_s, self._starts[-1]
        if expected_s * factor > began_s:
            scale = (end_s - began_s) / (expected_s * factor - began_s)
            return lambda x: began_s + max(0.0, x * factor - began_s) * scale
        if expected_s == 0.0:
            return lambda _: began_s
        return lambda x: max(began_s, end_s - (expected_s - x) * factor)

    def _word(self, word: WrittenWord, start_s: float, end_s: float) -> Word:
        at_s, offset = self._start_s, self._offset
        return Word(word.text, at_s + start_s, at_s + end_s, offset + word.start, offset + word.end)
