"""The segmenter: what it cuts, what it never cuts, and that tokens do not matter."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cf_agents.errors import ConfigError
from cf_agents.text.segment import Segmenter, SegmentPolicy

PROTECTED = [
    "3.14",
    "1,000",
    "$5.20",
    "10:30",
    "$1.5 million",
    "Dr. Smith",
    "Mrs. Jones",
    "e.g. this",
    "i.e. that",
    "U.S. Army",
    "Jan. 5, 2024",
    "No. 5",
    "5 km",
    "J. K. Rowling",
    "https://example.com/a,b.c?d=e",
    "john.doe@example.com",
    "(555) 123-4567",
    "3:30 p.m. today",
    "cats vs. dogs",
    "10 000",
    "St. Peter",
    "v2.0.1",
    "[two words](http://x.y)",
    "Ph.D. student",
    "New York",
]
PLAIN = ["well", "okay then", "this is a long enough clause to cut after", "and so on we went", "maybe", "it is"]
STOPS = [". ", ", ", "! ", "? ", "\n", "\n\n", " ", "; ", "... ", " - "]


def segments_of(tokens: list[str], lead_s: float) -> list[str]:
    segmenter = Segmenter(lead_s=lead_s)
    segments: list[str] = []
    pushed = ""
    for token in tokens:
        segments += segmenter.push(token)
        pushed += token
        assert "".join(segments) + segmenter.pending == pushed
    segments += segmenter.flush()
    assert segmenter.pending == ""
    return segments


texts = st.lists(st.tuples(st.sampled_from([*PROTECTED, *PLAIN]), st.sampled_from(STOPS)), max_size=25).map(
    lambda pairs: "".join(word + stop for word, stop in pairs)
)


@settings(max_examples=500, deadline=None)
@given(st.one_of(texts, st.text(max_size=200)), st.data(), st.sampled_from([0.0, 2.0, 10.0]))
def test_tokens_do_not_matter(text: str, data: st.DataObject, lead_s: float) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=30).map(sorted))
    tokens = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    segments = segments_of(tokens, lead_s)
    assert "".join(segments) == text
    assert all(segments)
    assert segments == segments_of([text], lead_s) == segments_of(list(text), lead_s)


@settings(max_examples=500, deadline=None)
@given(texts, st.sampled_from([0.0, 2.0, 10.0]))
def test_never_cuts_inside_what_belongs_together(text: str, lead_s: float) -> None:
    borders, at = set(), 0
    for segment in segments_of(list(text), lead_s):
        at += len(segment)
        borders.add(at)
    for protected in PROTECTED:
        for found in re.finditer(re.escape(protected), text):
            assert not borders & set(range(found.start() + 1, found.end())), protected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.floats(0, 10)), max_size=20))
def test_a_changing_lead_loses_nothing(pushes: list[tuple[str, float]]) -> None:
    segmenter = Segmenter()
    segments = [segment for text, lead_s in pushes for segment in segmenter.push(text, lead_s)]
    assert "".join(segments + segmenter.flush()) == "".join(text for text, _ in pushes)


def test_first_segment_is_the_first_clause() -> None:
    segmenter = Segmenter()
    assert segmenter.push("Sure, I can do that for you,") == []
    assert segmenter.push(" and") == ["Sure, I can do that for you, "]


def test_first_segment_of_few_words_without_a_clause_ends_at_a_safe_space() -> None:
    segmenter = Segmenter()
    text = "Somebody who never stops to breathe talks about everything under the sun without any comma at all "
    segments = segmenter.push(text)
    assert segments
    assert len(segments[0]) <= SegmentPolicy().early_chars
    assert segments[0].split()[-1] not in ("the", "under", "about", "to")


@pytest.mark.parametrize(
    ("lead_s", "expected"),
    [
        (2.0, ["This is the first sentence of the text. ", "This is the second sentence of the text. "]),
        (10.0, ["This is the first sentence of the text. This is the second sentence of the text. "]),
    ],
)
def test_with_a_lead_segments_grow(lead_s: float, expected: list[str]) -> None:
    text = "This is the first sentence of the text. This is the second sentence of the text. "
    assert segments_of([text], lead_s) == expected


def test_a_falling_lead_gives_what_was_held() -> None:
    segmenter = Segmenter(lead_s=10.0)
    held = "This is one whole sentence, held back. "
    assert segmenter.push(held) == []
    assert segmenter.push("", lead_s=2.0) == [held]


def test_a_number_that_may_grow_is_waited_for() -> None:
    segmenter = Segmenter()
    assert segmenter.push("The value of pi is 3") == []
    assert segmenter.push(".") == []
    assert segmenter.push("14 or so.") == []
    assert segmenter.push(" ") == ["The value of pi is 3.14 or so. "]


def test_an_abbreviation_that_may_end_a_sentence_waits_for_the_next_word() -> None:
    segmenter = Segmenter()
    assert segmenter.push("The store opens at 3 p.m. ") == []
    assert segmenter.push("Pl") == []
    assert segmenter.push("ease come") == ["The store opens at 3 p.m. "]
    assert segments_of(["The store opens at 3 p.m. Monday and later on that day."], 0.0) == [
        "The store opens at 3 p.m. Monday and later on that day."
    ]


def test_a_link_stays_whole() -> None:
    link = "[the guide, which is quite long, and more](https://example.com/a,b), "
    assert segments_of([link + "and then we go."], 0.0)[0] == link


@pytest.mark.parametrize("pad", range(40))
def test_a_cut_at_a_space_spares_amounts_and_names(pad: int) -> None:
    text = "x" * (pad + 20) + " sold Anna Berg three pears with price $5 total sum 12 500 units" * 3
    for segment in segments_of([text], 0.0)[:-1]:
        assert segment.split()[-1] not in ("price", "sum", "12", "Anna", "with", "$5")


def test_a_lone_word_is_not_a_segment() -> None:
    segmenter = Segmenter()
    assert segmenter.push("Hi! ") == []
    assert segmenter.push("How are you today? ") == ["Hi! How are you today? "]
    assert segmenter.push("Yes.") == []
    assert segmenter.flush() == ["Yes."]


def test_long_sentences_are_cut_at_the_best_place() -> None:
    clause = "this goes on and on without an end in sight " * 3
    segments = segments_of([f"{clause}and here, {clause}{clause}{clause}"], 10.0)
    assert segments[0] == f"{clause}and here, "
    assert all(len(segment) <= SegmentPolicy().max_chars for segment in segments)
    assert all(segment.endswith(" ") for segment in segments[:-1])


def test_a_run_without_space_is_cut_at_the_hard_limit() -> None:
    assert [len(segment) for segment in segments_of(["x" * 1000], 0.0)] == [400, 400, 200]


def test_wide_punctuation_ends_sentences_without_space() -> None:
    assert segments_of(["你好世界今天天气很好我们去公园吧好的谢谢你。我也去！"], 0.0) == [
        "你好世界今天天气很好我们去公园吧好的谢谢你。",
        "我也去！",
    ]


def test_a_policy_out_of_order_is_refused() -> None:
    with pytest.raises(ConfigError, match="first_chars <= early_chars"):
        SegmentPolicy(first_chars=100, early_chars=50)
