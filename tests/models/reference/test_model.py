"""What a recording becomes: the released path step by step, and the seams between its parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cf_agents.audio import resample
from cf_agents.errors import VoiceError
from tests.goldens.reference_signal import SIGNALS, signal
from tests.models.reference.nets import tiny_reference

GOLDEN = np.load(Path(__file__).parents[2] / "goldens" / "reference.npz")


@pytest.mark.parametrize("name", SIGNALS)
def test_analysis_is_the_published_one(name: str) -> None:
    found = tiny_reference().analyse_resampled(signal(name, 24000), signal(name, 16000))
    assert found.prompt_tokens.tolist() == GOLDEN[f"{name}_prompt_tokens"].tolist()
    assert found.flow_tokens.tolist() == GOLDEN[f"{name}_flow_tokens"].tolist()
    for key, value in (("speaker", found.speaker), ("xvector", found.xvector)):
        wanted = GOLDEN[f"{name}_{key}"]
        assert np.abs(value - wanted).max() <= 1e-4 * np.ptp(wanted)
    mel = np.concatenate([found.flow_mel[::16], found.flow_mel[-3:]])
    np.testing.assert_allclose(mel, GOLDEN[f"{name}_flow_mel"], atol=1e-4)


def test_sixteen_kilohertz_comes_from_twenty_four() -> None:
    # The golden heard a 16 kHz signal made at 16 kHz; here it is resampled, and the speaker is the same to resampling error.
    found = tiny_reference().analyse(signal("short", 24000), 24000)
    wanted = GOLDEN["short_speaker"]
    assert np.abs(found.speaker - wanted).max() <= 1e-3 * np.ptp(wanted)
    assert (found.prompt_tokens == GOLDEN["short_prompt_tokens"]).mean() > 0.95
    assert found.flow_tokens.tolist() == GOLDEN["short_flow_tokens"].tolist()


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_another_sample_rate_gives_nearly_the_same(rate: int) -> None:
    model = tiny_reference()
    at_24k = model.analyse(signal("short", 24000), 24000)
    found = model.analyse(signal("short", rate), rate)
    assert abs(len(found.flow_tokens) - len(at_24k.flow_tokens)) <= 1
    assert float(found.speaker @ at_24k.speaker) > 0.999
    mel, other = found.flow_mel[50:-10, :40], at_24k.flow_mel[50:-10, :40]
    assert np.abs(mel[:140] - other[:140]).mean() < 0.02


@pytest.mark.parametrize("samples", [48000, 48000 + 479, 48000 + 480, 48000 + 959, 48000 + 960, 49601])
def test_mel_has_two_frames_for_every_token(samples: int) -> None:
    at_24k = signal("long", 24000)[:samples]
    found = tiny_reference().analyse_resampled(at_24k, resample(at_24k, 24000, 16000))
    assert len(found.flow_tokens) == samples // 960
    assert found.flow_mel.shape == (2 * len(found.flow_tokens), 80)


def test_prompts_are_six_and_ten_seconds_and_the_speaker_is_of_all() -> None:
    model = tiny_reference()
    wave = np.concatenate([signal("long", 24000), signal("short", 24000)])
    found, cut = model.analyse(wave, 24000), model.analyse(wave[: 10 * 24000], 24000)
    assert (len(found.prompt_tokens), len(found.flow_tokens)) == (150, 250)
    assert np.array_equal(found.flow_tokens, cut.flow_tokens)
    assert np.array_equal(found.xvector, cut.xvector)
    assert np.abs(found.speaker - cut.speaker).max() > 1e-3


def test_outputs_are_plain_arrays_of_the_stated_types() -> None:
    found = tiny_reference().analyse(signal("short", 24000), 24000)
    kinds = {
        name: str(getattr(found, name).dtype) for name in ("speaker", "prompt_tokens", "flow_tokens", "flow_mel", "xvector")
    }
    assert kinds == {
        "speaker": "float32",
        "prompt_tokens": "int64",
        "flow_tokens": "int64",
        "flow_mel": "float32",
        "xvector": "float32",
    }


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 48000), np.float32), "one channel"),
        (np.full(48000, np.nan, np.float32), "not finite"),
        (np.zeros(11999, np.float32), r"0\.50 s"),
    ],
)
def test_what_cannot_be_heard_is_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(VoiceError, match=message):
        tiny_reference().analyse(samples, 24000)
