"""Places among ids, as the decoder tells them, are places in the text."""

from __future__ import annotations

from cf_agents.text_ids import TextIds

SAID = TextIds("say it, now.", (3, 9, 2, 7, 8, 5, 0), (0, 0, 3, 4, 7, 8, 12))


def test_places_between_ids_are_between_their_characters() -> None:
    assert SAID.characters([0, 0.9, 1, 2, 3.5, 5, 5.25, 6, 6.9]) == (0, 0, 0, 3, 5.5, 8, 9, 12, 12)
    assert SAID.characters([-1.0, 99.0]) == (0, 12)
    assert SAID.characters([1 / 3]) == (0,)
    assert SAID.characters([5 + 1 / 3]) == (9.33,)
