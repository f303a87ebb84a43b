"""Word times: every word once, in order, monotone, and right where the segment's end makes it known."""

from __future__ import annotations

import pytest

from cf_agents.audio import Word
from cf_agents.text.normalise import normalise
from cf_agents.timing import RATE_LIMITS, SpeakingRate, WordClock, speaking_time_s, written_words

TEXT = " Well, it costs $5 million 😀 in 2024! And **then** -- nothing. "


def clock(text: str, rate: SpeakingRate | None = None, start_s: float = 0.0, offset: int = 0) -> WordClock:
    return WordClock(written_words(normalise(text)), offset, start_s, rate or SpeakingRate())


def run(text: str, pieces: list[float], rate: SpeakingRate | None = None) -> list[tuple[Word, ...]]:
    running = clock(text, rate)
    return [running.advance(seconds, n == len(pieces) - 1) for n, seconds in enumerate(pieces)]


@pytest.mark.parametrize("text", [TEXT, "Hi.", "😀", "a\n\nb", "one  two   three", "https://example.com/a?b=c is it"])
def test_words_are_what_white_space_separates_and_spell_the_text(text: str) -> None:
    words = written_words(normalise(text))
    assert "".join(word.text for word in words) == text
    assert [text[word.start : word.end] for word in words] == [word.text for word in words]
    assert [word.text.split() for word in words] == [[part] for part in text.split()]


def test_expected_lengths_are_those_of_speech() -> None:
    text = (
        "the quick brown fox jumps over the lazy dog while seventeen people sit in the garden and talk about the weather of "
        "the coming week as if nothing else were worth a word"
    )
    minutes = sum(speaking_time_s(word) for word in text.split()) / 60
    assert 150 < len(text.split()) / minutes < 220
    assert speaking_time_s("extraordinary") > 2 * speaking_time_s("cat")
    assert speaking_time_s("...") == 0.0
    assert speaking_time_s("f,") == speaking_time_s("W") > 2 * speaking_time_s("a")


def test_what_is_spoken_as_one_is_shared_out() -> None:
    words = {word.text.strip(): word for word in written_words(normalise(TEXT))}
    said = sum(speaking_time_s(word) for word in ["five", "million", "dollars"])
    assert words["$5"].length_s + words["million"].length_s + words["😀"].length_s == pytest.approx(said)
    assert words["Well,"].pause_s > 0.0
    assert words["costs"].pause_s == 0.0
    assert words["2024!"].pause_s > words["Well,"].pause_s


@pytest.mark.parametrize("pieces", [[4.0], [0.5] * 9, [0.02] * 400, [0.3, 0.1], [9.0, 9.0, 0.0], [0.0]])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_every_word_comes_once_in_the_piece_it_begins_in(pieces: list[float], factor: float) -> None:
    rate = SpeakingRate()
    rate.factor = factor
    parts = run(TEXT, pieces, rate)
    words = [word for part in parts for word in part]
    assert "".join(word.text for word in words) == TEXT
    starts = [word.start_s for word in words]
    assert starts == sorted(starts)
    assert all(word.start_s <= word.end_s for word in words)
    at = 0.0
    for part, seconds in zip(parts, pieces, strict=True):
        assert all(at - 1e-9 <= word.start_s <= at + seconds + 1e-9 for word in part)
        at += seconds


def test_the_last_word_waits_for_the_end() -> None:
    parts = run("One two three.", [30.0, 1.0])
    assert [[word.text for word in part] for part in parts] == [["One ", "two "], ["three."]]
    assert parts[1][0].start_s >= 30.0


def test_a_segment_in_one_piece_fills_it_in_proportion() -> None:
    ((one, two),) = run("aa bbbb", [3.0])
    lengths = [speaking_time_s("aa"), speaking_time_s("bbbb")]
    assert (one.start_s, two.start_s) == (0.0, pytest.approx(3.0 * lengths[0] / sum(lengths)))
    assert two.end_s == pytest.approx(3.0)


def test_the_rate_is_learnt_from_finished_segments() -> None:
    text = "This voice takes its time with every word it says"
    expected_s = sum(word.length_s for word in written_words(normalise(text)))
    rate = SpeakingRate()
    for _ in range(8):
        run(text, [0.75 * expected_s] * 2, rate)
    assert rate.factor == pytest.approx(1.5, rel=0.01)
    parts = run(text, [0.75 * expected_s, 0.75 * expected_s], rate)
    said = sum(len(word.text) for word in parts[0])
    assert 0.35 < said / len(text) < 0.65


def test_a_freak_segment_does_not_spoil_the_rate() -> None:
    rate = SpeakingRate()
    run("Hi.", [12.0], rate)
    assert rate.factor <= (1.0 + RATE_LIMITS[1]) / 2
    run("😀", [0.1], rate)
    assert rate.factor <= (1.0 + RATE_LIMITS[1]) / 2


