"""Make flow.npz: what the published package computes from speech tokens to mel, at tiny sizes, with drawn weights and noise.

Runs where chatterbox-tts 0.1.7 is installed: `python make_flow.py`. Weights are drawn by tensor name, so the file holds inputs
and outputs only.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from peer import without_init

from cf_agents.synthetic import draw

PROMPT, GENERATED = 23, 37


def peer_flow() -> torch.nn.Module:
    """The package's flow at the sizes of `tests/models/test_flow.py`."""
    without_init("chatterbox")
    from chatterbox.models.s3gen.configs import CFM_PARAMS
    from chatterbox.models.s3gen.decoder import ConditionalDecoder
    from chatterbox.models.s3gen.flow import CausalMaskedDiffWithXvec
    from chatterbox.models.s3gen.flow_matching import CausalConditionalCFM
    from chatterbox.models.s3gen.transformer.upsample_encoder import UpsampleConformerEncoder

    encoder = UpsampleConformerEncoder(
        input_size=512,
        output_size=512,
        attention_heads=8,
        linear_units=256,
        num_blocks=2,
        input_layer="linear",
        pos_enc_layer_type="rel_pos_espnet",
        selfattention_layer_type="rel_selfattn",
    )
    estimator = ConditionalDecoder(
        channels=[64], n_blocks=1, num_mid_blocks=2, num_heads=2, attention_head_dim=32, meanflow=True
    )
    decoder = CausalConditionalCFM(spk_emb_dim=80, cfm_params=CFM_PARAMS, estimator=estimator)
    return CausalMaskedDiffWithXvec(encoder=encoder, decoder=decoder).eval()


def main() -> None:
    torch.set_num_threads(1)
    flow = peer_flow()
    state = {name: torch.from_numpy(draw("flow." + name, tuple(value.shape))) for name, value in flow.state_dict().items()}
    flow.load_state_dict(state)
    random = np.random.RandomState(7)
    tokens = random.randint(0, 6561, GENERATED)
    prompt_tokens = random.randint(0, 6561, PROMPT)
    prompt_mel = (2 * random.standard_normal((2 * PROMPT, 80)) - 6).astype(np.float32)
    speaker = random.standard_normal(192).astype(np.float32)
    noise = random.standard_normal((80, 2 * (PROMPT + GENERATED))).astype(np.float32)

    kept: dict[str, torch.Tensor] = {}
    solve = flow.decoder.basic_euler

    def with_noise(x: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        kept["mu"] = inputs["mu"]
        return solve(torch.from_numpy(noise)[None], **inputs)

    flow.decoder.basic_euler = with_noise
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        mel, _ = flow.inference(
            token=torch.from_numpy(tokens)[None],
            token_len=torch.tensor([GENERATED]),
            prompt_token=torch.from_numpy(prompt_tokens)[None],
            prompt_token_len=torch.tensor([PROMPT]),
            prompt_feat=torch.from_numpy(prompt_mel)[None],
            prompt_feat_len=None,
            embedding=torch.from_numpy(speaker)[None],
            finalize=True,
            n_timesteps=2,
            noised_mels=None,
            meanflow=True,
        )
    np.savez_compressed(
        HERE / "flow.npz",
        tokens=tokens.astype(np.int16),
        prompt_tokens=prompt_tokens.astype(np.int16),
        prompt_mel=prompt_mel,
        speaker=speaker,
        noise=noise,
        mu=kept["mu"][0].numpy(),
        mel=mel[0].numpy(),
    )


if __name__ == "__main__":
    main()
