"""HiFT can be trained as it is: its loss falls, every weight is reached, and the batches are what the data set holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cf_agents.config import HiFTConfig
from cf_agents.models.hift import HiFT
from tests.training.sets import TONE_HZ, tone_set
from training import hift as stage
from training.data import Dataset
from training.losses import log_mel, spectral_distance
from training.pitch import MARGIN_SAMPLES, autocorrelation_f0

TINY = HiFTConfig(
    base_channels=16,
    upsample_rates=(8, 5),
    upsample_kernels=(16, 11),
    istft_fft=48,
    istft_hop=12,
    resblock_kernels=(3,),
    resblock_dilations=((1,),),
    source_kernels=(3, 3),
    source_dilations=((1,), (1,)),
    f0_channels=8,
)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tone_set(tmp_path_factory.mktemp("tones"))


@pytest.mark.parametrize("hz", [80.0, 117.3, 210.0, 333.0])
def test_f0_of_a_harmonic_tone(hz: float) -> None:
    samples = 10 * 480 + 2 * MARGIN_SAMPLES
    time = torch.arange(samples) / 24_000
    wave = sum((torch.sin(2 * torch.pi * hz * k * time + k) / k for k in range(1, 9)), torch.zeros(samples)) * 0.2
    f0 = autocorrelation_f0(torch.stack([wave, torch.zeros(samples)]))
    assert f0.shape == (2, 10)
    torch.testing.assert_close(f0[0], torch.full((10,), hz), rtol=0.01, atol=0.0)
    assert not f0[1].any()


def test_noise_is_unvoiced() -> None:
    wave = 0.1 * torch.randn(1, 40 * 480 + 2 * MARGIN_SAMPLES, generator=torch.Generator().manual_seed(0))
    assert (autocorrelation_f0(wave) > 0).float().mean() < 0.1


def test_distances_do_not_hear_phase_but_hear_level() -> None:
    time = torch.arange(24_000) / 24_000
    level = 0.3 * torch.hann_window(24_000)
    sine = (level * torch.sin(2 * torch.pi * 500 * time))[None]
    shifted = (level * torch.cos(2 * torch.pi * 500 * time))[None]
    assert 5 * float(spectral_distance(shifted, sine)) < float(spectral_distance(2 * sine, sine))
    assert log_mel(sine).shape == (1, 50, 80)


def test_batches_align_mel_wave_and_f0(tones: Dataset) -> None:
    batch = stage.HiFTBatches(tones, rows=6, tokens=8, seed=3).draw(5)
    again = stage.HiFTBatches(tones, rows=6, tokens=8, seed=3).draw(5)
    assert batch.mel.shape == (6, 80, 16)
    assert batch.wave.shape == (6, 16 * 480)
    assert torch.equal(batch.wave, again.wave)
    inner = slice(2, -2)
    torch.testing.assert_close(log_mel(batch.wave)[:, inner], batch.mel.transpose(1, 2)[:, inner], atol=0.05, rtol=0.0)
    voiced = batch.f0[batch.f0 > 0]
    assert len(voiced) > 0
    nearest = torch.tensor(TONE_HZ)[(voiced[:, None] - torch.tensor(TONE_HZ)).abs().argmin(1)]
    assert float(((voiced - nearest).abs() / nearest).median()) < 0.01


def test_some_batches_end_where_utterances_do(tones: Dataset) -> None:
    batches = stage.HiFTBatches(tones, rows=4, tokens=8, seed=0)
    ended = [batch for batch in map(batches.draw, range(60)) if batch.ended]
    assert 0 < len(ended) < 30
    ends = F.normalize(torch.stack([torch.from_numpy(tones.wave(int(stop) - 1, 1)) for stop in tones.offsets[1:]]), dim=1)
    for batch in ended:
        likeness = F.normalize(batch.wave[:, -960:], dim=1) @ ends.T
        torch.testing.assert_close(likeness.amax(1), torch.ones(4))
    assert len({round(float(row.square().mean()), 4) for batch in ended for row in batch.wave}) > len(ends)


def test_every_weight_is_reached_by_a_gradient(tones: Dataset) -> None:
    torch.manual_seed(0)
    hift = HiFT(TINY)
    stage.initialise(hift)
    batch = stage.HiFTBatches(tones, rows=2, tokens=8, seed=0).draw(0)
    torch.stack(list(stage.losses(hift, batch).values())).sum().backward()
    assert [name for name, weight in hift.named_parameters() if weight.grad is None or not weight.grad.any()] == []
    groups = stage.parameter_groups(hift, 1.0)
    grouped = [weight for group in groups for weight in group["params"]]  # pyright: ignore[reportGeneralTypeIssues]
    assert {id(weight) for weight in grouped} == {id(weight) for weight in hift.parameters()}
    assert len(grouped) == len(list(hift.parameters()))


def test_training_makes_the_loss_fall_and_goes_on(tones: Dataset, tmp_path: Path) -> None:
    first = stage.HiFTStage(steps=24, warm_up=4, rows=4, crop_tokens=8, learning_rate=3e-3, save_every=12)
    before = stage.evaluate(_fresh(), tones, 4)
    trained = stage.train([tones], tones, tmp_path, TINY, first)
    after = stage.evaluate(trained, tones, 4)
    assert after["mel"] < 0.8 * before["mel"]
    assert after["f0"] < before["f0"]
    resumed = stage.train([tones], tones, tmp_path, TINY, first)
    loaded = stage.load(tmp_path, TINY)
    for name, value in trained.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert (tmp_path / "log.csv").exists()
    further = stage.train([tones, tones], tones, tmp_path / "on", TINY, replace(first, steps=1), start=trained)
    moved = (further.conv_post.weight - trained.conv_post.weight).detach().abs().mean()
    assert 0 < float(moved) < 2e-3


def test_what_is_trained_is_what_is_decoded_with(tones: Dataset) -> None:
    hift = _fresh()
    number = int(np.argmax(tones.lengths))
    batch = stage.hift_batch(tones, [int(tones.offsets[number])], int(tones.lengths[number]), ended=True)
    made = stage.speak(hift, batch.mel, hift.f0_predictor(batch.mel))
    state = hift.open(0)
    streamed = hift.step([state], [batch.mel[0]], [True])[0]
    assert made.shape == (1, streamed.shape[0])
    # The same but for the random excitation, which the spectrum hardly hears.
    ours, theirs = log_mel(made.detach())[0, 3:], log_mel(streamed[None])[0, 3:]
    assert float((ours - theirs).abs().mean()) < 0.5


def _fresh() -> HiFT:
    torch.manual_seed(0)
    hift = HiFT(TINY)
    stage.initialise(hift)
    return hift
