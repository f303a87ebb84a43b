"""Much of anything goes through: a quadratic rule would take hours over a megabyte and meet the time-out of the test."""

from __future__ import annotations

import pytest

from cf_agents.text.normalise import normalise
from cf_agents.text.segment import Segmenter

MEGABYTE = 1_000_000
SIZE = 100_000
WORST = ["1", "a.", "(", "$", "-", "1,"]
UNITS = [
    "1", "a", "a.", "(", "$", "-", "1,", "1.", "1:", "1-", "1/", "$1-", "+1", "[", "[a](", "<a", "a@", "a-", "*", "_", "|", "#",
    "&", "A.", "'a", "http://", " ", "\n", "- \n", "1 ", "é", "字。", "🎉",
]  # fmt: skip


def repeat(unit: str, size: int) -> str:
    return (unit * (size // len(unit) + 1))[:size]


@pytest.mark.parametrize(("unit", "size"), [*((unit, SIZE) for unit in UNITS), *((unit, MEGABYTE) for unit in WORST)])
def test_normalise(unit: str, size: int) -> None:
    spoken = normalise(repeat(unit, size))
    assert sum(word.end - word.start for word in spoken.words) == size


@pytest.mark.parametrize(("unit", "size"), [*((unit, SIZE) for unit in UNITS), *((unit, MEGABYTE) for unit in WORST)])
def test_segmenter_in_one_push(unit: str, size: int) -> None:
    source = repeat(unit, size)
    segmenter = Segmenter()
    segments = segmenter.push(source) + segmenter.flush()
    assert "".join(segments) == source
    assert max(map(len, segments)) <= 400


@pytest.mark.parametrize("lead_s", [0.0, 10.0])
def test_segmenter_one_character_at_a_time(lead_s: float) -> None:
    source = repeat("Well, 3.14 is about it. ", MEGABYTE)
    segmenter = Segmenter(lead_s=lead_s)
    segments = [segment for character in source for segment in segmenter.push(character)]
    assert "".join(segments + segmenter.flush()) == source
