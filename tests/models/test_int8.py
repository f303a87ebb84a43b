"""Products of inference in 8 bits: near the plain ones, small, and of each row alone."""

from __future__ import annotations

import pytest
import torch

from cf_agents.engines.dense import DenseEngine
from cf_agents.models.linear import FusedLinear, Int8Product, int8_missing
from cf_agents.models.t3 import Layer
from tests.engines.test_engine import half_open
from tests.small import SMALL, prefix, small_engine, small_t3

pytestmark = pytest.mark.skipif(int8_missing() is not None, reason=str(int8_missing()))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_product_in_whole_numbers_is_near_the_plain_one() -> None:
    weights, x, onto = [drawn(70, 96), drawn(30, 96, seed=1)], drawn(9, 96, seed=2), drawn(9, 100, seed=3)
    wanted = x @ torch.cat(weights).T
    found = FusedLinear(weights, 8)(x)
    assert 0 < float((found - wanted).std() / wanted.std()) < 0.03
    torch.testing.assert_close(FusedLinear(weights, 8)(x, onto=onto.clone()), found + onto)


def test_nothing_overflows_where_all_is_as_large_as_can_be() -> None:
    """Pairs of products are added in 16 bits by the kernel of a CPU without VNNI."""
    for sign in (1.0, -1.0):
        found = Int8Product(torch.ones(64, 512))(torch.full((3, 512), sign * 5.0))
        torch.testing.assert_close(found, torch.full((3, 64), sign * 2560.0), rtol=1e-3, atol=0.0)


def test_a_row_is_what_it_is_alone_beside_any_other() -> None:
    product, x = Int8Product(drawn(64, 32)), drawn(5, 32, seed=1)
    beside = torch.cat([x, 1000.0 * drawn(3, 32, seed=2), torch.zeros(1, 32)])
    assert torch.equal(product(beside)[:5], product(x))
    assert torch.equal(product(beside)[8], torch.zeros(64))
    for row in range(5):
        assert torch.equal(product(x[row : row + 1])[0], product(x)[row])


def test_a_decoder_in_eight_bits_is_near_and_its_rows_alone() -> None:
    t3 = small_t3()
    t3.fuse(8)
    products = [product for layer in t3.tfmr.layers if isinstance(layer, Layer) for product in layer.products]
    assert [product.bits for product in products] == [8] * 4 * SMALL.num_layers
    engine, plain = DenseEngine(t3, max_rows=4, max_length=128), small_engine(4, 128)
    whats = [prefix(20), prefix(9, 1), prefix(30, 2).null()]
    rows, others = engine.open(whats), plain.open(whats)
    tokens = torch.tensor([half_open(3)] * 3)
    together, wanted = engine.score(rows, tokens).logits, plain.score(others, tokens).logits
    assert 0 < float((together - wanted).pow(2).mean().sqrt() / wanted.std()) < 0.1
    alone = [engine.score([row], tokens[:1]).logits[0] for row in rows]
    torch.testing.assert_close(torch.stack(alone), together, rtol=0, atol=2e-5)
