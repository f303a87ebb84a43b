"""The remade set is the first utterances with another mel, in step with their waveforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.training.sets import tone_set
from tests.training.test_flow import SMALL_NET, TINY
from training.data import Dataset
from training.flow import plain, trainable
from training.remake import remake
from training.speaker import speaker_net


def test_only_the_mel_is_another(tmp_path: Path) -> None:
    (tmp_path / "tones").mkdir()
    tones = tone_set(tmp_path / "tones")
    torch.manual_seed(0)
    flow, net = plain(trainable(TINY)), speaker_net(tmp_path / "xvector.safetensors", tones, SMALL_NET)
    remake(tones, 4, flow, net, tmp_path / "made")
    made = Dataset(tmp_path / "made")
    assert len(made) == 4
    total = int(made.offsets[-1])
    assert made.offsets.tolist() == tones.offsets[:5].tolist()
    assert np.array_equal(made.wave(0, total), tones.wave(0, total))
    assert np.array_equal(made.tokens(0, total), tones.tokens(0, total))
    assert np.array_equal(made.heard(0, total), tones.heard(0, total))
    assert made.mel(0, total).shape == (2 * total, 80)
    assert np.isfinite(made.mel(0, total)).all()
    assert not np.allclose(made.mel(0, total), tones.mel(0, total), atol=0.5)
    before = (tmp_path / "made" / "mel.f16").read_bytes()
    remake(tones, 2, flow, net, tmp_path / "made")
    assert (tmp_path / "made" / "mel.f16").read_bytes() == before
