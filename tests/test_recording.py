"""Which recordings are fit to be a voice, and what each other one is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from cf_agents.errors import AudioError, VoiceError
from cf_agents.recording import Recording
from tests.goldens.reference_signal import signal

RATE = 24000
SPEECH = signal("short", RATE)


def peak_to(peak: float, wave: NDArray[np.float32] = SPEECH) -> NDArray[np.float32]:
    return (wave * (peak / np.abs(wave).max())).astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_sane_speech_is_passed_on_untouched(scale: float) -> None:
    wave = SPEECH * np.float32(scale)
    found = Recording.read(wave, RATE)
    assert np.array_equal(found.samples, wave)
    assert (found.sample_rate, found.source, found.gain_db) == (RATE, "", 0.0)
    assert found.seconds == pytest.approx(4.13)
    assert not found.samples.flags.writeable
    assert SPEECH.flags.writeable


def test_file_gives_its_name_and_rate(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "ann.flac", np.stack([SPEECH, 0.5 * SPEECH], axis=1), RATE)
    found = Recording.read(tmp_path / "ann.flac")
    assert (found.source, found.sample_rate) == ("ann.flac", RATE)
    np.testing.assert_allclose(found.samples, 0.75 * SPEECH, atol=1e-4)
    with open(tmp_path / "ann.flac", "rb") as file:
        assert np.array_equal(Recording.read(file).samples, found.samples)


def test_a_long_recording_is_cut_at_one_minute(tmp_path: Path) -> None:
    wave = np.tile(signal("long", 8000), 6)
    soundfile.write(tmp_path / "long.wav", wave, 8000)
    assert Recording.read(tmp_path / "long.wav").seconds == 60.0
    assert Recording.read(wave, 8000).seconds == 60.0


def test_quiet_speech_is_raised_to_the_usual_level() -> None:
    quiet = SPEECH * np.float32(0.05)
    found = Recording.read(quiet, RATE)
    assert found.gain_db > 10
    np.testing.assert_allclose(found.samples, quiet * 10 ** (found.gain_db / 20), rtol=1e-5)
    again = Recording.read(found.samples, RATE)
    assert again.gain_db == 0.0


def test_raising_never_clips() -> None:
    quiet = SPEECH * np.float32(0.05)
    quiet[50000] = 0.5
    found = Recording.read(quiet, RATE)
    assert 0 < found.gain_db < 6
    assert np.abs(found.samples).max() == pytest.approx(0.95, abs=1e-3)


def test_full_scale_peaks_are_not_clipping() -> None:
    assert Recording.read(peak_to(1.0), RATE).gain_db == 0.0


def test_clipped_speech_is_refused_in_either_channel() -> None:
    clipped = np.clip(peak_to(3.0), -1, 1)
    with pytest.raises(VoiceError, match=r"clipped: \d+\.\d\d% of its samples .* Record again with a lower gain"):
        Recording.read(clipped, RATE)
    with pytest.raises(VoiceError, match="clipped"):
        Recording.read(np.stack([SPEECH, clipped], axis=1), RATE)


def with_runs(length: int, every: int) -> NDArray[np.float32]:
    wave = SPEECH.copy()
    for offset in range(length):
        wave[offset::every] = 1.0
    return wave


def test_only_runs_at_full_scale_count_as_clipping() -> None:
    Recording.read(with_runs(2, 100), RATE)
    Recording.read(with_runs(3, 4000), RATE)
    with pytest.raises(VoiceError, match=r"clipped: 0\.30% of its samples"):
        Recording.read(with_runs(3, 1000), RATE)


def padded(silence_s: float, level: float = 1e-4) -> NDArray[np.float32]:
    silence = level * np.sin(np.arange(round(silence_s * RATE)))
    return np.concatenate([SPEECH[RATE : 2 * RATE], silence.astype(np.float32)])


@pytest.mark.parametrize(
    ("wave", "rate", "message"),
    [
        (SPEECH[: round(2.99 * RATE)], RATE, r"lasts 2\.99 s; give at least 3 s"),
        (np.zeros(4 * RATE, np.float32), RATE, r"silent: its loudest part is at -200 dBFS"),
        (SPEECH * np.float32(1e-3), RATE, r"silent: its loudest part is at -\d+ dBFS"),
        (padded(6.0), RATE, r"mostly silent: \d+% of its first 7\.0 s"),
        (padded(30.0), RATE, r"mostly silent: 10% of its first 10\.0 s .* Cut out the pauses"),
        (SPEECH * np.float32(0.02), RATE, r"too quiet: its speech is at -5\d dBFS"),
        (np.where(np.arange(SPEECH.size) == 7, np.nan, SPEECH), RATE, r"1 of 99120 samples are not finite"),
        (np.where(np.arange(SPEECH.size) == 7, np.inf, SPEECH), RATE, r"1 of 99120 samples are not finite"),
        (SPEECH * np.float32(32768), RATE, r"reach \d+.*; scale them to -1\.\.1"),
        ((SPEECH * 32767).astype(np.int16), RATE, r"int16; give floats"),
        (SPEECH, None, "without a sample rate"),
        (SPEECH, 4000, "4000 Hz"),
        (np.stack([SPEECH] * 2), RATE, r"shape \(2, 99120\)"),
    ],
)
def test_refusals_say_what_was_measured(wave: NDArray, rate: int | None, message: str) -> None:
    with pytest.raises(VoiceError, match=message):
        Recording.read(wave, rate)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no audio file"):
        Recording.read(tmp_path / "gone.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), RATE)
    with pytest.raises(VoiceError, match=r"lasts 0\.00 s"):
        Recording.read(tmp_path / "empty.wav")
    with pytest.raises(VoiceError, match="leave sample_rate out"):
        Recording.read(tmp_path / "empty.wav", RATE)
