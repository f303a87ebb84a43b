"""What the decoder reads in training: the spoken form, of every kind and length, held-out sentences apart."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from string import ascii_lowercase

import pytest

from cf_agents.tokenizer import TextTokenizer
from training.characters import encode, tokenizer_json
from training.config import POCKET
from training.corpus import LONGEST, mixed, open_sentences, spoken_form
from training.text import CHARACTERS, NAMES, SHORT, side_of
from training.vocabulary import weights, word_lists
from training.wordnet import WordNet, wordnet

_LINE = "{at:08d} 00 {letter} 01 {word} 0 001 {kind} 00001740 n 0000 | {gloss}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WordNet of invented sentences and two names, in the format of the real one."""
    folder = tmp_path_factory.mktemp("wordnet")
    colours, animals = ("red", "green", "blue", "white", "black"), ("cat", "dog", "cow", "hen", "pig")
    glosses = [
        f"the way of a {colour} {animal} {number}; "
        f'"a {colour} {animal} {deed} in the yard"; "the {animal} {deed} with {colour} hats"'
        for colour in colours
        for animal in animals
        for deed in ("ran", "sat", "slept")
        for number in ("alone", "at home")
    ]
    # Spoken they are other words, and their side may be another.
    glosses += [f'a name; "Mr. {name} and Mrs. {other} went home"' for name in NAMES for other in NAMES[:8]]
    lines = [_LINE.format(at=at, letter="n", word="thing", kind="@", gloss=gloss) for at, gloss in enumerate(glosses)]
    lines.append("00000001 18 n 02 Ada_Lovelace 0 Lovelace 0 001 @i 00001740 n 0000 | an English mathematician of note")
    lines.append('00000002 15 n 01 Oslo 0 001 @i 00001740 n 0000 | "the sex of it was told"; "see 3 x 4 = 12"; "no!"')
    (folder / "data.noun").write_text("  1 the licence\n" + "\n".join(lines), "utf-8")
    for part in ("adj", "adv", "verb"):
        (folder / f"data.{part}").write_text("", "utf-8")
    return folder


def test_wordnet_gives_plain_sentences_words_and_names(folder: Path) -> None:
    net = wordnet(folder)
    assert "A red cat ran in the yard." in net.examples
    assert "The way of a red cat alone." in net.glosses
    assert net.people == ("Ada Lovelace", "Lovelace")
    assert net.places == ("Oslo",)
    assert {"cat", "yard"} <= set(net.words)
    assert not any("sex" in text or "12" in text or "licence" in text for text in (*net.examples, *net.glosses))


def test_without_wordnet_the_package_to_install_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="wordnet-base"):
        next(open_sentences("train", 0, tmp_path))


def test_open_sentences_are_on_one_side(folder: Path) -> None:
    trained = set(islice(open_sentences("train", 0, folder), 600))
    held_out = list(islice(open_sentences("held_out", 3, folder), 12))
    assert all(side_of(text) == "held_out" for text in held_out)
    assert not trained & set(held_out)
    assert all(text == text.lower() for text in trained)


def test_mixed_texts_are_what_the_package_hands_over(folder: Path, tmp_path: Path) -> None:
    texts = list(islice(mixed("train", 0, folder), 1500))
    assert texts == list(islice(mixed("train", 0, folder), 1500)), "the same seed, the same texts"
    assert set("".join(texts).lower()) <= set(CHARACTERS)
    lengths = [len(text) for text in texts]
    assert max(lengths) <= LONGEST
    assert sum(length <= 12 for length in lengths) > 60
    assert sum(length > 160 for length in lengths) > 15
    assert set(SHORT) & set(texts)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_json()), "utf-8")
    tokenizer = TextTokenizer.open(path, POCKET.t3)
    assert all(list(tokenizer.encode(text)) == encode(text) for text in texts[:300])


def test_held_out_texts_hold_no_sentence_of_training(folder: Path) -> None:
    trained = {text.lower() for text in islice(mixed("train", 0, folder), 1500)}
    held_out = [text.lower() for text in islice(mixed("held_out", 1, folder), 40)]
    assert not trained & set(held_out)


def test_word_lists_bring_rare_words_often(folder: Path) -> None:
    texts = list(islice(word_lists("train", 0, folder), 1000))
    assert texts == list(islice(word_lists("train", 0, folder), 1000)), "the same seed, the same texts"
    assert texts != list(islice(word_lists("train", 1, folder), 1000))
    assert set("".join(texts)) <= set(CHARACTERS)
    assert {side_of(text) for text in texts} == {"train"}
    assert {len(text.split()) for text in texts} >= set(range(3, 10))
    spelled = [letter for text in texts for letter in text.split() if len(letter) == 1]
    assert set(ascii_lowercase) <= set(spelled)
    assert len(spelled) < 1000
    drawn = Counter(word.strip(".?!") for text in texts for word in text.split())
    held = Counter(word for text in wordnet(folder).examples if side_of(text) == "train" for word in set(text.lower().split()))
    often, seldom = "the", "green"
    ratio = held[often] / held[seldom]
    assert ratio > 3
    assert drawn[often] / drawn[seldom] == pytest.approx(ratio**0.5, rel=0.2), "by the square root of what they are in text"
    assert "ada" not in drawn, "names of people are no words of sentences"


def test_sentences_that_are_held_out_lend_no_words() -> None:
    texts = [f"the {one}{other} sat" for one in "bcdfg" for other in ("ab", "ed", "ip", "ot", "ug", "ail", "est", "ond", "unk")]
    held = {text.split()[1] for text in texts if side_of(text) == "held_out"}
    assert held, "one in fifty is"
    known = weights(WordNet(tuple(texts), (), (), (), ()))
    assert set(known) == {word for text in texts for word in text.split()} - held


def test_the_spoken_form_is_the_packages_own() -> None:
    assert spoken_form("Dr. Café owes $3.50 (or more) at 3:15 PM") == (
        "doctor Cafe owes three dollars, fifty cents ,or more, at three fifteen PM"
    )
