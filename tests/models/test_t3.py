from __future__ import annotations

from pathlib import Path

import torch

from cf_agents.config import T3Config
from cf_agents.models.layout import released_layout
from cf_agents.models.t3 import T3
from tests.small import small_t3

KEYS = Path(__file__).parents[1] / "goldens" / "keys_t3.txt"


def test_released_sizes_have_the_released_names_and_shapes() -> None:
    with torch.device("meta"):
        layout = released_layout(T3(T3Config()))
    wanted = dict(line.split("\t") for line in KEYS.read_text().splitlines())
    assert {name: str(shape) for name, shape in layout.items()} == wanted


def test_fused_products_change_nothing() -> None:
    plain, fused = small_t3(), small_t3()
    fused.fuse()
    x = torch.randn(20, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = (t3.head(t3.causal(x)) for t3 in (fused, plain))
    assert float((found - wanted).abs().max()) < 2e-5
