"""Seeded random weights, drawn tensor by tensor from the tensor's name.

Two programs that agree on names and shapes get the same weights without sharing a file: parity goldens hold outputs only,
and a clone without a download has something in the released layout to run. Knows names, shapes and numpy; nothing of torch.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray


def draw(name: str, shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """Return float32 weights for the tensor `name` of `shape`; the same arguments always give the same array.

    `np.random.RandomState` is used because numpy guarantees its stream for ever. Scales keep a random network's activations
    finite and its outputs usable: speech logits of standard deviation near 2.3, special speech ids rare, F0 voiced.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    random = np.random.RandomState(np.frombuffer(digest[:16], dtype=np.uint32))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.float32)
    if leaf == "running_var":
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf == "running_mean":
        return (0.1 * random.standard_normal(shape)).astype(np.float32)
    if leaf == "alpha":
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf == "original0":
        return random.uniform(0.6, 1.0, shape).astype(np.float32)
    value = random.standard_normal(shape).astype(np.float32)
    if name.endswith("f0_predictor.classifier.bias"):
        return np.full(shape, 180.0, np.float32)
    if name.endswith("f0_predictor.classifier.weight"):
        return value
    if leaf == "bias" or leaf.startswith("bias_"):
        return 0.02 * value
    if len(shape) <= 1:
        return 1.0 + 0.05 * value
    if name.startswith("speech_head."):
        value *= 2.3 / math.sqrt(shape[1])
        value[CODEC_ROWS:] = 0.0
        return value
    if "emb" in name and len(shape) == 2 and "proj" not in name and "affine" not in name and "mixer" not in name:
        return 0.05 * value if "pos" in name else 0.5 * value
    gain = 0.3 if name.endswith(_RESIDUAL_OUTPUTS) else 1.0
    fan_in = int(np.prod(shape[1:]))
    return value * np.float32(gain / math.sqrt(fan_in))


CODEC_ROWS = 6561
_RESIDUAL_OUTPUTS = (
    "attn1.to_out.0.weight",
    "ff.net.2.weight",
    "o_proj.weight",
    "down_proj.weight",
    "linear_out.weight",
    "w_2.weight",
)
