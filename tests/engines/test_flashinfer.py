"""What FlashInfer is given: against its stand-in everywhere, against the package's own signatures where it is installed."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from cf_agents.engines.flashinfer_attention import FlashInferPlan
from cf_agents.engines.paged import Prepared
from cf_agents.engines.paged_plan import Shape
from tests.engines import fake_flashinfer
from tests.small import small_flashinfer_engine

CALLED = (
    "BatchPrefillWithPagedKVCacheWrapper.__init__",
    "BatchPrefillWithPagedKVCacheWrapper.reset_workspace_buffer",
    "BatchPrefillWithPagedKVCacheWrapper.plan",
    "BatchPrefillWithPagedKVCacheWrapper.run",
    "apply_rope_with_cos_sin_cache_inplace",
    "fused_add_rmsnorm",
    "silu_and_mul",
)


def test_the_workspace_grows_with_the_largest_batch_and_what_was_captured_keeps_its_own() -> None:
    """The package refuses a plan whose workspace is too small: 200 streams have 400 rows, and as many blocks ride with them."""
    engine = small_flashinfer_engine()

    def prepared(rows: int) -> Prepared[FlashInferPlan]:
        return engine.prepare([None] * rows, [0] * rows, 16, Shape(rows, rows, 16, 16))

    few = prepared(8).attention.wrapper
    at_first = few._workspace
    many = prepared(640).attention.wrapper
    assert len(many._workspace) > len(at_first)
    assert few._workspace is at_first
    assert prepared(8).attention.wrapper is few
    assert prepared(10).attention.wrapper._workspace is many._workspace


@pytest.mark.skipif(find_spec("flashinfer") is None, reason="flashinfer-python is not installed")
@pytest.mark.parametrize("name", CALLED)
def test_the_stand_in_takes_what_the_package_takes(name: str) -> None:
    """Every argument that the stand-in knows is one of the package's, in the same place and with the same default."""
    own, real = (_parameters(_find(package, name)) for package in (fake_flashinfer, importlib.import_module("flashinfer")))
    places = list(real)
    for place, (argument, parameter) in enumerate(own.items()):
        assert argument in real
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            assert places[place] == argument
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.default == real[argument].default
    needed = {argument for argument, each in real.items() if each.default is inspect.Parameter.empty and each.kind < 2}
    assert needed <= set(own)


def _find(package: Any, name: str) -> Callable[..., object]:
    for part in name.split("."):
        package = getattr(package, part)
    return package


def _parameters(call: Callable[..., object]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(call).parameters)
