"""Written English to the spoken form that the model reads, with the way back to the source.

`normalise` goes over the text once, from left to right. At each place one reader is asked, by the character that stands
there: `addresses`, `quantities`, `words`, `symbols`; `spoken` joins what they return. The form agrees with the text
cleaner the model was trained behind wherever that one is right (see docs/text.md). It knows nothing of sentences to come,
tokens or audio, and keeps no state between calls.
"""

from __future__ import annotations

import re

from cf_agents.text import markup
from cf_agents.text.addresses import find_addresses, speak_address
from cf_agents.text.characters import fold
from cf_agents.text.dates import is_month
from cf_agents.text.quantities import read_quantity
from cf_agents.text.reading import AFTER_DAY, AFTER_NUMBER, Reading
from cf_agents.text.spoken import Spoken, SpokenBuilder
from cf_agents.text.symbols import PAUSE, read_symbol
from cf_agents.text.words import NOT_PLAIN, read_word

_SPACE = re.compile(r"\s++")
_LAST_WORD = re.compile(r"[^\W\d_]+$")
_QUARTER = re.compile(r"[QH][1-4]")
_PLAIN_WORD = re.compile(r"[a-z]++(?=[ ,!?]|\Z)")
_MAY_BEGIN_QUANTITY = frozenset("$£€¥₹½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞")


def normalise(text: str) -> Spoken:
    """The spoken form of `text`.

    Takes any string, raises nothing, and takes time in proportion to the length. The spoken text holds ASCII letters,
    spaces and `. , ? ! ; : ' " - ( )`, the sound tags of the model such as "[laughter]", and letters of other scripts as
    they are. Capitals stay as written; words that a reading puts in are small, except "AM" and "PM".
    """
    return _Pass(text).run()


class _Pass:
    def __init__(self, source: str) -> None:
        folded = fold(source)
        self._text = folded.text
        self._speech = SpokenBuilder(source, folded.source)
        self._addresses = iter(find_addresses(folded.text))
        self._address = next(self._addresses, None)
        self._link_ends: dict[int, int] = {}
        self._previous = ""
        self._in_block = False

    def run(self) -> Spoken:
        text = self._text
        at = self._begin_line(0)
        while at < len(text):
            at = self._step(at)
        return self._speech.build()

    def _step(self, at: int) -> int:
        text, character = self._text, self._text[at]
        if at in self._link_ends:
            return self._link_ends.pop(at)
        if character == " ":
            self._speech.space()
            return at + 1
        if character.isspace():
            return self._space(at)
        if (end := self._address_end(at)) is not None:
            self._speech.say(at, speak_address(text[at:end]), reading=True)
            self._previous = ""
            return end
        if character.isalpha():
            return self._word(at)
        if self._begins_quantity(at) and (reading := read_quantity(text, at, self._previous)):
            end = self._read(at, reading)
            day = is_month(self._previous) and reading[-1][1].endswith(("st", "nd", "rd", "th"))
            self._previous = AFTER_DAY if day else AFTER_NUMBER
            return end
        if character in "[!<" and (end := self._markup(at)) is not None:
            return end
        return self._symbol(at)

    def _space(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        assert found
        breaks = found.group().count("\n")
        self._speech.space()
        if not breaks:
            return found.end()
        if breaks > 1 or self._in_block:
            self._speech.end_sentence()
            self._previous = ""
        self._in_block = False
        return self._begin_line(found.end())

    def _begin_line(self, at: int) -> int:
        mark = markup.line_mark(self._text, at)
        if not mark:
            return at
        if mark.block:
            self._speech.end_sentence()
            self._previous = ""
        self._in_block = mark.block and not mark.whole
        return mark.end if mark.whole else self._begin_nested(mark.end)

    def _begin_nested(self, at: int) -> int:
        # "> - item" and "- # heading": one more mark can follow the first, and two are enough.
        mark = markup.line_mark(self._text, at)
        return mark.end if mark and not mark.whole else at

    def _address_end(self, at: int) -> int | None:
        while self._address and self._address[0] < at:
            self._address = next(self._addresses, None)
        return self._address[1] if self._address and self._address[0] == at else None

    def _begins_quantity(self, at: int) -> bool:
        text, character = self._text, self._text[at]
        if character.isdecimal() or character in _MAY_BEGIN_QUANTITY:
            return True
        after = text[at + 1 : at + 2]
        if character == ".":
            return after.isdecimal() and not text[at - 1 : at].isalnum()
        if character == "'":
            return after.isdecimal() and text[at + 3 : at + 4] == "s"
        return character in "+(" and after.isdecimal()

    def _word(self, at: int) -> int:
        if (plain := _PLAIN_WORD.match(self._text, at)) and plain.group() not in NOT_PLAIN:
            self._previous = plain.group()
            self._speech.say(at, self._previous)
            return plain.end()
        reading = read_word(self._text, at, self._previous)
        end = reading[-1][0]
        written = self._text[at:end]
        changed = len(reading) > 1 or reading[0][1] != written
        self._read(at, reading) if changed else self._speech.say(at, written)
        name = _LAST_WORD.search(written.rstrip(". ")[-40:])
        self._previous = name.group() if name else AFTER_DAY if _QUARTER.fullmatch(written) else ""
        return end

    def _read(self, at: int, reading: Reading) -> int:
        for end, spoken in reading:
            while at < end - 1 and self._text[at].isspace():
                at += 1
            self._speech.say(at, spoken, reading=True)
            at = end
        return at

    def _markup(self, at: int) -> int | None:
        text = self._text
        if text[at] == "<":
            found = markup.tag(text, at)
            if found and found[1]:
                self._speech.end_sentence()
            return found[0] if found else None
        if text[at] == "[" and (end := markup.footnote(text, at)):
            return end
        link = markup.link(text, at)
        if not link:
            return None
        self._link_ends[link.label_end] = link.end
        return link.label if link.label < link.label_end else link.end

    def _symbol(self, at: int) -> int:
        end, spoken = read_symbol(self._text, at, self._previous)
        if spoken == PAUSE and self._text[at] != ",":
            self._speech.pause()
            return end
        self._speech.say(at, spoken, reading=spoken[-1:].isalnum() and spoken != self._text[at:end])
        keeps_date = self._text[at] == "," and self._previous == AFTER_DAY
        if self._text[at] == "," or (spoken.strip() and self._text[at] not in "'\")"):
            self._previous = AFTER_DAY if keeps_date else ""
        return end
