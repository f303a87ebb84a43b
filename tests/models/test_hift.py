"""HiFT against the published network, and in pieces against itself in one piece."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cf_agents.config import HOP_SAMPLES, SAMPLE_RATE, HiFTConfig
from cf_agents.errors import ConfigError
from cf_agents.models import stft as stft_module
from cf_agents.models.hift import FADE_SAMPLES, HiFT, HiFTState, Window, fade_in
from cf_agents.models.source import F0_UNITS, HarmonicSource
from cf_agents.models.stft import centre, istft, stft
from cf_agents.synthetic import draw
from tests.drawn import load_drawn

GOLDENS = Path(__file__).parents[1] / "goldens"
TINY = HiFTConfig(base_channels=64, f0_channels=64)
FRAMES = 40
HARMONICS = 9
CYCLE = SAMPLE_RATE * F0_UNITS


def tiny(left: int = TINY.left_frames, right: int = TINY.right_frames) -> HiFT:
    net = HiFT(dataclasses.replace(TINY, left_frames=left, right_frames=right))
    load_drawn(net, "mel2wav.")
    return net


def lively(left: int = TINY.left_frames, right: int = TINY.right_frames) -> HiFT:
    """F0 moves over 100 Hz from frame to frame, so a phase or a look-ahead that is wrong is heard."""
    net = tiny(left, right)
    net.f0_predictor.classifier.weight.mul_(10)
    return net


@pytest.fixture(scope="module")
def net() -> HiFT:
    return lively()


def draw_mel(name: str, frames: int) -> Tensor:
    """White: every frame is news, which is the hardest case for a window."""
    return torch.from_numpy(2.0 * draw(name, (80, frames)) - 5.0)


def speak(net: HiFT, mel: Tensor, chunks: Sequence[int], seed: int = 3) -> list[Tensor]:
    assert sum(chunks) == mel.shape[1]
    state, out, done = net.open(seed), [], 0
    for i, chunk in enumerate(chunks):
        out += net.step([state], [mel[:, done : done + chunk]], [i == len(chunks) - 1])
        done += chunk
    return out


def chunking(seed: int, total: int, smallest: int, largest: int) -> list[int]:
    random, sizes = np.random.RandomState(seed), []
    while sum(sizes) < total:
        sizes.append(min(int(random.randint(smallest, largest + 1)), total - sum(sizes)))
    return sizes


def decibel(got: Tensor, wanted: Tensor) -> float:
    return float(20 * torch.log10((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()))


# --- the published network


def mixed(source: HarmonicSource, noise: Tensor) -> Tensor:
    """What one noise has to be to stand for each harmonic's own, [N, H, S] to [N, S]: their weighted sum, of variance 1."""
    weight = source.l_linear.weight.detach()
    return (weight @ noise / weight.norm())[:, 0]


def test_parity_with_the_published_network() -> None:
    golden, net = np.load(GOLDENS / "hift.npz"), tiny()
    mel = draw_mel("hift.mel", FRAMES)[None]
    noise = torch.from_numpy(draw("hift.noise", (HARMONICS, FRAMES * HOP_SAMPLES)))[None]
    with torch.inference_mode():
        f0 = net.f0_predictor(mel)
        offsets = torch.from_numpy(golden["offsets"])[None]
        source, _ = net.m_source(f0, torch.zeros(1, dtype=torch.int64), offsets, mixed(net.m_source, noise))
        wave = net.decode(mel, list(source), [Window(FRAMES, 0, FRAMES)])[0]
    for name, got in (("f0", f0[0]), ("source", source[0]), ("wave", wave)):
        wanted = golden[name]
        assert got.shape == wanted.shape
        assert np.abs(got.numpy() - wanted).max() < 1e-4 * (wanted.max() - wanted.min()), name