def test_times_and_places_count_from_the_stream() -> None:
    words = clock("One two.", start_s=10.0, offset=100).advance(1.0, last=True)
    assert [(word.start, word.end) for word in words] == [(100, 104), (104, 108)]
    assert words[0].start_s == 10.0
    assert words[1].end_s == pytest.approx(11.0)


def spoken_at(text: str, tokens_for: float = 2.0) -> list[float]:
    """The places of a voice that takes so many tokens for a character of the spoken form, and two more at the end."""
    length = len(normalise(text).text)
    return [min((n + 0.5) / tokens_for, length) for n in range(round(tokens_for * length) + 2)]


def run_aligned(text: str, places: list[float], block: int, behind: int) -> tuple[list[tuple[Word, ...]], list[float]]:
    """Words by piece, of a voice whose audio is `behind` tokens behind its places; and each piece's length."""
    running = clock(text)
    parts: list[tuple[Word, ...]] = []
    pieces: list[float] = []
    given = 0
    for at in range(0, len(places), block):
        running.hear(places[at : at + block])
        last = at + block >= len(places)
        audible = len(places) if last else max(given, at + block - behind)
        pieces.append(0.04 * (audible - given))
        given = audible
        parts.append(running.advance(pieces[-1], last))
    return parts, pieces


@pytest.mark.parametrize("block", [16, 5, 400])
@pytest.mark.parametrize("text", [TEXT, "Hi.", "one  two   three", "Dr. Smith paid $5 million, i.e. 3% of it."])
def test_words_are_where_the_tokens_are_in_the_text(text: str, block: int) -> None:
    spoken = normalise(text)
    parts, pieces = run_aligned(text, spoken_at(text), block, behind=6)
    words = [word for part in parts for word in part]
    assert "".join(word.text for word in words) == text
    times = [time for word in words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    at = 0.0
    for part, seconds in zip(parts, pieces, strict=True):
        assert all(at - 1e-9 <= word.start_s <= at + seconds + 1e-9 for word in part)
        at += seconds
    known = [0.04 * block * (n + 1) for n, part in enumerate(parts) for _ in part]
    ended_s = 0.0
    for word, written, known_s in zip(words, written_words(spoken), known, strict=True):
        assert word.start_s == pytest.approx(max(0.08 * written.spoken_start, ended_s), abs=0.041)
        # What is left of a word that goes on where no token is known yet takes its share of what the word was expected to take.
        letters = max(written.spoken_end - written.spoken_start, 1.0)
        left = min(max(written.spoken_end - known_s / 0.08, 0.0) / letters, 1.0)
        ended_s = min(0.08 * written.spoken_end, known_s) + left * written.length_s
        assert word.end_s == pytest.approx(ended_s, abs=0.06)
        ended_s = word.end_s


def test_a_word_that_is_cut_by_a_block_ends_no_later_than_it_does() -> None:
    text = "An extraordinary day"
    parts, _ = run_aligned(text, spoken_at(text), 16, behind=6)
    words = {word.text.strip(): word for part in parts for word in part}
    assert words["extraordinary"].end_s <= words["day"].start_s
    assert words["day"].start_s == pytest.approx(0.08 * text.index("day"), abs=0.041)


def test_what_was_skipped_is_not_lost_and_what_was_never_said_comes_last() -> None:
    text = "one two three four five six"
    three, five = text.index("three"), text.index("five")
    running = clock(text)
    running.hear([three + n / 2 for n in range(2 * (five - three))])
    (first, late) = running.advance(0.5, last=False), running.advance(0.44, last=True)
    assert "".join(word.text for word in (*first, *late)) == text
    assert [word.start_s for word in first[:3]] == [0.0, 0.0, 0.0]
    assert [word.text for word in late][-2:] == ["five ", "six"]
    assert all(word.start_s <= word.end_s <= 0.94 + 1e-9 for word in (*first, *late))


def test_a_path_that_moves_back_gives_no_word_twice_and_none_in_the_past() -> None:
    text = "one two three four"
    running = clock(text)
    running.hear([0.0, 1.0, 2.0, 4.0, 5.0, 6.0, 0.0])  # the last one is far off, which shows only when more comes
    first = running.advance(0.28, last=False)
    running.hear([7.0, 8.0, 8.0, 1.0, 8.0, 9.0, 13.0, 14.0, 16.0])
    second = running.advance(0.12, last=False) + running.advance(0.24, last=True)
    assert [word.text for word in first] == ["one "]
    assert "".join(word.text for word in first + second) == text
    assert all(word.start_s >= 0.28 for word in second)


def test_the_rate_is_learnt_with_places_too() -> None:
    rate = SpeakingRate()
    running = clock("This voice takes its time with every word it says", rate)
    running.hear([0.0])
    running.advance(30.0, last=True)
    assert rate.factor > 1.2
