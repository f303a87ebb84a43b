"""A decoder goes on from a checkpoint folder alone: with its weights, on shards of tokens, into a folder alike in all else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import cf_agents
from cf_agents.checkpoint import S3GEN_FILE, T3_FILE, Checkpoint
from cf_agents.models.t3 import T3
from training import export, flow, hift, speech, stages, start, token_data
from training.batches import Batches, Sizes
from training.config import POCKET, SPEAKERS
from training.decoder import CONTINUED
from training.ear import EarStage
from training.flow_data import RowShape
from training.hift import HiFTStage
from training.objective import DecoderTrainer
from training.stages import Plan, Work, run
from training.token_data import TokenSet

SHIPPED = Path(cf_agents.__file__).parent / "pocket"
TEXTS = (
    "Hello there.",
    "It is three fifteen PM.",
    "yes.",
    "the green one is on the table, and the blue one is under it, i think.",
    "Thank you, Anna.",
) * 4
needs_speech = pytest.mark.skipif(not speech.available(), reason="libespeak-ng is not installed")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    token_data.write(folder / "000", SHIPPED, TEXTS, seed=6)
    return folder


def test_what_ships_is_what_training_would_write() -> None:
    assert Checkpoint.open(SHIPPED).config == POCKET


def test_the_decoder_that_is_gone_on_with_is_the_folders_own() -> None:
    module = DecoderTrainer(POCKET.t3)
    start.fill(module, SHIPPED)
    shipped = T3(POCKET.t3)
    Checkpoint.open(SHIPPED).fill(shipped)
    for name, table in module.tables().items():
        # fp16 does not keep sums exactly: half a step at the size of the largest
        assert torch.allclose(table, shipped.state_dict()[name], atol=2e-3), name
    for name in ("tfmr.layers.0.mlp.up_proj.weight", "text_emb.weight", "cond_enc.spkr_enc.bias"):
        assert torch.equal(module.t3.state_dict()[name], shipped.state_dict()[name])
    assert float(module.digits_in.detach().abs().mean()) > 0.01, "codes share what their digits share"


def test_everything_is_trained_that_was_read() -> None:
    module = DecoderTrainer(POCKET.t3)
    start.fill(module, SHIPPED)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_speakers_are_those_of_the_folders_voices() -> None:
    found = start.speakers(SHIPPED)
    assert found.shape == (len(SPEAKERS), POCKET.t3.speaker_dim)
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-3)
    assert not np.allclose(found[0], found[1])


def test_another_decoder_leaves_every_other_file_as_it_is(tmp_path: Path) -> None:
    decoder = T3(POCKET.t3)
    Checkpoint.open(SHIPPED).fill(decoder)
    with torch.no_grad():
        decoder.text_emb.weight.add_(0.5)
    export.replace_networks(SHIPPED, tmp_path / "made", {T3_FILE: {"": decoder}})
    before, after = files(SHIPPED), files(tmp_path / "made")
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {T3_FILE}
    again = T3(POCKET.t3)
    Checkpoint.open(tmp_path / "made").fill(again)
    assert torch.allclose(again.text_emb.weight, decoder.text_emb.weight, atol=2e-3)


@needs_speech
def test_a_shard_holds_what_the_folders_tokenizer_hears(shards: Path) -> None:
    data = TokenSet(shards)
    assert data.texts == list(TEXTS)
    assert set(data.speakers) == {0, 1}
    first, count = int(data.offsets[1]), int(data.lengths[1])
    said = speech.speak(data.texts[1], SPEAKERS[data.speakers[1]])
    assert said is not None
    # The engine carries a little state from one sentence to the next, so samples are not equal.
    assert abs(said.tokens - count) <= 3
    from cf_agents.models.reference.features import resample_sinc

    heard = token_data.speech_tokenizer(SHIPPED).tokenize(resample_sinc(torch.from_numpy(said.wave), 24_000, 16_000)).numpy()
    shared = min(count, len(heard))
    assert (heard[:shared] == data.tokens(first, count)[:shared]).mean() > 0.5
    place = data.place(first, count)
    assert (np.diff(place) >= 0).all()
    assert place[-1] > len(data.texts[1]) - 5
    assert data.token_phones(first, count).max() < len(speech.PHONES)


@needs_speech
def test_shards_that_are_finished_later_join_and_half_made_ones_do_not(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    folder.symlink_to(shards)
    data = TokenSet(folder)
    known, tokens = len(data), data.tokens(0, int(data.offsets[-1]))
    batches = Batches(data, POCKET.t3, start.speakers(SHIPPED), Sizes(300, 1), np.random.default_rng(0))
    batches.next(640)
    half = shards / "001"
    half.mkdir()
    (half / "tokens.i16").write_bytes(b"12")
    data.refresh()
    assert len(data) == known
    token_data.write(half, SHIPPED, ["a sentence that came later."], seed=4)
    seen = [row for _ in range(40) for row in batches.next(640).text.tolist()]
    assert len(data) == known + 1
    assert np.array_equal(data.tokens(0, len(tokens)), tokens), "numbers of utterances stay what they are"
    assert any(row[1] == 4 and row[2] == 2 for row in seen), "and it is trained on"


@needs_speech
def test_longer_utterances_come_soon_after_they_are_allowed(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.batches._CHUNK", 4)
    batches = Batches(TokenSet(shards), POCKET.t3, start.speakers(SHIPPED), Sizes(25, 1), np.random.default_rng(0))
    assert batches.next(25).tokens.shape[1] <= 32
    assert max(batches.next(640).tokens.shape[1] for _ in range(6)) > 32, "not only when the set is used up"


@needs_speech
def test_a_folder_is_trained_on_and_exported(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()
    for side in ("train", "held_out"):
        (tmp_path / "tokens" / side).symlink_to(shards)
    decoder = replace(CONTINUED, steps=2, sizes=Sizes(speech_tokens=200))
    work = Work(tmp_path, plan=Plan(decoder=decoder), start=SHIPPED, target=tmp_path / "made")
    run("decoder", work)
    run("export", work)
    before, after = files(SHIPPED), files(tmp_path / "made")
    assert {name for name in before if before[name] != after[name]} == {T3_FILE}
    log = (tmp_path / "decoder" / "log.csv").read_text()
    assert "held_out_right_1" in log
    right = float(next(line for line in log.splitlines() if "held_out_right_0.5" in line).split(",")[2])
    assert right > 0.2, "two small steps do not forget what the folder knows; a decoder from nothing gets none right"


@needs_speech
def test_a_shard_of_word_lists_stands_beside_the_texts_of_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "mixed", lambda side, seed: iter(TEXTS * 2))
    monkeypatch.setattr(stages, "word_lists", lambda side, seed: iter(["river seldom apple.", "b c under glass"]))
    plan = Plan(shard_utterances=2, held_out_utterances=1)
    for words in (False, True):
        run("shard", Work(tmp_path, plan=plan, start=SHIPPED, shard=4, words=words))
    known = TokenSet(tmp_path / "tokens" / "train").texts
    assert sorted(known) == sorted([*(TEXTS * 2)[:2], "river seldom apple.", "b c under glass"])
    assert TokenSet(tmp_path / "tokens" / "held_out").texts == [TEXTS[0]]


@needs_speech
def test_the_sound_is_trained_on_and_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "mixed", lambda side, seed: iter(TEXTS * 2))
    rows = RowShape(rows=2, tokens=40, shortest=10, longest=20)
    plan = Plan(
        small_utterances=24,
        held_out_utterances=12,
        ear=EarStage(steps=2, tokens=12),
        flow=replace(flow.CONTINUED, steps=1, usual=rows, long=rows),
        remade_utterances=8,
        adapt=HiFTStage(steps=1, rows=2),
    )
    work = Work(tmp_path, plan=plan, start=SHIPPED, target=tmp_path / "made")
    for stage in ("sound", "ear", "flow", "adapt", "export"):
        run(stage, work)
    before, after = (load_file(folder / S3GEN_FILE) for folder in (SHIPPED, tmp_path / "made"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"flow", "mel2wav"}
    assert (SHIPPED / T3_FILE).read_bytes() == (tmp_path / "made" / T3_FILE).read_bytes()
    log = (tmp_path / "flow" / "log.csv").read_text()
    far = float(next(line for line in log.splitlines() if "held_out_two_steps" in line).split(",")[2])
    assert far < 1.0, "a small step does not forget what the folder knows; a flow from nothing is 2 off"


@needs_speech
def test_the_vocoder_that_is_trained_on_is_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "mixed", lambda side, seed: iter(TEXTS * 2))
    still = HiFTStage(steps=1, rows=2, learning_rate=0.0, mean=0.5)
    plan = Plan(small_utterances=24, held_out_utterances=12, hift=still)
    work = Work(tmp_path, plan=plan, start=SHIPPED)
    for stage in ("sound", "hift"):
        run(stage, work)
    before, after = start.hift(SHIPPED).state_dict(), hift.load(tmp_path / "hift", work.config.hift).state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_without_a_folder_to_start_from_a_shard_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--start"):
        run("shard", Work(tmp_path))
