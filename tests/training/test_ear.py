"""The network that the flow learns from: what it hears, and what it minds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.sets import tone_set
from training import ear
from training.data import Dataset
from training.ear import EarStage
from training.recogniser import Recogniser

STAGE = EarStage(steps=40, rows=6, tokens=12, width=16)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tone_set(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def folder(tones: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ear")
    ear.train(tones, folder, STAGE)
    return folder


@pytest.fixture(scope="module")
def listener(folder: Path) -> Recogniser:
    return ear.load(folder, STAGE)


def _mel(data: Dataset, utterance: int = 0) -> torch.Tensor:
    """[1, T, M]"""
    return torch.from_numpy(data.mel(int(data.offsets[utterance]), 12))[None]


def test_it_hears_the_phone_of_each_frame(tones: Dataset, listener: Recogniser) -> None:
    named = listener(_mel(tones).transpose(1, 2)).argmax(1)[0].numpy()
    assert np.mean(named == tones.phones(0, 12)) > 0.8


def test_nothing_to_load_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run that stage first"):
        ear.load(tmp_path, STAGE)


def test_what_sounds_alike_is_near_and_another_phone_is_far(tones: Dataset, listener: Recogniser) -> None:
    true = _mel(tones)
    even = torch.full(true.shape[:2], 1 / true.shape[1])
    assert float(ear.distance(listener, true, true, even)) == pytest.approx(0.0, abs=1e-5)
    phones = tones.phones(0, 12)
    here, there = (int(np.flatnonzero(phones == phone)[2]) for phone in np.unique(phones)[:2])
    other, louder = true.clone(), true.clone()
    other[0, here - 1 : here + 2] = true[0, there - 1 : there + 2]
    # As much off in the mean of the mel, and no other phone.
    louder += (other - true).abs().mean()
    assert float(ear.distance(listener, other, true, even)) > 1.5 * float(ear.distance(listener, louder, true, even))


def test_frames_of_no_weight_do_not_count(tones: Dataset, listener: Recogniser) -> None:
    true = _mel(tones)
    made = true.clone()
    made[:, -2:] += 3.0
    first = torch.zeros(true.shape[:2])
    first[:, 0] = 1.0
    assert float(ear.distance(listener, made, true, first)) == pytest.approx(0.0, abs=1e-5)
    assert float(ear.distance(listener, made, true, first.flip(1))) > 0.1


def test_it_teaches_and_does_not_learn(tones: Dataset, listener: Recogniser) -> None:
    true = _mel(tones)
    made = (true + 0.5 * torch.randn(true.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    ear.distance(listener, made, true, torch.full(true.shape[:2], 1 / true.shape[1])).backward()
    assert made.grad is not None
    assert bool(made.grad.any(2).all()), "every frame is told"
    assert all(weight.grad is None for weight in listener.parameters())
