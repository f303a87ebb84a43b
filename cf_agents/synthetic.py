"""Seeded random weights, drawn tensor by tensor from the tensor's name, and whole checkpoints of them.

Two programs that agree on names and shapes get the same weights without sharing a file: parity goldens hold outputs only,
and a clone without a download has something in the released layout to run. What such a model says is noise.
`draw` knows names, shapes and numpy only; `write_checkpoint` asks the networks for their layout.
"""

from __future__ import annotations

import hashlib
import json
import math
import string
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from cf_agents.config import (
    FlowConfig,
    HiFTConfig,
    ModelConfig,
    SpeechTokenizerConfig,
    T3Config,
    VoiceEncoderConfig,
    XVectorConfig,
)
from cf_agents.errors import ConfigError

TINY = ModelConfig(
    name="tiny-random",
    t3=T3Config(hidden_size=128, intermediate_size=256, num_layers=4, num_heads=4, head_dim=32),
    flow=FlowConfig(
        encoder_dim=64,
        encoder_heads=2,
        encoder_ffn=128,
        encoder_blocks=1,
        up_encoder_blocks=1,
        channels=64,
        estimator_heads=2,
        estimator_head_dim=32,
        blocks_per_stage=1,
        mid_stages=1,
    ),
    hift=HiFTConfig(base_channels=64, f0_channels=64),
    voice_encoder=VoiceEncoderConfig(hidden_size=64),
    xvector=XVectorConfig(growth_rate=4, init_channels=16, head_channels=8),
    speech_tokenizer=SpeechTokenizerConfig(width=128, heads=2, layers=1),
    trained=False,
)
"""The released shapes made small: every tensor is there, and a CPU speaks faster than real time."""


_BY_FREQUENCY = "etaoinsrhldcumfpgwybvkxjqz"


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


def write_checkpoint(
    folder: str | Path,
    config: ModelConfig = TINY,
    seed: int = 0,
    dtype: Literal["float32", "float16"] = "float16",
) -> Path:
    """Write a folder of drawn weights in the released layout, and return it.

    The same arguments write the same bytes. `config.json` says `trained: false`, whatever `config` says, so that whoever speaks
    with it can tell. Tensors are written one at a time: a full-size folder takes the memory of its largest one. Existing files
    of these names are replaced, each as a whole. Raises `ConfigError` when the vocabulary is too small for a tokenizer.
    """
    from cf_agents.checkpoint import CONFIG_FILE, TOKENIZER_FILE
    from cf_agents.models.layout import released_layout
    from cf_agents.models.released import released_networks

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file, modules in released_networks(config).items():
        entries: dict[str, tuple[str, tuple[int, ...]]] = {}
        for prefix, module in modules.items():
            counters = {prefix + name for name, value in module.state_dict().items() if not value.is_floating_point()}
            for name, shape in released_layout(module, prefix).items():
                entries[name] = ("int64" if name in counters else dtype, shape)
        with _Replacing(folder / file) as out:
            _write_safetensors(out, entries, seed)
    described = {**config.to_dict(), "trained": False}
    for name, data in ((TOKENIZER_FILE, tokenizer_json(config.t3)), (CONFIG_FILE, described)):
        with _Replacing(folder / name) as out:
            out.write((json.dumps(data, ensure_ascii=False, indent=1) + "\n").encode())
    return folder


class _Replacing:
    """A file that takes its name when it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")

    def __enter__(self) -> BinaryIO:
        self._file = self._partial.open("wb")
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink()


def _write_safetensors(out: BinaryIO, entries: Mapping[str, tuple[str, tuple[int, ...]]], seed: int) -> None:
    """The format of https://github.com/huggingface/safetensors#format, without holding the tensors."""
    names = {"float32": "F32", "float16": "F16", "int64": "I64"}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    # The largest items first keeps every tensor aligned to its item size.
    ordered = sorted(entries, key=lambda name: (-np.dtype(entries[name][0]).itemsize, name))
    for name in ordered:
        kind, shape = entries[name]
        start, end = end, end + np.dtype(kind).itemsize * math.prod(shape)
        header[name] = {"dtype": names[kind], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
    for name in ordered:
        kind, shape = entries[name]
        out.write(np.ascontiguousarray(draw(name, shape, seed).astype(np.dtype(kind).newbyteorder("<"))).tobytes())


def tokenizer_json(config: T3Config) -> dict[str, object]:
    """A byte-pair tokenizer with every id in use: letters, digits, punctuation, then pairs of letters, most frequent first.

    Raises `ConfigError` when the vocabulary is too small or too large for that.
    """
    special = {config.stop_text: "[STOP]", 1: "[UNK]", 2: "[SPACE]", config.start_text: "[START]"}
    characters = string.ascii_lowercase + string.ascii_uppercase + string.digits + "!'(),-.:;?\"%&$/"
    merges = sorted(
        ((a, b) for a in _BY_FREQUENCY for b in _BY_FREQUENCY), key=lambda pair: sum(map(_BY_FREQUENCY.index, pair))
    )
    pieces: Sequence[str] = [*characters, *(a + b for a, b in merges)]
    free = [index for index in range(config.text_vocab) if index not in special]
    if len(special) < 4 or not len(characters) <= len(free) <= len(pieces):
        raise ConfigError(
            f"t3.text_vocab is {config.text_vocab}; a tokenizer is made for {len(characters) + 4} to {len(pieces) + 4} ids, "
            "with start_text and stop_text other than 1 and 2."
        )
    by_id = {**special, **dict(zip(free, pieces, strict=False))}
    return bpe_tokenizer(
        {by_id[i]: i for i in sorted(by_id)}, special, [f"{a} {b}" for a, b in merges[: len(free) - len(characters)]]
    )


def bpe_tokenizer(
    vocabulary: Mapping[str, int], special: Mapping[int, str], merges: Sequence[str], normalizer: object = None
) -> dict[str, object]:
    """The content of a `tokenizer.json`: ids of pieces, those of them that are special, and which pairs are joined in turn."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": text, **flags} for i, text in sorted(special.items())],
        "normalizer": normalizer,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "[UNK]",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": dict(vocabulary),
            "merges": list(merges),
        },
    }
