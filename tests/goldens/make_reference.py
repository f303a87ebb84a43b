"""Make reference.npz: what the published package (chatterbox-tts 0.1.7, tiny networks, drawn weights) makes of two signals.

Run in an environment that has that package: `python tests/goldens/make_reference.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from peer import small_s3gen, without_init

without_init("chatterbox")

import torch
from chatterbox.models.s3gen.xvector import Kaldi
from chatterbox.models.voice_encoder import VoiceEncoder
from chatterbox.models.voice_encoder.config import VoiceEncConfig
from chatterbox.models.voice_encoder.melspec import melspectrogram
from librosa.effects import trim
from librosa.filters import mel as librosa_mel
from reference_signal import SIGNALS, signal

from cf_agents.synthetic import draw

torch.set_num_threads(1)
# Constants that the package computes when a file leaves them out, as it does here.
COMPUTED = ("tokenizer._mel_filters", "tokenizer.window")


def fill(module: torch.nn.Module, prefix: str) -> None:
    state = module.state_dict()
    drawn = {
        name: torch.from_numpy(draw(prefix + name, tuple(value.shape))).to(value.dtype)
        for name, value in state.items()
        if prefix + name not in COMPUTED
    }
    module.load_state_dict({**state, **drawn})
    module.eval()


def main() -> None:
    s3gen = small_s3gen()
    encoder = VoiceEncoder()
    fill(encoder, "")
    fill(s3gen.speaker_encoder, "speaker_encoder.")
    fill(s3gen.tokenizer, "tokenizer.")
    s3gen.eval()
    out: dict[str, np.ndarray] = {
        "filters_flow": librosa_mel(sr=24000, n_fft=1920, n_mels=80, fmin=0, fmax=8000),
        "filters_speaker": librosa_mel(sr=16000, n_fft=400, n_mels=40, fmin=0, fmax=8000),
        "filters_tokenizer": librosa_mel(sr=16000, n_fft=400, n_mels=128),
    }
    for name in SIGNALS:
        at_24k, at_16k = signal(name, 24000), signal(name, 16000)
        with torch.inference_mode():
            found = s3gen.embed_ref(at_24k[:240000], 24000, device="cpu")
            tokens, _ = s3gen.tokenizer.forward([at_16k[:96000]], max_len=150)
            speaker = encoder.embeds_from_wavs([at_16k], sample_rate=16000).mean(axis=0)
            trimmed, bounds = trim(at_16k, top_db=20)
            wave = torch.from_numpy(at_16k)
            fbank = Kaldi.fbank(wave[None], num_mel_bins=80)
            log_mel = s3gen.tokenizer.log_mel_spectrogram(wave[None])[0].T
        out |= {
            f"{name}_speaker": speaker,
            f"{name}_prompt_tokens": tokens[0].numpy().astype(np.int16),
            f"{name}_flow_tokens": found["prompt_token"][0].numpy().astype(np.int16),
            f"{name}_xvector": found["embedding"][0].numpy(),
            f"{name}_trim": np.asarray(bounds),
            f"{name}_frames": np.array([found["prompt_feat"].shape[1], fbank.shape[0], log_mel.shape[0]]),
            # Every 16th frame and the last few are enough to see a wrong feature.
            f"{name}_flow_mel": _some(found["prompt_feat"][0].numpy()),
            f"{name}_fbank": _some(fbank.numpy()),
            f"{name}_tokenizer_mel": _some(log_mel.numpy()),
            f"{name}_speaker_mel": _some(melspectrogram(trimmed, VoiceEncConfig()).T),
        }
        print(name, {key: value.shape for key, value in out.items() if key.startswith(name)})
    np.savez_compressed(HERE / "reference.npz", **out)


def _some(frames: np.ndarray) -> np.ndarray:
    return np.concatenate([frames[::16], frames[-3:]]).astype(np.float32)


if __name__ == "__main__":
    main()
