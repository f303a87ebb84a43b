"""What a machine gets, and the words for what it does not get. Machines that this one is not are played by fakes."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from cf_agents import backends
from cf_agents.backends import check_names, choose, unavailable
from cf_agents.errors import BackendUnavailable, ConfigError
from cf_agents.tts import TTS


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with MLX on a GPU and no CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backends, "_mlx_missing", lambda: None)
    monkeypatch.setattr(backends, "_mlx_gpu", lambda: True)
    monkeypatch.setattr(backends, "find_spec", lambda name: True)


@pytest.fixture
def without_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)


@pytest.mark.usefixtures("apple")
def test_auto_takes_the_apple_gpu() -> None:
    choice = choose()
    assert (choice.backend, choice.device, choice.dtype, choice.quantise) == ("mlx", "cpu", "bfloat16", None)
    assert "Apple GPU was found" in choice.why
    assert choose(quantise=4).quantise == 4
    assert "4 bits" in choose(quantise=4).why
    assert choose(dtype="float16").dtype == "float16"


@pytest.mark.usefixtures("apple")
def test_a_device_of_torch_that_is_asked_for_is_had() -> None:
    assert choose(device="cpu").backend == "dense"
    assert choose("dense").backend == "dense"
    with pytest.raises(ConfigError, match="teapot"):
        choose("mlx", "teapot")


@pytest.mark.usefixtures("apple")
def test_cuda_comes_before_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert (choose().backend, choose().device) == ("dense", "cuda")


def test_mlx_on_a_cpu_runs_only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backends, "_mlx_missing", lambda: None)
    monkeypatch.setattr(backends, "_mlx_gpu", lambda: False)
    monkeypatch.setattr(backends, "find_spec", lambda name: True)
    assert choose().backend == "dense"
    choice = choose("mlx")
    assert (choice.backend, choice.device, choice.dtype) == ("mlx", "cpu", "float32")
    assert "the CPU" in choice.why
    assert "as asked" in choice.why
    with pytest.raises(ConfigError, match="ask for backend='mlx'"):
        choose(quantise=8)


@pytest.mark.usefixtures("without_mlx")
def test_a_machine_without_mlx_says_what_to_install() -> None:
    for refused in (lambda: check_names("mlx", "auto"), lambda: choose("mlx"), lambda: TTS.load("tiny", backend="mlx")):
        with pytest.raises(BackendUnavailable, match="pip install"):
            refused()
    assert choose().backend == "dense"
    assert "pip install" in unavailable()["mlx"]


@pytest.mark.skipif(find_spec("mlx") is None, reason="MLX is not installed")
def test_the_mlx_that_is_here_can_be_chosen() -> None:
    assert "mlx" not in unavailable()
    assert choose("mlx", quantise=8).quantise == 8
    assert choose("mlx", dtype="bfloat16").dtype == "bfloat16"
