"""Places among ids, as the decoder tells them, are places in the text."""

from __future__ import annotations

from cf_agents.text_ids import TextIds

SAID = TextIds("say it, now.", (3, 9, 2, 7, 8, 5, 0), (0, 0, 3, 4, 7, 8, 12))


def test_places_between_ids_are_between_their_characters() -> None:
    assert SAID.characters([0, 0.9, 1, 2, 3.5, 5, 5.25, 6, 6.9]) == (0, 0, 0, 3, 5.5, 8, 9, 12, 12)
    assert SAID.characters([-1.0, 99.0]) == (0, 12)
    assert SAID.characters([1 / 3]) == (0,)
    assert SAID.characters([5 + 1 / 3]) == (9.33,)


def test_words_are_spans_of_ids() -> None:
    assert SAID.words == ((1, 2), (3, 4), (5, 6))
    assert TextIds("say it", (3, 9, 0), (0, 0, 6)).words == ((1, 2),), "no id begins in the second"
    letters = "Ann's a 2nd I saw."
    each = TextIds(letters, tuple(range(len(letters) + 2)), (0, *range(len(letters)), len(letters)))
    assert [letters[start - 1 : end - 1] for start, end in each.words] == ["Ann's", "2nd", "saw"]
    assert TextIds("?!", (1, 5, 6, 2), (0, 0, 1, 2)).words == ()
