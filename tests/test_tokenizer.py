"""Text ids are those of the published package; a file that does not fit the decoder is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cf_agents.builtin import open_model
from cf_agents.config import T3Config
from cf_agents.errors import CheckpointDamaged, CheckpointMismatch, CheckpointNotFound
from cf_agents.synthetic import tokenizer_json
from cf_agents.tokenizer import TextTokenizer

GOLDEN: dict[str, list[int]] = json.loads((Path(__file__).parent / "goldens" / "tokenizer.json").read_text("utf-8"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_json(T3Config())), "utf-8")
    return path


def edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    data = json.loads(path.read_text("utf-8"))
    edit(data)
    path.write_text(json.dumps(data), "utf-8")
    return path


def test_ids_are_the_published_packages_between_start_and_stop(path: Path) -> None:
    tokenizer = TextTokenizer.open(path, T3Config())
    assert len(GOLDEN) == 30
    for text, ids in GOLDEN.items():
        assert tokenizer.encode(text) == (255, *ids, 0), text


def test_ids_know_where_they_begin(path: Path) -> None:
    tokenizer = TextTokenizer.open(path, T3Config())
    vocabulary = {index: piece for piece, index in tokenizer._tokenizer.get_vocab().items()}
    for text in GOLDEN:
        read = tokenizer.read(text)
        assert read.ids == tokenizer.encode(text)
        assert (read.starts[0], read.starts[-1]) == (0, len(text))
        for index, start in zip(read.ids[1:-1], read.starts[1:-1], strict=True):
            piece = vocabulary[index]
            said = text.startswith(piece, start) or (piece == "[SPACE]" and text.startswith(" ", start))
            assert said or piece == "[UNK]", (text, start, piece)


def test_characters_that_are_folded_keep_their_places() -> None:
    text = "Oh “no” — wait… naïve!"
    read = open_model("pocket").tokenizer().read(text)
    assert list(read.starts) == sorted(read.starts)
    assert read.text[read.starts[read.ids.index(read.ids[-2])] :] == "!"
    assert [text[start] for start in read.starts[1:4]] == ["O", "h", " "]
    assert [text[start] for start in read.starts[-10:-1]] == ["…", "…", "…", " ", "n", "a", "ï", "v", "e", "!"][1:]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"no .*tokenizer\.json\. Download"):
        TextTokenizer.open(tmp_path / "tokenizer.json", T3Config())


@pytest.mark.parametrize("text", ["", "{", "{}", '{"model": {"type": "BPE"}}', "\0\1\2"])
def test_a_damaged_file(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(CheckpointDamaged, match=r"tokenizer\.json is not a tokenizer file .* Download it again"):
        TextTokenizer.open(path, T3Config())


def test_a_file_that_is_not_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointDamaged, match="is not a tokenizer file"):
        TextTokenizer.open(path, T3Config())


def test_more_ids_than_the_decoder_has_rows(path: Path) -> None:
    with pytest.raises(CheckpointMismatch, match="has 704 text ids, and the decoder has room for 703"):
        TextTokenizer.open(path, T3Config(text_vocab=703))


def test_fewer_ids_leave_rows_unused(path: Path) -> None:
    TextTokenizer.open(path, T3Config(text_vocab=705))


@pytest.mark.parametrize(("config", "token"), [(T3Config(start_text=254), "START"), (T3Config(stop_text=3), "STOP")])
def test_other_start_and_stop_ids(path: Path, config: T3Config, token: str) -> None:
    with pytest.raises(CheckpointMismatch, match=rf"gives \[{token}\] the id \d+, and the decoder needs (254|3)\."):
        TextTokenizer.open(path, config)


def test_no_token_for_the_space(path: Path) -> None:
    def drop(data: dict[str, Any]) -> None:
        data["model"]["vocab"]["[BLANK]"] = data["model"]["vocab"].pop("[SPACE]")
        data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "[SPACE]"]

    with pytest.raises(CheckpointMismatch, match=r"has no \[SPACE\]"):
        TextTokenizer.open(edited(path, drop), T3Config())
