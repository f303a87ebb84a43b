"""Writes `hift.npz`: the published package's HiFT at a small size, with weights drawn by tensor name.

Run in an environment that has chatterbox-tts 0.1.7: `python tests/goldens/make_hift.py`.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from peer import without_init

from cf_agents.synthetic import draw

PREFIX = "mel2wav."
FRAMES = 40
HARMONICS = 9
F0_STEPS = (0.0, 5.0, 9.9, 10.1, 95.5, 180.0, 333.25, 640.0)


def main() -> None:
    without_init("chatterbox")
    import chatterbox.models.s3gen.f0_predictor as predictor
    import chatterbox.models.s3gen.hifigan as hifigan
    import torch

    torch.set_num_threads(1)
    net = hifigan.HiFTGenerator(
        sampling_rate=24000,
        base_channels=64,
        upsample_rates=[8, 5, 3],
        upsample_kernel_sizes=[16, 11, 7],
        source_resblock_kernel_sizes=[7, 7, 11],
        source_resblock_dilation_sizes=[[1, 3, 5]] * 3,
        f0_predictor=predictor.ConvRNNF0Predictor(cond_channels=64),
    ).eval()
    net.load_state_dict({name: torch.from_numpy(draw(PREFIX + name, tuple(v.shape))) for name, v in net.state_dict().items()})

    offsets = np.pi * np.tanh(draw("hift.offsets", (HARMONICS, 1)))
    offsets[0] = 0.0
    offset = torch.from_numpy(offsets[:, 0])[None, :, None]

    class Injected:
        """Stands where the package draws its phases and noise."""

        def __init__(self, low: float = 0.0, high: float = 0.0) -> None:
            pass

        def sample(self, sample_shape: tuple[int, ...]) -> torch.Tensor:
            return offset.clone()

    noise = torch.empty(0)

    class Torch(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            return getattr(torch, name)

        def randn_like(self, like: torch.Tensor) -> torch.Tensor:
            return noise.clone() if like.shape == noise.shape else torch.zeros_like(like)

    vars(hifigan).update(Uniform=Injected, torch=Torch("torch"))
    out: dict[str, np.ndarray] = {"offsets": offsets[:, 0].astype(np.float32)}
    with torch.inference_mode():
        mel = torch.from_numpy(2.0 * draw("hift.mel", (80, FRAMES)) - 5.0)[None]
        noise = torch.from_numpy(draw("hift.noise", (HARMONICS, FRAMES * 480)))[None]
        out["f0"] = net.f0_predictor(mel)[0].numpy()
        wave, source = net.inference(speech_feat=mel)
        out["source"], out["wave"] = source[0, 0].numpy(), wave[0].numpy()
        steps = torch.tensor(F0_STEPS)[None]
        noise = torch.from_numpy(draw("hift.step_noise", (HARMONICS, len(F0_STEPS) * 480)))[None]
        made, _, _ = net.m_source(net.f0_upsamp(steps[:, None]).transpose(1, 2))
        out["step_f0"], out["step_source"] = steps[0].numpy(), made[0, :, 0].numpy()
    np.savez_compressed(HERE / "hift.npz", allow_pickle=False, **out)
    print(
        {name: value.shape for name, value in out.items()},
        "f0",
        out["f0"].min(),
        out["f0"].max(),
        "peak",
        abs(out["wave"]).max(),
    )


if __name__ == "__main__":
    main()
