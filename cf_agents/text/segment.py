"""A `Segmenter`: text as a language model writes it, cut into segments worth speaking.

How early it cuts depends on the lead, the seconds of speech that are ahead of the listener:

    lead below `low_lead_s`      first clause, or a few words at a safe space: the listener waits
    lead below `high_lead_s`     every sentence
    lead above                   several sentences together, up to `merged_chars`

It judges character by character and never looks back, so for a constant lead the segments do not depend on how the text
was split into pushes. It works on source text: it knows nothing of the spoken form, of audio or of time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

from cf_agents.errors import ConfigError
from cf_agents.text.lexicon import (
    ABBREVIATIONS,
    MONTH_ABBREVIATIONS,
    MONTHS,
    TITLES,
    word_set,
)
from cf_agents.text.sentences import period_after, starts_sentence

_OPENERS = "\"'([{*_`~“‘«<#"
_CLOSERS = "\"')]}*_`~”’»>）」』】"
_WIDE_ENDS = frozenset("。！？")
_WIDE_COMMAS = frozenset("、，；：")
_CLAUSE_ENDS = frozenset(",;:—–、，；：")
_SENTENCE_ENDS = frozenset("!?。！？")
_BEGINS_AMOUNT = frozenset("0123456789$£€¥₹%°(+½⅓⅔¼¾")
_CLINGING = word_set(
    "a an the of to in on at by for from with and or but as is are was were be been my your our his her its their this "
    "that no not very i we you he she it they if than about into over under chapter part act scene section war phase "
    "level number room page"
) | frozenset(TITLES) | frozenset(ABBREVIATIONS) | frozenset(MONTHS) | frozenset(MONTH_ABBREVIATIONS)  # fmt: skip
"""Words that belong to the one after them: no breath is taken behind them."""


@dataclass(frozen=True)
class SegmentPolicy:
    """When to cut. Lengths in characters of the source, leads in seconds of speech.

    `first_chars` is the least an early segment may have: the released model makes gibberish of a lone "Hi!".
    `early_chars` is where an early segment is cut at a space when no clause ended; `sentence_chars` the least a sentence
    on its own may have; `merged_chars` what sentences are merged up to when there is time; at `max_chars` a cut is made
    at the best place there is; a run without a space is cut at `hard_chars`, whatever it is.
    """

    first_chars: int = 16
    early_chars: int = 72
    sentence_chars: int = 32
    merged_chars: int = 160
    max_chars: int = 300
    hard_chars: int = 400
    low_lead_s: float = 0.8
    high_lead_s: float = 4.0

    def __post_init__(self) -> None:
        lengths = (1, self.first_chars, self.early_chars, self.max_chars, self.hard_chars)
        merging = (self.first_chars, self.sentence_chars, self.merged_chars, self.max_chars)
        if any(list(each) != sorted(each) for each in (lengths, merging, (self.low_lead_s, self.high_lead_s))):
            raise ConfigError(
                "SegmentPolicy: make 1 <= first_chars <= early_chars <= max_chars <= hard_chars, first_chars <= "
                "sentence_chars <= merged_chars <= max_chars and low_lead_s <= high_lead_s."
            )


class Segmenter:
    """Cuts pushed text into segments which, with `pending`, spell what was pushed exactly.

    `lead_s` is set by the owner, here or with a push: seconds of audio that wait to be heard, and of segments that wait to
    be spoken. A segment ends with the first white-space character after its last word. Numbers, abbreviations, addresses
    and words stay whole, as long as they are shorter than `SegmentPolicy.max_chars`. Not safe to share between threads.
    """

    def __init__(self, policy: SegmentPolicy | None = None, lead_s: float = 0.0) -> None:
        self.lead_s = lead_s
        self._policy = policy or SegmentPolicy()
        self._reset()

    @property
    def policy(self) -> SegmentPolicy:
        """When it cuts."""
        return self._policy

    @property
    def pending(self) -> str:
        """What was pushed and is in no segment yet."""
        return self._text[self._cut - self._base :]

    def push(self, text: str, lead_s: float | None = None) -> list[str]:
        """Take more text; give the segments that are finished by it, in order.

        An empty `text` with a lower `lead_s` gives what was held only because there was time.
        """
        segments: list[str] = []
        if lead_s is not None and lead_s != self.lead_s:
            self.lead_s = lead_s
            self._release(segments)
        self._text += text
        policy = self._policy
        marks = (policy.early_chars, policy.max_chars)
        for character in text:
            placed = self._take(self._end, character)
            self._end += 1
            length = self._end - self._cut
            if placed or length in marks or length >= policy.hard_chars:
                self._release(segments)
        self._forget()
        return segments

    def flush(self) -> list[str]:
        """The end of the text, or a forced stop: everything that is pending, as one segment. The segmenter begins anew."""
        rest = self.pending
        self._reset()
        return [rest] if rest else []

    def _reset(self) -> None:
        # Indices count characters from the beginning of the text; `_text` begins at `_base`.
        self._text = ""
        self._base = 0
        self._cut = 0
        self._end = 0
        self._word: int | None = None
        self._word_leads_line = True
        self._at_line_start = True
        self._open_brackets = 0
        self._undecided: _Undecided | None = None
        self._places: deque[_Place] = deque()

    def _take(self, at: int, character: str) -> bool:
        """Judge what `character` at `at` says of the places before it; whether there is a new place to cut."""
        if not character.isspace():
            return self._go_on(at, character)
        if self._word is not None:
            return self._end_word(at, character)
        if character == "\n" and self._at_line_start and self._places and self._undecided is None:
            return self._add(at + 1, _Rank.SENTENCE)
        if character == "\n":
            self._at_line_start = True
            return self._settle_with(_Rank.CLAUSE) if self._undecided else self._add(at + 1, _Rank.CLAUSE)
        return False

    def _go_on(self, at: int, character: str) -> bool:
        if self._word is None:
            self._word = at
            self._word_leads_line, self._at_line_start = self._at_line_start, False
            return self._begin_word(character)
        before = self._text[at - 1 - self._base]
        if before in _WIDE_ENDS and character not in _WIDE_ENDS and character not in _CLOSERS:
            return self._settle() | self._add(at, _Rank.SENTENCE)
        if before in _WIDE_COMMAS:
            return self._settle() | self._add(at, _Rank.CLAUSE)
        return False

    def _begin_word(self, character: str) -> bool:
        waiting = self._undecided
        if waiting is None:
            return False
        if waiting.reason == "comma":
            return self._settle_with(_Rank.LAST_RESORT if character.isdecimal() else _Rank.CLAUSE)
        if waiting.reason == "space":
            splits_name = character.isupper() and waiting.after_name
            return self._settle_with(_Rank.LAST_RESORT if splits_name or character in _BEGINS_AMOUNT else _Rank.SPACE)
        if waiting.reason == "dots":
            return self._settle_with(_Rank.SENTENCE if character.isupper() else _Rank.CLAUSE)
        if not character.isupper() and character not in _OPENERS:
            return self._settle_with(_Rank.LAST_RESORT)
        return False

    def _end_word(self, at: int, character: str) -> bool:
        assert self._word is not None
        settled = self._settle()
        word = self._text[self._word - self._base : at - self._base]
        self._word = None
        self._open_brackets = max(0, self._open_brackets + word.count("[") - word.count("]"))
        judged = self._judge(word)
        if character == "\n":
            self._at_line_start = True
            self._open_brackets = 0
            return self._add(at + 1, _Rank.SENTENCE if judged is _Rank.SENTENCE else _Rank.CLAUSE) | settled
        if isinstance(judged, _Rank):
            return self._add(at + 1, judged) | settled
        self._undecided = _Undecided(at + 1, judged, word.lstrip(_OPENERS)[:1].isupper())
        return settled

    def _judge(self, word: str) -> _Rank | _Reason:
        """The rank of the place after `word`, or what it waits for."""
        core = word.rstrip(_CLOSERS)
        last = core[-1:]
        if self._open_brackets:
            return _Rank.LAST_RESORT
        if last in _SENTENCE_ENDS and last:
            return _Rank.SENTENCE
        if last in ".…" and last:
            return self._judge_period(core)
        if last in _CLAUSE_ENDS and last:
            return "comma" if core[-2:-1].isdecimal() else _Rank.CLAUSE
        if word == "-":
            return _Rank.CLAUSE
        bare = core.lstrip(_OPENERS)
        if not bare or bare.lower() in _CLINGING or not last.isalpha() or any(map(str.isdecimal, bare)):
            return _Rank.LAST_RESORT
        return "space"

    def _judge_period(self, core: str) -> _Rank | _Reason:
        if core.endswith(("..", "…")):
            return "dots"
        stem = core[:-1].lstrip(_OPENERS)
        if stem.isdecimal() and self._word_leads_line:
            return _Rank.LAST_RESORT
        period = period_after(stem) if stem else "inside"
        if period == "ask":
            return "name"
        return _Rank.SENTENCE if period == "end" else _Rank.LAST_RESORT

    def _settle(self) -> bool:
        """Decide the place that waited for a whole word, now that the word is there."""
        if self._undecided is None or self._word is None:
            return False
        following = self._text[self._word - self._base : self._end - self._base]
        return self._settle_with(_Rank.SENTENCE if starts_sentence(following) else _Rank.LAST_RESORT)

    def _settle_with(self, rank: _Rank) -> bool:
        waiting, self._undecided = self._undecided, None
        return waiting is not None and self._add(waiting.at, rank)

    def _add(self, at: int, rank: _Rank) -> bool:
        if at <= self._cut:
            return False
        self._places.append(_Place(at, rank))
        return rank is not _Rank.LAST_RESORT or self._end - self._cut >= self._policy.max_chars

    def _release(self, segments: list[str]) -> None:
        while (cut := self._choose()) is not None:
            segments.append(self._text[self._cut - self._base : cut - self._base])
            self._cut = cut
            while self._places and self._places[0].at <= cut:
                self._places.popleft()
            if self._word is not None and self._word < cut:
                self._word = cut

    def _choose(self) -> int | None:
        policy, length = self._policy, self._end - self._cut
        if self.lead_s < policy.low_lead_s:
            if cut := self._latest(_Rank.CLAUSE, policy.first_chars):
                return cut
            if length >= policy.early_chars and (cut := self._latest(_Rank.SPACE, policy.first_chars)):
                return cut
        elif cut := self._latest(
            _Rank.SENTENCE, policy.sentence_chars if self.lead_s < policy.high_lead_s else policy.merged_chars
        ):
            return cut
        if length >= policy.max_chars:
            for least in (policy.max_chars // 3, policy.first_chars, 1):
                for rank in (_Rank.SENTENCE, _Rank.CLAUSE, _Rank.SPACE) if least > 1 else (_Rank.LAST_RESORT,):
                    if cut := self._latest(rank, least):
                        return cut
        return self._cut + policy.hard_chars if length >= policy.hard_chars else None

    def _latest(self, rank: _Rank, least: int) -> int | None:
        for place in reversed(self._places):
            if place.at - self._cut < least:
                return None
            if place.rank >= rank:
                return place.at
        return None

    def _forget(self) -> None:
        self._text = self._text[self._cut - self._base :]
        self._base = self._cut


class _Rank(IntEnum):
    LAST_RESORT = 0
    SPACE = 1
    CLAUSE = 2
    SENTENCE = 3


class _Place(NamedTuple):
    at: int
    rank: _Rank


_Reason = Literal["comma", "space", "dots", "name"]


class _Undecided(NamedTuple):
    """A place whose rank depends on the next character or, for "name", on the next word."""

    at: int
    reason: _Reason
    after_name: bool