def test_source_parity_across_the_voicing_threshold() -> None:
    golden, net = np.load(GOLDENS / "hift.npz"), tiny()
    f0 = torch.from_numpy(golden["step_f0"])[None]
    noise = torch.from_numpy(draw("hift.step_noise", (HARMONICS, f0.shape[1] * HOP_SAMPLES)))[None]
    offsets = torch.from_numpy(golden["offsets"])[None]
    source, _ = net.m_source(f0, torch.zeros(1, dtype=torch.int64), offsets, mixed(net.m_source, noise))
    assert np.abs(source[0].detach().numpy() - golden["step_source"]).max() < 1e-5


def test_transforms_equal_torch() -> None:
    signal = torch.from_numpy(draw("stft.signal", (1, 480)))
    window = torch.hann_window(16)
    wanted = torch.stft(signal, 16, 4, window=window, return_complex=True)
    got = stft(centre(signal[0], 16)[None], 16, 4)
    torch.testing.assert_close(got, torch.cat([wanted.real, wanted.imag], 1), atol=1e-5, rtol=0)
    magnitude, phase = torch.from_numpy(draw("stft.m", (2, 9, 121))).exp(), torch.from_numpy(draw("stft.p", (2, 9, 121)))
    wanted = torch.istft(torch.polar(magnitude, phase), 16, 4, window=window)
    torch.testing.assert_close(istft(magnitude, phase, 16, 4), wanted, atol=1e-5, rtol=0)
    mask = torch.ones(2, 1, 121)
    mask[1, :, 61:] = 0
    alone = torch.istft(torch.polar(magnitude[1:, :, :61], phase[1:, :, :61]), 16, 4, window=window)
    torch.testing.assert_close(istft(magnitude, phase, 16, 4, mask)[1:, :240], alone, atol=1e-5, rtol=0)


# --- the phase


def make_source() -> HarmonicSource:
    source = HarmonicSource(8, 0.1, 0.003, 10.0, SAMPLE_RATE, HOP_SAMPLES)
    load_drawn(source, "mel2wav.m_source.")
    return source


def test_phase_of_thirty_seconds_in_pieces_is_the_same_number() -> None:
    source, frames = make_source(), 1500
    f0 = torch.from_numpy(180.0 + 60.0 * draw("phase.f0", (1, frames))).abs()
    start, offsets, noise = (
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, HARMONICS),
        torch.zeros(1, frames * HOP_SAMPLES),
    )
    whole, phases = source(f0, start, offsets, noise)
    phase, done, pieces = start, 0, []
    for count in chunking(5, frames, 1, 60):
        made, inside = source(f0[:, done : done + count], phase, offsets, noise[:, : count * HOP_SAMPLES])
        phase, done = inside[:, -1], done + count
        pieces.append(made)
    assert torch.equal(phase, phases[:, -1])
    assert torch.equal(torch.cat(pieces, 1), whole)
    exact = (f0.double().numpy().astype(np.longdouble).sum() * HOP_SAMPLES / SAMPLE_RATE) % 1
    drift = abs(float(phase) / CYCLE - float(exact))
    assert min(drift, 1 - drift) < 1e-9


