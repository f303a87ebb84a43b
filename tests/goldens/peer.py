"""What the golden scripts need of the published packages: importable without their `__init__`, and small.

Used in an environment that has chatterbox-flash 0.1.0 over chatterbox-tts 0.1.7 (`benchmarks/peer_environment.sh` makes one).
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))


def without_init(package: str) -> None:
    """Let the parts of `package` be imported without its `__init__`, which imports what synthesis does not need."""
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed: see benchmarks/peer_environment.sh"
    assert spec.submodule_search_locations is not None
    module = types.ModuleType(package)
    module.__path__ = list(spec.submodule_search_locations)
    sys.modules[package] = module


def small_s3gen() -> Any:
    """The package's `S3Token2Wav` with its sizes made small; those are literals in its constructor, so the classes it calls are
    given other arguments while it runs."""
    without_init("chatterbox")
    import chatterbox.models.s3gen.s3gen as s3gen
    import s3tokenizer.model_v2 as tokenizer

    def sized(make: Any, **sizes: Any) -> Any:
        return lambda *args, **more: make(*args, **{**more, **sizes})

    small = {
        "UpsampleConformerEncoder": {"linear_units": 256, "num_blocks": 2},
        "ConditionalDecoder": {
            "channels": [64],
            "n_blocks": 1,
            "num_mid_blocks": 2,
            "num_heads": 2,
            "attention_head_dim": 32,
        },
        "HiFTGenerator": {"base_channels": 64},
        "ConvRNNF0Predictor": {"cond_channels": 64},
        "CAMPPlus": {"growth_rate": 8, "init_channels": 32},
    }
    originals = {name: getattr(s3gen, name) for name in small}
    # The package drops the tokenizer's configuration on its way, so the base class is given another default.
    defaults = tokenizer.S3TokenizerV2.__init__.__defaults__
    tokenizer.S3TokenizerV2.__init__.__defaults__ = (tokenizer.ModelConfig(n_audio_state=128, n_audio_head=2, n_audio_layer=1),)
    for name, sizes in small.items():
        setattr(s3gen, name, sized(originals[name], **sizes))
    try:
        return s3gen.S3Token2Wav(meanflow=True).eval()
    finally:
        tokenizer.S3TokenizerV2.__init__.__defaults__ = defaults
        for name, original in originals.items():
            setattr(s3gen, name, original)
