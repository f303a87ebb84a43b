from __future__ import annotations

import pytest
import torch

from cf_agents.models import linear
from cf_agents.models.linear import FusedLinear, half_product

X = torch.randn(5, 96, generator=torch.Generator().manual_seed(1))


def weights(exact: bool) -> list[torch.Tensor]:
    """A checkpoint's weights, of float16 or not."""
    made = [torch.randn(size, 96, generator=torch.Generator().manual_seed(size)) * 0.1 for size in (40, 7)]
    return [weight.half().float() for weight in made] if exact else made


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("kernels", [True, False])
def test_a_product_is_the_plain_one_in_any_layout(exact: bool, kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernels:
        monkeypatch.setattr(linear, "half_product", lambda weight: None)
        monkeypatch.setattr(linear, "packed_product", lambda weight: None)
    fused = FusedLinear(weights(exact))
    assert fused.packed == kernels
    wanted = (X.double() @ torch.cat(weights(exact)).double().t()).float()
    torch.testing.assert_close(fused(X), wanted, rtol=1e-6, atol=2e-6)
    onto = torch.ones(5, 47)
    torch.testing.assert_close(fused(X, onto=onto), wanted + 1.0, rtol=1e-6, atol=2e-6)


def test_weights_that_float16_would_round_are_not_kept_in_it() -> None:
    assert half_product(torch.cat(weights(exact=False))) is None
    assert half_product(torch.full((4, 8), 1e6)) is None, "past its range"
    exact = torch.cat(weights(exact=True))
    assert half_product(exact) is not None, "this torch build has no kernel: FusedLinear then goes without"
    assert half_product(exact.bfloat16()) is None