def test_a_steady_tone_is_periodic_across_seams_after_thirty_seconds() -> None:
    source, period, frames = make_source(), SAMPLE_RATE // 200, 7
    phase = torch.zeros(1, dtype=torch.int64)
    offsets, noise = torch.zeros(1, HARMONICS), torch.zeros(1, frames * HOP_SAMPLES)
    pieces = []
    for _ in range(1500 // frames):
        made, phases = source(torch.full((1, frames), 200.0), phase, offsets, noise)
        phase = phases[:, -1]
        pieces.append(made[0])
    tone = torch.cat(pieces)
    assert (tone[-period:] - tone[:period]).abs().max() < 1e-6
    assert (tone[period:] - tone[:-period]).abs().max() < 1e-6


# --- chunks equal the whole


@pytest.mark.parametrize("seed", range(4))
def test_chunks_equal_the_whole_within_70_decibel(net: HiFT, seed: int) -> None:
    mel = draw_mel(f"mel.{seed}", 150)
    whole = speak(net, mel, [150])[0]
    pieces = torch.cat(speak(net, mel, chunking(seed, 150, 16, 48)))
    assert pieces.shape == whole.shape == (150 * HOP_SAMPLES,)
    assert decibel(pieces, whole) < -70
    assert (pieces - whole).abs().max() < 4e-3


@pytest.mark.parametrize("seed", range(2))
def test_the_smallest_chunks_stay_within_60_decibel(net: HiFT, seed: int) -> None:
    mel = draw_mel(f"mel.{seed}", 60)
    whole = speak(net, mel, [60])[0]
    assert decibel(torch.cat(speak(net, mel, chunking(seed, 60, 1, 3))), whole) < -60


def test_the_window_is_the_only_difference() -> None:
    """A window past the network's reach gives the whole, to rounding: F0, phase, noise and fade go on exactly."""
    net = lively(left=20, right=20)
    mel = draw_mel("mel.0", 130)
    whole = speak(net, mel, [130])[0]
    assert (torch.cat(speak(net, mel, chunking(1, 130, 1, 40))) - whole).abs().max() < 1e-4
    assert (torch.cat(speak(net, mel, chunking(2, 130, 1, 40))) - whole).abs().max() < 1e-4


def test_narrowing_the_later_stages_changes_nothing() -> None:
    """In float64, where a reach that is a sample short shows."""
    net = tiny().double()
    mel = draw_mel("mel.0", 48)[None].double()
    source = [torch.from_numpy(0.1 * draw("narrow.source", (48 * HOP_SAMPLES,))).double()]
    with torch.inference_mode():
        whole = net.decode(mel, source, [Window(48, 0, 48)])[0]
        for start, stop in ((0, 20), (10, 38), (25, 26), (30, 48)):
            part = net.decode(mel, source, [Window(48, start, stop)])[0]
            torch.testing.assert_close(part, whole[start * HOP_SAMPLES : stop * HOP_SAMPLES], atol=1e-13, rtol=0)


def test_seams_do_not_click(net: HiFT) -> None:
    mel = draw_mel("mel.seams", 400)
    pieces = speak(net, mel, [16] * 25)
    jumps = torch.cat(pieces).diff().abs()
    seams = torch.tensor([piece.shape[0] for piece in pieces]).cumsum(0)[:-1]
    seams = seams[seams > 0] - 1
    inside = jumps.clone()
    inside[seams] = 0
    assert len(seams) > 20
    assert jumps[seams].max() < np.quantile(inside.numpy(), 0.999)


def test_first_audio_leaves_as_early_as_the_right_context_allows(net: HiFT) -> None:
    right, state = net.config.right_frames, net.open(0)
    mel = draw_mel("mel.0", right + 3)
    assert net.step([state], [mel[:, :right]], [False])[0].shape == (0,)
    assert net.step([state], [mel[:, right : right + 1]], [False])[0].shape == (HOP_SAMPLES,)
    assert net.step([state], [mel[:, right + 1 :]], [False])[0].shape == (2 * HOP_SAMPLES,)
    assert state.held_samples == right * HOP_SAMPLES
    assert net.step([state], [mel[:, :0]], [True])[0].shape == (right * HOP_SAMPLES,)
    assert state.held_samples == 0


def test_the_fade_is_the_utterances_and_not_the_chunks(net: HiFT) -> None:
    mel = draw_mel("mel.0", 60)
    for chunks in ([60], [11, 49], [11, 1, 48], [30, 30]):
        audio = torch.cat(speak(net, mel, chunks))
        assert audio[:FADE_SAMPLES].abs().max() == 0
        assert audio[2 * FADE_SAMPLES :].abs().max() > 0.1
    ramp = fade_in(torch.ones(3 * FADE_SAMPLES), 0)
    assert ramp[FADE_SAMPLES] == 0
    assert ramp[2 * FADE_SAMPLES - 1] == 1
    assert ramp[2 * FADE_SAMPLES - 240].item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(fade_in(torch.ones(700), 500), ramp[500:1200])


@pytest.mark.parametrize("frames", [0, 1, 2, 9, 10, 11])
def test_short_utterances_are_whole(net: HiFT, frames: int) -> None:
    mel = draw_mel("mel.0", 11)[:, :frames]
    assert sum(piece.shape[0] for piece in speak(net, mel, [frames])) == frames * HOP_SAMPLES
    assert sum(piece.shape[0] for piece in speak(net, mel, [1] * frames + [0])) == frames * HOP_SAMPLES


# --- batches


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-7)])
def test_a_row_in_any_batch_equals_the_row_alone(dtype: torch.dtype, bound: float) -> None:
    """Rows open, speak and end at different steps, so windows differ in start, width and end.

    In float32 the rounding of F0 adds up in the phase; float64 shows that nothing else is there.
    """
    net = tiny().to(dtype)
    plans = [[26, 32, 32, 7], [0, 26, 32, 32], [5, 5, 30, 0], [11, 0, 1, 40], [0, 3], [33, 32, 31, 30]]
    mels = [draw_mel(f"batch.{i}", sum(plan)) for i, plan in enumerate(plans)]
    alone = [speak(net, mel, plan, seed=i) for i, (mel, plan) in enumerate(zip(mels, plans, strict=True))]
    states: list[HiFTState] = [net.open(i) for i in range(len(plans))]
    done = [0] * len(plans)
    for step in range(max(len(plan) for plan in plans)):
        rows = [i for i, plan in enumerate(plans) if step < len(plan)][:: 1 if step % 2 else -1]
        news = [mels[i][:, done[i] : done[i] + plans[i][step]] for i in rows]
        got = net.step([states[i] for i in rows], news, [step == len(plans[i]) - 1 for i in rows])
        for i, pcm in zip(rows, got, strict=True):
            done[i] += plans[i][step]
            torch.testing.assert_close(pcm, alone[i][step], atol=bound, rtol=0)


