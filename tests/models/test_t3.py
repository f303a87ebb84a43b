from __future__ import annotations

from pathlib import Path

import torch

from tests.small import small_t3

KEYS = Path(__file__).parents[1] / "goldens" / "keys_t3.txt"


def test_fused_products_change_nothing() -> None:
    plain, fused = small_t3(), small_t3()
    fused.fuse()
    x = torch.randn(20, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = (t3.head(t3.causal(x)) for t3 in (fused, plain))
    assert float((found - wanted).abs().max()) < 2e-5
