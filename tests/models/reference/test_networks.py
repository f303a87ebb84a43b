"""The three networks against the published ones: names, shapes and outputs with the same drawn weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cf_agents.errors import VoiceError
from cf_agents.models.reference import SpeechTokenizer, VoiceEncoder, XVector
from cf_agents.models.reference.features import resample_sinc
from cf_agents.models.reference.voice_encoder import window_plan
from tests.drawn import load_drawn
from tests.goldens.reference_signal import SIGNALS, signal
from tests.models.reference.nets import tiny_reference

GOLDENS = Path(__file__).parents[2] / "goldens"
GOLDEN = np.load(GOLDENS / "reference.npz")


@pytest.mark.parametrize("name", SIGNALS)
def test_speaker_vector(name: str) -> None:
    speaker = tiny_reference().voice_encoder.embed(torch.from_numpy(signal(name, 16000))).numpy()
    wanted = GOLDEN[f"{name}_speaker"]
    assert speaker.shape == (256,)
    assert np.abs(speaker - wanted).max() <= 1e-4 * np.ptp(wanted)
    assert np.linalg.norm(speaker) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", SIGNALS)
def test_x_vector(name: str) -> None:
    wave = resample_sinc(torch.from_numpy(signal(name, 24000)[:240000]), 24000, 16000)
    xvector = tiny_reference().xvector.embed(wave).numpy()
    wanted = GOLDEN[f"{name}_xvector"]
    assert xvector.shape == (192,)
    assert np.abs(xvector - wanted).max() <= 1e-4 * np.ptp(wanted)


@pytest.mark.parametrize("name", SIGNALS)
def test_speech_tokens(name: str) -> None:
    tokens = tiny_reference().tokenizer.tokenize(torch.from_numpy(signal(name, 16000)[:96000]), 150)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == GOLDEN[f"{name}_prompt_tokens"].tolist()
    assert len(set(tokens.tolist())) > 40, "a golden of few ids would prove little"


def test_tokens_are_cut_to_the_budget() -> None:
    tokenizer = tiny_reference().tokenizer
    wave = torch.from_numpy(signal("short", 16000))
    assert tokenizer.tokenize(wave, 10).shape == (10,)
    assert tokenizer.tokenize(wave).shape == (104,)


def test_tokenizer_takes_thirty_seconds_and_no_more() -> None:
    tokenizer = tiny_reference().tokenizer
    wave = torch.from_numpy(signal("long", 16000)).repeat(3)
    assert tokenizer.tokenize(wave[: 30 * 16000]).shape == (750,)
    with pytest.raises(VoiceError, match=r"at most 30 s and was given 30\.1 s"):
        tokenizer.tokenize(wave[: 30 * 16000 + 1600])


@pytest.mark.parametrize(
    ("frames", "count"),
    # One window always; another starts every 77 frames and is kept when 128 of its 160 frames are real.
    [(1, 1), (160, 1), (204, 1), (205, 2), (237, 2), (281, 2), (282, 3)],
)
def test_windows_cover_what_is_there(frames: int, count: int) -> None:
    assert window_plan(frames) == (count, 77)


@pytest.mark.parametrize("part", ["voice_encoder", "xvector", "tokenizer"])
def test_weights_can_be_assigned_to_a_network_without_storage(part: str) -> None:
    known = {
        "voice_encoder": (tiny_reference().voice_encoder, ""),
        "xvector": (tiny_reference().xvector, "speaker_encoder."),
        "tokenizer": (tiny_reference().tokenizer, "tokenizer."),
    }
    model, prefix = known[part]
    with torch.device("meta"):
        empty = type(model)(model.config)
    load_drawn(empty, prefix)
    wave = torch.from_numpy(signal("short", 16000))
    if isinstance(empty, SpeechTokenizer):
        assert torch.equal(empty.tokenize(wave), tiny_reference().tokenizer.tokenize(wave))
    else:
        assert isinstance(empty, (VoiceEncoder, XVector))
        assert isinstance(model, (VoiceEncoder, XVector))
        assert torch.equal(empty.embed(wave), model.embed(wave))
    assert not empty.training