def test_seeds_differ_and_repeat(net: HiFT) -> None:
    mel = draw_mel("mel.0", 20)
    first, again, other = (speak(net, mel, [20], seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3


def test_a_state_does_not_grow(net: HiFT) -> None:
    states, sizes = [net.open(0), net.open(1)], []
    for i in range(12):
        mel = draw_mel(f"grow.{i}", 32)
        net.step(states, [mel, mel], [False, False])
        kept = (states[0].mel, states[0].source, states[0].phase, states[0].offsets)
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in kept), "a view keeps a batch alive"
        sizes.append(sum(part.nbytes for part in kept))
    assert len(set(sizes[1:])) == 1


def test_no_step_after_the_last(net: HiFT) -> None:
    state = net.open(0)
    net.step([state], [draw_mel("mel.0", 4)], [True])
    with pytest.raises(AssertionError, match="open a new one"):
        net.step([state], [draw_mel("mel.0", 4)], [False])


def test_a_window_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="left_frames"):
        HiFT(dataclasses.replace(TINY, left_frames=4, right_frames=4))
    with pytest.raises(ConfigError, match="480"):
        HiFT(dataclasses.replace(TINY, upsample_rates=(8, 5, 2)))


def test_what_is_kept_between_calls_can_be_trained_with_after_inference() -> None:
    wave = torch.randn(4800, requires_grad=True)
    for kept in (stft_module._analysis, stft_module._synthesis):
        kept.cache_clear()
    with torch.inference_mode():
        spectrum = stft(torch.randn(1, 4800), 16, 4)
        istft(spectrum[:, :9].exp(), spectrum[:, 9:], 16, 4)
    spectrum = stft(wave[None], 16, 4)
    istft(spectrum[:, :9].exp(), spectrum[:, 9:], 16, 4).sum().backward()
    assert wave.grad is not None
