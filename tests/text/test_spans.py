"""The spoken words lead back to the source, whatever the text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cf_agents.text.normalise import normalise
from cf_agents.text.spoken import Spoken

FRAGMENTS = [
    "Dr. ",
    "St.",
    "No. ",
    "http://",
    "www.",
    "a@b.com",
    "10:30",
    " pm",
    "p.m.",
    "$5",
    "1,000",
    "Jan. 5",
    "```",
    "**",
    "- ",
    "# ",
    "\\",
    "",
    "&amp;",
    "&#0;",
    "IV",
    "Henry ",
    "U.S.",
    "v2",
    "1/2",
    "3-4",
    "...",
    "[laughter]",
    "](",
    "[",
    "km",
    "°C",
    "th",
    "'s",
    "K",
    "million ",
    "\n",
    " ",
    "🎉",
    "é",
    "字",
    "\ud800",
    "́",
    "‍",
    "½",
    "—",
    "(555) ",
    "+1 ",
    "<b>",
    "<br>",
    "_",
    "~",
    "^",
    "0",
    "9",
    "%",
    "$",
    "£",
    "-",
    ".",
    ",",
    "!",
    "'",
    '"',
]


def check(spoken: Spoken, source: str) -> None:
    assert "".join(map(spoken.written, spoken.words)) == source
    assert "".join(map(spoken.said, spoken.words)) == spoken.text
    for word in spoken.words:
        assert word.start < word.end
        assert any(map(str.isalnum, spoken.said(word))) or len(spoken.words) == 1
        assert word.start == 0 or source[word.start - 1].isspace()
    assert "  " not in spoken.text
    assert spoken.text == spoken.text.strip()


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=80))
def test_any_text(source: str) -> None:
    check(normalise(source), source)


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join))
def test_any_markup(source: str) -> None:
    check(normalise(source), source)


def test_ten_thousand_strings_of_any_code_points() -> None:
    source_of = random.Random(7)
    for _ in range(10_000):
        source = "".join(map(chr, source_of.choices(range(0x110000), k=source_of.randint(0, 12))))
        check(normalise(source), source)


@pytest.mark.parametrize(
    ("source", "pairs"),
    [
        (
            "Dr. Smith paid $1.5 million, see?",
            [
                ("Dr. ", "doctor "),
                ("Smith ", "Smith "),
                ("paid ", "paid "),
                ("$1.5 ", "one point five "),
                ("million, ", "million dollars, "),
                ("see?", "see?"),
            ],
        ),
        ("(555) 123-4567.", [("(555) ", "five five five, "), ("123-4567.", "one two three, four five six seven.")]),
        ("  🎉 **Hi** 👍 you", [("  🎉 **Hi** 👍 ", "Hi "), ("you", "you")]),
        ("[a b](http://x.y) &nbsp;c", [("[a ", "a "), ("b](http://x.y) ", "b "), ("&nbsp;c", "c")]),
        ("wait - what", [("wait - ", "wait, "), ("what", "what")]),
        ("on Jan. 5, 2024", [("on ", "on "), ("Jan. ", "january "), ("5, ", "fifth, "), ("2024", "twenty twenty four")]),
    ],
)  # fmt: skip
def test_words_and_their_slices(source: str, pairs: list[tuple[str, str]]) -> None:
    spoken = normalise(source)
    assert [(spoken.written(word), spoken.said(word)) for word in spoken.words] == pairs


def test_how_far_the_source_was_said() -> None:
    spoken = normalise("Pay $5.20 today.")
    assert spoken.source_end(0) == 0
    assert spoken.source_end(len("Pay")) == len("Pay ")
    assert spoken.source_end(len("Pay five")) == len("Pay ")
    assert spoken.source_end(len("Pay five dollars, twenty cents")) == len("Pay $5.20 ")
    assert spoken.source_end(len(spoken.text)) == len(spoken.source)
