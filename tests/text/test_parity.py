"""Ours against the cleaner the released model was trained behind, over 200 sentences (made by goldens/make_text.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cf_agents.text.normalise import normalise
from tests.text.better import OURS_IS_BETTER

GOLDENS = Path(__file__).parents[1] / "goldens"
PEER: dict[str, dict[str, str]] = json.loads((GOLDENS / "text_parity.json").read_text(encoding="utf-8"))
CASES = {sentence: spoken for group in PEER.values() for sentence, spoken in group.items()}


@pytest.mark.parametrize("sentence", CASES)
def test_same_as_the_training_time_cleaner_or_better_for_a_reason(sentence: str) -> None:
    ours = normalise(sentence).text
    peers = " ".join(CASES[sentence].split())  # the cleaner leaves double spaces where a rule put its own
    if sentence in OURS_IS_BETTER:
        reason, better = OURS_IS_BETTER[sentence]
        assert reason
        assert ours == better != peers
    else:
        assert ours == peers


def test_the_table_names_only_sentences_of_the_golden() -> None:
    assert OURS_IS_BETTER.keys() <= CASES.keys()
    assert len(CASES) == 200
    assert len(OURS_IS_BETTER) <= 40
