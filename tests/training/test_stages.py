"""Every stage in miniature, from text to a checkpoint that loads and speaks (noise, after two steps)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cf_agents import TTS
from cf_agents.config import CODEC_VOCAB
from cf_agents.voice import Voice
from training import speech
from training.batches import Sizes
from training.config import SPEAKERS
from training.data import Dataset, place_of_tokens
from training.decoder import DecoderStage
from training.encoder import EncoderStage
from training.flow import FlowStage
from training.flow_data import RowShape
from training.hift import HiFTStage
from training.speech import TOKEN_SAMPLES, Word, place_words
from training.stages import STAGES, Plan, Work, run
from training.tokenizer import TokenizerStage

pytestmark = pytest.mark.skipif(not speech.available(), reason="libespeak-ng is not installed")

ROWS = RowShape(rows=2, tokens=40, shortest=10, longest=20)
PLAN = Plan(
    train_utterances=24,
    small_utterances=24,
    held_out_utterances=8,
    tokenizer=TokenizerStage(steps=2, batch_tokens=64, crop_tokens=(32,)),
    encoder=EncoderStage(steps=2, windows=2),
    flow=FlowStage(steps=2, usual=ROWS, long=ROWS),
    hift=HiFTStage(steps=2, rows=2),
    remade_utterances=8,
    adapt=HiFTStage(steps=2, rows=2),
    decoder=DecoderStage(steps=2, sizes=Sizes(speech_tokens=150)),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    work = Work(tmp_path_factory.mktemp("training"), plan=PLAN)
    for stage in STAGES:
        if stage not in ("shard", "sound", "ear"):  # which go on from a folder, see test_start
            run(stage, work)
    return work


def test_a_data_set_is_whole(work: Work) -> None:
    data = work.data("train")
    assert len(data) == 24
    assert set(data.speakers) == {0, 1}
    first, count = int(data.offsets[3]), int(data.lengths[3])
    assert data.wave(first, count).shape == (TOKEN_SAMPLES * count,)
    assert data.mel(first, count).shape == (2 * count, 80)
    assert data.tokens(first, count).max() < CODEC_VOCAB
    said = speech.speak(data.texts[3], SPEAKERS[data.speakers[3]])
    assert said is not None
    # The engine carries a little state from one sentence to the next, so samples are not equal.
    assert abs(said.tokens - count) <= 5
    assert [(word.start, word.length) for word in data.words[3]] == [(word.start, word.length) for word in said.words]


def test_words_are_where_they_are_heard() -> None:
    said = speech.speak("hello. goodbye, then.", SPEAKERS[0])
    assert said is not None
    assert [(word.start, word.length) for word in said.words] == [(0, 5), (7, 7), (16, 4)]
    loud = np.abs(said.wave) > 0.02
    first, second = said.words[:2]
    assert loud[first.begin : first.begin + 4800].any()
    assert loud[second.begin : second.begin + 4800].any()
    assert not loud[second.begin - 1200 : second.begin - 240].any(), "the pause between sentences ends at the second word"
    place = place_of_tokens(said.tokens, said.words, 21)
    assert (np.diff(place) >= 0).all()
    assert 7 <= place[second.begin // TOKEN_SAMPLES + 1] < 11


def test_words_told_of_as_one_share_their_time() -> None:
    assert place_words("on in the sun.", [(0, 0), (2, 100), (10, 700)], [(70, 100)], 1000) == (
        Word(0, 2, 0, 70),
        Word(3, 2, 100, 340),
        Word(6, 3, 340, 700),
        Word(10, 3, 700, 1000),
    )


def test_a_place_moves_straight_through_a_word() -> None:
    words = [Word(0, 4, 0, 4 * TOKEN_SAMPLES), Word(5, 2, 4 * TOKEN_SAMPLES, 6 * TOKEN_SAMPLES)]
    place = place_of_tokens(6, words, 7)
    assert place[[0, 3]] == pytest.approx([0.44, 3.06], abs=0.02)
    assert place[4] > 5.0


def test_stages_go_on_where_they_stopped(work: Work) -> None:
    before = (work.folder / "decoder" / "log.csv").read_text()
    run("decoder", work)
    assert (work.folder / "decoder" / "log.csv").read_text() == before
    run("decoder", replace(work, plan=replace(PLAN, decoder=replace(PLAN.decoder, steps=3))))
    assert len((work.folder / "decoder" / "log.csv").read_text()) > len(before)


@pytest.mark.anyio
async def test_the_exported_checkpoint_loads_and_its_voices_differ(work: Work) -> None:
    folder = work.folder / "pocket"
    voices = [Voice.load(folder / "voices" / f"{speaker.name}.safetensors") for speaker in SPEAKERS]
    assert not np.allclose(voices[0].conditioning.speaker, voices[1].conditioning.speaker)
    async with TTS.load(folder, device="cpu") as tts:
        assert tts.config.trained
        chunk = await tts.say("hello.", "male", seed=0)
        assert chunk.sample_rate == 24_000


def test_what_is_stored_is_the_network_in_half_precision(work: Work) -> None:
    from cf_agents.checkpoint import S3GEN_FILE, Checkpoint
    from cf_agents.models.hift import HiFT
    from training import hift

    trained = hift.load(work.folder / "adapt", work.config.hift)
    read = HiFT(work.config.hift)
    Checkpoint.open(work.folder / "pocket").fill(read, S3GEN_FILE, "mel2wav.")
    for (name, wanted), got in zip(trained.state_dict().items(), read.state_dict().values(), strict=True):
        assert torch.allclose(wanted, got, rtol=3e-3, atol=1e-4), name


def test_the_data_folder_is_kept(work: Work) -> None:
    index = work.folder / "data" / "train" / "index.json"
    before = index.stat().st_mtime_ns
    run("data", work)
    assert index.stat().st_mtime_ns == before
    assert len(Dataset(index.parent)) == 24
