"""Held-out sentences are never trained on, and the voice's tokenizer reads what it was taught."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from cf_agents.tokenizer import TextTokenizer
from training.characters import encode, tokenizer_json
from training.config import POCKET
from training.text import CHARACTERS, MAX_CHARACTERS, sentences, side_of


def test_no_sentence_is_on_both_sides() -> None:
    trained = set(islice(sentences("train", 0), 3000))
    held_out = set(islice(sentences("held_out", 7), 100))
    assert not trained & held_out
    assert all(side_of(text) == "held_out" for text in held_out)
    assert side_of("It is nine!") == side_of("it is nine.")


def test_sentences_are_of_the_characters_that_have_ids() -> None:
    texts = list(islice(sentences("train", 3), 2000))
    assert set("".join(texts)) <= set(CHARACTERS)
    assert all(len(text) <= MAX_CHARACTERS for text in texts)
    assert texts == list(islice(sentences("train", 3), 2000)), "the same seed, the same texts"


def test_the_tokenizer_file_reads_as_training_did(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_json()), "utf-8")
    tokenizer = TextTokenizer.open(path, POCKET.t3)
    for text in islice(sentences("train", 5), 200):
        assert list(tokenizer.encode(text)) == encode(text)
    assert tokenizer.encode("Café: “yes”") == tuple(encode("cafe, yes"))
