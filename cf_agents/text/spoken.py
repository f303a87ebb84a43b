"""`Spoken`: what the tokenizer gets for a text, tied word by word to the text as it was written."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

_WORD_START = re.compile(r"\S+")
_CLOSES_UP = frozenset(",.!?;:)")
_ENDS_SENTENCE = frozenset(",.!?;:-")


@dataclass(frozen=True)
class SpokenWord:
    """One display word: `source[start:end]` is spoken as `text[spoken_start:spoken_end]`.

    A display word is what white space separates in the source, with the white space after it. What is not spoken (markup,
    emoji) belongs to the word before it, or at the start of the text to the first word.
    """

    start: int
    end: int
    spoken_start: int
    spoken_end: int


@dataclass(frozen=True)
class Spoken:
    """A text in its spoken form.

    `words` partition both `source` and `text`: in order, without gaps or overlaps, every one with a letter or digit of
    speech. Only a source in which nothing is spoken has one word with an empty spoken slice, and an empty source has none.
    """

    source: str
    text: str
    words: tuple[SpokenWord, ...]

    def written(self, word: SpokenWord) -> str:
        """The source slice of a word, its white space and markup included."""
        return self.source[word.start : word.end]

    def said(self, word: SpokenWord) -> str:
        """The spoken slice of a word, with the space after it."""
        return self.text[word.spoken_start : word.spoken_end]

    def source_end(self, spoken_end: int) -> int:
        """How far the source is said once `text[:spoken_end]` is: the end of the last word that is said whole."""
        said = [
            word.end
            for word in self.words
            if word.spoken_end <= spoken_end or not self.text[spoken_end : word.spoken_end].strip()
        ]
        return said[-1] if said else 0


class SpokenBuilder:
    """Joins pieces of speech, in the order of the source, into a `Spoken`."""

    def __init__(self, source: str, source_index: Callable[[int], int]) -> None:
        self._source = source
        self._source_index = source_index
        self._starts = [found.start() for found in _WORD_START.finditer(source)] or [0]
        self._starts.append(len(source) + 1)
        self._at_word = 0
        self._parts: list[str] = []
        self._size = 0
        self._last = ""
        self._space_due = False
        self._was_reading = False
        self._marks: list[tuple[int, int]] = []
        self._opened = (-1, 0)
        self._marked = -1

    @property
    def last(self) -> str:
        """The last spoken character, or nothing at the beginning; a space that is due does not count."""
        return self._last

    def say(self, at: int, spoken: str, reading: bool = False) -> None:
        """Say `spoken` for the folded character at `at`. A `reading` is set apart from the letters around it."""
        body = spoken.strip()
        if not body:
            self._space_due = self._space_due or bool(spoken)
            return
        apart = (reading or self._was_reading) and self._last.isalnum() and body[0].isalnum()
        space = self._space_due or spoken[0].isspace() or apart
        if space and self._parts and body[0] not in _CLOSES_UP:
            self._append(" ")
        self._mark(at, body)
        self._append(body)
        self._last = body[-1]
        self._space_due = spoken[-1].isspace()
        self._was_reading = reading

    def space(self) -> None:
        """White space of the source: a space before what is said next, unless that is punctuation."""
        self._space_due = True

    def pause(self) -> None:
        """A comma, unless there is punctuation already or nothing was said."""
        if self._last and self._last not in _ENDS_SENTENCE and self._last != "(":
            self._append(",")
            self._last = ","
        self._space_due = True

    def end_sentence(self) -> None:
        """A full stop, unless there is punctuation already or nothing was said."""
        if self._last.isalnum() or self._last in ("'", '"', ")"):
            before_quote = (
                self._parts[-1][-2:-1] if len(self._parts[-1]) > 1 else (self._parts[-2][-1:] if len(self._parts) > 1 else "")
            )
            if self._last.isalnum() or before_quote not in _ENDS_SENTENCE:
                self._append(".")
                self._last = "."
        self._space_due = True

    def build(self) -> Spoken:
        """The whole, once everything was said."""
        text = "".join(self._parts)
        if not self._source:
            return Spoken(self._source, text, ())
        starts = [(0, 0), *self._marks[1:], (len(self._source), len(text))]
        words = [
            SpokenWord(start, end, spoken_start, spoken_end) for (start, spoken_start), (end, spoken_end) in pairwise(starts)
        ]
        return Spoken(self._source, text, tuple(words))

    def _append(self, spoken: str) -> None:
        self._parts.append(spoken)
        self._size += len(spoken)

    def _mark(self, at: int, body: str) -> None:
        # A word begins where its first character is said, but counts only once a letter or digit of it is.
        source_at = self._source_index(at)
        while self._starts[self._at_word + 1] <= source_at:
            self._at_word += 1
        start = self._starts[self._at_word]
        if self._opened[0] != start:
            self._opened = (start, self._size)
        if self._marked < start and (body[0].isalnum() or any(map(str.isalnum, body))):
            self._marks.append(self._opened)
            self._marked = start
