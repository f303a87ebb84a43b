"""Writes `t3.npz`: what the published decoder computes and decides, small, with weights drawn by name.

Run in an environment that has chatterbox-flash 0.1.0 over chatterbox-tts 0.1.7 (its torch back-end, transformers 5.2):

    python tests/goldens/make_t3.py

The package runs unmodified; names it looks up at call time are wrapped to record every step's logits, samples, noise and
decision. Every `STRIDE`-th logit is kept, with the log-sum of all.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from peer import without_init

from cf_agents.synthetic import draw

STRIDE = 331
SETTINGS: dict[str, dict[str, object]] = {
    "released": {"cfg_scale": 1.0, "num_steps": 10, "temperature": 0.6, "time_shift_tau": 0.1, "block": 16, "length": 70},
    "paper": {"cfg_scale": 1.0, "num_steps": 8, "temperature": 0.2, "time_shift_tau": 0.5, "block": 16, "length": 64},
    "plain": {"cfg_scale": 0.0, "num_steps": 4, "temperature": 0.6, "time_shift_tau": 0.0, "block": 16, "length": 40},
    "early": {"cfg_scale": 0.0, "num_steps": 10, "temperature": 0.6, "time_shift_tau": 1.0, "block": 16, "length": 57},
    "wide": {"cfg_scale": 1.0, "num_steps": 8, "temperature": 0.6, "time_shift_tau": 0.5, "block": 32, "length": 80},
    "greedy": {"cfg_scale": 1.0, "num_steps": 4, "temperature": 0.0, "time_shift_tau": 1.0, "block": 16, "length": 48},
    "marginal": {"cfg_scale": 1.0, "num_steps": 8, "temperature": 0.6, "time_shift_tau": 0.1, "block": 16, "length": 33},
}
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
}


def build(block: int):
    import chatterbox.models.t3.modules.cond_enc as cond_enc
    import torch
    from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
    from chatterbox.models.t3.modules.perceiver import Perceiver
    from chatterbox.models.t3.modules.t3_config import T3Config
    from chatterbox_flash.model import ChatterboxFlashT3

    LLAMA_CONFIGS["small"] = {**copy.deepcopy(LLAMA_CONFIGS["Llama_520M"]), **SIZES}
    sizes = T3Config.english_only()
    sizes.llama_config_name, sizes.max_text_tokens, sizes.max_speech_tokens = "small", 256, 256
    width = SIZES["hidden_size"]
    cond_enc.Perceiver = lambda: Perceiver(32, width, width, 4)
    model = ChatterboxFlashT3(sizes, drf_block_size=block)
    model.load_state_dict({name: torch.from_numpy(draw(name, tuple(v.shape))) for name, v in model.state_dict().items()})
    return model.eval()


def record(name: str) -> dict[str, np.ndarray]:
    import chatterbox_flash.model as peer
    import torch
    from chatterbox.models.t3.modules.cond_enc import T3Cond

    setting = SETTINGS[name]
    seed = sorted(SETTINGS).index(name)
    random = np.random.RandomState(100 + seed)
    text = np.array([[255, *random.randint(3, 200, 18 + 7 * seed), 0]])
    speaker = random.standard_normal(256).astype(np.float32)
    prompt = random.randint(0, 6561, 150 if seed % 2 else 90)
    model = build(int(setting["block"]))  # type: ignore[call-overload]
    kept: dict[str, list[np.ndarray]] = {}
    now: dict[str, torch.Tensor] = {}

    def keep(key: str, value: torch.Tensor) -> None:
        kept.setdefault(key, []).append(value.detach().numpy().copy())

    def keep_logits(key: str, logits: torch.Tensor) -> None:
        keep(key, torch.cat([logits[:, ::STRIDE], logits.logsumexp(-1, keepdim=True)], -1))

    original = {
        each: getattr(peer, each)
        for each in (
            "_pmi_count_early_step_unmask",
            "apply_zero_text_cfg_from_logits",
            "_sample_at_temperature",
            "_gumbel_sample",
        )
    }

    def guided(conditional, null, weight):
        now["c"], now["u"] = conditional[0], null[0]
        return original["apply_zero_text_cfg_from_logits"](conditional, null, weight)

    def sampled(logits, temperature, **more):
        now["sampled"] = original["_sample_at_temperature"](logits, temperature, **more)
        return now["sampled"]

    def gumbel(logits, temperature):
        noise = original["_gumbel_sample"](logits, temperature)
        if logits.ndim == 1:
            now["noise"] = noise
        return noise

    def step(logits, tokens, **more):
        before = tokens.clone()
        result = original["_pmi_count_early_step_unmask"](logits, tokens, **more)
        keep("step", torch.tensor(more["k"]))
        keep("before", before)
        keep("after", result["xt_step"])
        keep("sampled", now.pop("sampled", logits.argmax(-1)))
        keep("noise", now.pop("noise", torch.zeros(len(before))))
        keep_logits("logits_c", now.pop("c", logits))
        if "u" in now:
            keep_logits("logits_u", now.pop("u"))
        if more["prior_override_v"] is not None:
            kept["prior"] = [more["prior_override_v"].numpy().copy()]
        return result

    wrapped = {
        "_pmi_count_early_step_unmask": step,
        "apply_zero_text_cfg_from_logits": guided,
        "_sample_at_temperature": sampled,
        "_gumbel_sample": gumbel,
    }
    for each, function in wrapped.items():
        setattr(peer, each, function)
    torch.manual_seed(seed)
    try:
        final = model.generate(
            t3_cond=T3Cond(
                speaker_emb=torch.from_numpy(speaker)[None],
                cond_prompt_speech_tokens=torch.from_numpy(prompt)[None],
                emotion_adv=(0.3 + 0.1 * seed) * torch.ones(1, 1, 1),
            ),
            text_tokens=torch.from_numpy(text),
            text_token_lens=torch.tensor([text.shape[1]]),
            total_speech_len=setting["length"],
            position_temperature=0.0 if name == "greedy" else 5.0,
            pmi_uncond_prior_precompute=name != "marginal",
            backend="torch",
            **{key: setting[key] for key in ("cfg_scale", "num_steps", "temperature", "time_shift_tau")},
        )
    finally:
        for each, function in original.items():
            setattr(peer, each, function)
    width = int(setting["block"])  # type: ignore[call-overload]

    def pad(value: np.ndarray) -> np.ndarray:
        if value.ndim == 0 or len(value) == width:
            return value
        fill = -1 if value.dtype == np.int64 else 0
        return np.pad(value, [(0, width - len(value))] + [(0, 0)] * (value.ndim - 1), constant_values=fill)

    out = {key: values[0] if key == "prior" else np.stack([pad(value) for value in values]) for key, values in kept.items()}
    return out | {"final": final[0].numpy(), "text": text[0], "speaker": speaker, "prompt": prompt}


def main() -> None:
    without_init("chatterbox")
    import torch

    torch.set_num_threads(1)
    out: dict[str, np.ndarray] = {"settings": np.array(json.dumps(SETTINGS)), "stride": np.array(STRIDE)}
    for name in SETTINGS:
        found = record(name)
        out |= {f"{name}/{key}": value.astype(np.int16) if value.dtype == np.int64 else value for key, value in found.items()}
        print(name, len(found["step"]), "steps", found["final"].shape, "tokens")
    np.savez_compressed(HERE / "t3.npz", **out)


main()
