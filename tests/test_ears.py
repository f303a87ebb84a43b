"""What the measuring ears count: phones, words that are wrong, gone or said twice, and how long sound goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ears import PhoneListener, Pocketsphinx, align
from benchmarks.knobs import parse_knobs
from benchmarks.met import counts, table
from benchmarks.pronunciation import pronunciation
from cf_agents.config import DecodeParams
from training import recogniser
from training.config import SPEAKERS
from training.recogniser import Phone, Recogniser, RecogniserStage, labels_of, runs, steady, told
from training.speech import PHONES, Spoken, Word, available, speak
from training.text import sentences

TEXT = "tell me now"
SAID = (("t", 0.0), ("E", 0.1), ("l", 0.2), ("m", 0.3), ("i:", 0.4), ("_:", 0.5), ("n", 0.6), ("aU", 0.7))
WORDS = ((0, 4, 0.0, 0.3), (5, 2, 0.3, 0.5), (8, 3, 0.6, 0.8))
HEARD = tuple(PHONES.index(name) for name, _ in SAID if name != "_:")


def original() -> Spoken:
    rate = 24_000
    words = tuple(Word(start, length, round(begin * rate), round(end * rate)) for start, length, begin, end in WORDS)
    return Spoken(np.zeros(rate, np.float32), words, tuple((round(begin * rate), name) for name, begin in SAID))


class Ear(Recogniser):
    """Hears given phones, 5 frames each."""

    def __init__(self, *labels: int) -> None:
        super().__init__(4)
        self.labels = labels

    def hear(self, wave: np.ndarray) -> list[Phone]:
        return [Phone(label, 5 * n, 5 * n + 5) for n, label in enumerate(self.labels)]


def understood(*labels: int) -> tuple[int, tuple[str, ...], tuple[str, ...], int]:
    found = PhoneListener(Ear(*labels)).compare([np.zeros(0, np.float32)], [original()], [TEXT])
    assert (found.phones, found.words) == (7, ("tell", "me", "now"))
    return found.phone_errors, found.wrong, found.dropped, found.added


def test_the_originals_phones_lie_in_its_words() -> None:
    assert [phone.label for phone in told(original())] == list(HEARD)
    labels = labels_of(original())
    assert labels.shape == (50,)
    assert [PHONES[label] for label in labels[[0, 4, 5, 22, 27, 49]]] == ["t", "t", "E", "i:", "_:", "aU"]


@pytest.mark.parametrize(
    ("heard", "wanted"),
    [
        (HEARD, (0, (), (), 0)),
        (HEARD[:3] + HEARD[5:], (2, ("me",), ("me",), 0)),
        ((*HEARD[:3], PHONES.index("s"), *HEARD[4:]), (1, ("me",), (), 0)),
        (HEARD[:4] + HEARD[5:], (1, ("me",), (), 0)),
        (HEARD[:5] + HEARD[:5] + HEARD[5:], (5, (), (), 1)),
        (HEARD[:5] + HEARD[3:5] + HEARD[5:], (2, (), (), 0)),
        ((), (7, ("tell", "me", "now"), ("tell", "me", "now"), 0)),
    ],
    ids=["all", "a word is gone", "another phone", "a phone is gone", "said twice", "two phones more", "nothing"],
)
def test_what_became_of_the_words(heard: tuple[int, ...], wanted: tuple[int, tuple[str, ...], tuple[str, ...], int]) -> None:
    assert understood(*heard) == wanted


def test_wrong_words_are_told_by_how_often_training_met_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="tokens/train"):
        counts(tmp_path)
    for shard, texts in (("000", ["Tell me.", "tell it now"]), ("001", ["me, me!", "it " * 100])):
        (tmp_path / shard).mkdir()
        (tmp_path / shard / "index.json").write_text(json.dumps({"text": texts}), "utf-8")
    met = counts(tmp_path)
    assert met == {"tell": 2, "me": 3, "it": 101, "now": 1}
    assert table(["Tell", "me", "now", "it", "never"], ["now", "never"], met) == [
        "0 times: 1.00 of 1",
        "1 to 2 times: 0.50 of 2",
        "3 to 9 times: 0.00 of 1",
        "100 and more times: 0.00 of 1",
    ]


def test_alignment_takes_the_cheapest_way() -> None:
    assert align([1, 2, 3, 4], [1, 3, 3, 4, 4, 4]) in (
        [(0, 0), (1, 1), (2, 2), (None, 3), (None, 4), (3, 5)],
        [(0, 0), (1, 1), (2, 2), (3, 3), (None, 4), (None, 5)],
        [(0, 0), (1, 1), (2, 2), (None, 3), (3, 4), (None, 5)],
    )
    assert align([], [5]) == [(None, 0)]
    assert align([5], []) == [(0, None)]


def test_a_tail_begins_after_the_last_phone_and_a_phone_is_not_held_for_ever() -> None:
    second = np.zeros(24_000, np.float32)
    assert PhoneListener(Ear(*HEARD)).tail_s(second) == pytest.approx(1 - 7 * 0.1)
    assert PhoneListener(Ear()).tail_s(second) == 1.0

    class Drone(Ear):
        def hear(self, wave: np.ndarray) -> list[Phone]:
            return [Phone(9, 5, 50)]

    assert PhoneListener(Drone()).tail_s(second) == pytest.approx(1 - 0.3)


def test_a_change_of_phone_has_its_cost() -> None:
    sure, unsure = np.log([0.9, 0.1]), np.log([0.4, 0.6])
    frames = np.stack([sure, sure, unsure, sure, sure[::-1], sure[::-1]])
    assert steady(frames, 0.0) == frames.argmax(1).tolist() == [0, 0, 1, 0, 1, 1]
    assert steady(frames, 1.0) == [0, 0, 0, 0, 1, 1]


def test_pauses_part_equal_phones_and_are_none() -> None:
    assert runs([0, 9, 9, 1, 9, 10, 10]) == [Phone(9, 1, 3), Phone(9, 4, 5), Phone(10, 5, 7)]


@pytest.mark.skipif(not available(), reason="libespeak-ng, a Debian package, is not installed")
def test_training_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recogniser, "mixed", sentences)
    recogniser.train(tmp_path, RecogniserStage(steps=2, rows=2, frames=32, width=8))
    net = recogniser.load(tmp_path, RecogniserStage(steps=3, rows=2, frames=32, width=8))
    assert (tmp_path / "log.csv").read_text().splitlines()[-1].startswith("3,")
    same = recogniser.load(tmp_path, RecogniserStage(steps=3, rows=2, frames=32, width=8))
    assert all((a == b).all() for a, b in zip(net.parameters(), same.parameters(), strict=True))
    noise = np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    assert all(0 <= phone.begin < phone.end <= 50 for phone in net.hear(noise))
    assert net.hear(noise[:100]) == []


@pytest.mark.skipif(not available(), reason="libespeak-ng, a Debian package, is not installed")
def test_words_that_no_dictionary_has_are_listened_for() -> None:
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed: pip install pocketsphinx")
    texts = ("the swagman filled his tuckerbag.", "optative verb endings.", "the oracular sayings of poets.", "The cat's away!")
    ear = Pocketsphinx()
    assert ear.words(texts[3]) == "the cat's away"
    ear.expect(texts)
    heard = [said is not None and ear.hears(said.wave) for said in (speak(text, SPEAKERS[1]) for text in texts)]
    assert heard == [0, 1, 2, 3]


@pytest.mark.skipif(not available(), reason="libespeak-ng, a Debian package, is not installed")
def test_a_pronunciation_is_in_arpabet() -> None:
    assert pronunciation("swagman") == "S W AE G M AH N"
    assert pronunciation("") == ""


def test_knobs_of_a_line() -> None:
    base = DecodeParams(steps=6, guidance=0.0)
    assert parse_knobs("", base) == base
    assert parse_knobs("temperature=0.5,max_tokens=32", base) == DecodeParams(6, 0.5, guidance=0.0, max_tokens=32)
    assert parse_knobs("preset=paper,steps=4", base) == DecodeParams(4, 0.2, 0.5)
