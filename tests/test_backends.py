"""What a machine gets, and the words for what it does not get. Machines that this one is not are played by fakes."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from cf_agents import backends
from cf_agents.backends import Choice, check_names, choose, unavailable
from cf_agents.config import Bits
from cf_agents.errors import BackendUnavailable, ConfigError
from cf_agents.models import linear
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


class Cuda:
    """A machine with a CUDA device; what it lacks is taken away by the test."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.packages = {"flashinfer"}
        self.capability = (9, 0)
        self.compiler = True
        for name, answer in (
            ("is_available", lambda: True),
            ("is_bf16_supported", lambda: True),
            ("device_count", lambda: 1),
            ("get_device_capability", lambda device: self.capability),
        ):
            patch.setattr(torch.cuda, name, answer)
        patch.setattr(backends, "find_spec", lambda name: name if name in self.packages else None)
        patch.setattr(backends, "_cuda_compiler", lambda: self.compiler)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def test_auto_takes_flashinfer_where_all_is_there(cuda: Cuda) -> None:
    choice = choose()
    assert (choice.backend, choice.device, choice.dtype, choice.graphs) == ("flashinfer", "cuda", "bfloat16", True)
    assert choose("flashinfer", "cuda:0", "float16").dtype == "float16"
    assert "flashinfer" not in unavailable()


def test_what_flashinfer_lacks_is_said_and_dense_with_graphs_is_taken(cuda: Cuda) -> None:
    def refused(why: str) -> None:
        choice = choose()
        assert (choice.backend, choice.device, choice.graphs) == ("dense", "cuda", True)
        assert why in choice.why
        with pytest.raises(BackendUnavailable, match=why):
            choose("flashinfer")
        assert why in unavailable()["flashinfer"]

    cuda.compiler = False
    refused("no nvcc")
    cuda.packages.add("flashinfer_jit_cache")
    assert choose().backend == "flashinfer"
    cuda.capability = (7, 5)
    refused("8.0 or newer, and cuda has 7.5")
    cuda.packages.clear()
    refused("package flashinfer-python")


def test_float32_is_not_for_flashinfer(cuda: Cuda) -> None:
    choice = choose(dtype="float32")
    assert (choice.backend, choice.graphs) == ("dense", True)
    assert "bfloat16 and float16" in choice.why
    with pytest.raises(ConfigError, match="bfloat16 and float16"):
        choose("flashinfer", dtype="float32")


def test_dense_by_name_has_graphs_on_cuda_only(cuda: Cuda) -> None:
    assert (choose("dense").backend, choose("dense").graphs) == ("dense", True)
    assert choose("dense", "cpu").graphs is False
    with pytest.raises(BackendUnavailable, match="this is cpu"):
        choose("flashinfer", "cpu")


@pytest.mark.usefixtures("apple")
def test_cuda_comes_before_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    Cuda(monkeypatch)
    assert (choose().backend, choose().device) == ("flashinfer", "cuda")


def test_flashinfer_without_a_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backends, "find_spec", lambda name: name)
    assert "finds none" in unavailable()["flashinfer"]
    with pytest.raises(BackendUnavailable, match="CUDA device"):
        choose("flashinfer")


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
        choose(quantise=4)


@pytest.mark.parametrize("has", [{"_is_amx_tile_supported"}, {"_is_avx512_bf16_supported"}, set()])
def test_a_cpu_gets_bfloat16_where_it_multiplies_it(has: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, flag, lambda flag=flag: flag in has)
    wanted = "bfloat16" if has else "float32"
    assert choose("dense", "cpu").dtype == wanted
    assert wanted in choose("dense", "cpu").why
    assert choose("dense", "cpu", "float32").dtype == "float32"
    assert choose("dense", "cpu", quantise=8).dtype == "float32"


def test_eight_bits_on_a_cpu_are_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backends, "_mlx_gpu", lambda: False)
    for choice in (choose(quantise=8), choose("dense", quantise=8), choose("dense", "cpu", "float32", 8)):
        assert (choice.backend, choice.device, choice.dtype, choice.quantise) == ("dense", "cpu", "float32", 8)
        assert "8 bits" in choice.why
    for asked in (("auto", "cpu", "bfloat16"), ("auto", "mps", "auto")):
        with pytest.raises((ConfigError, BackendUnavailable), match=r"8|mps"):
            choose(*asked, quantise=8)
    monkeypatch.setattr(linear, "int8_missing", lambda: "torch has no 8-bit products for this CPU")
    with pytest.raises(BackendUnavailable, match="no 8-bit products"):
        choose(quantise=8)


def test_eight_bits_on_cuda_are_refused(cuda: Cuda) -> None:
    with pytest.raises(ConfigError, match="on a CPU"):
        choose(quantise=8)
    with pytest.raises(ConfigError, match="on a CPU"):
        choose("dense", quantise=8)
    assert choose("dense", "cpu", quantise=8).quantise == 8


@pytest.fixture
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without bfloat16 and with 8-bit products, and nothing else."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backends, "_mlx_gpu", lambda: False)
    monkeypatch.setattr(backends, "_cpu_multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(linear, "int8_missing", lambda: None)


@pytest.mark.usefixtures("plain_cpu")
def test_what_a_checkpoint_names_is_taken_and_told_unless_somebody_says_otherwise() -> None:
    for asked in ({}, {"backend": "dense"}, {"dtype": "float32"}, {"quantise": "auto"}):
        choice = choose(**asked, named=8)
        assert (choice.backend, choice.dtype, choice.quantise) == ("dense", "float32", 8)
        assert "weights in 8 bits, as the checkpoint names" in choice.why
    assert choose(quantise=None, named=8) == choose()
    assert choose(quantise=8, named=None).quantise == 8
    assert choose().quantise is None


@pytest.mark.usefixtures("apple")
@pytest.mark.parametrize("bits", [8, 4])
def test_mlx_takes_the_bits_that_a_checkpoint_names(bits: Bits) -> None:
    assert choose(named=bits).quantise == bits
    assert "as the checkpoint names" in choose(named=bits).why
    assert choose(quantise=4, named=8).quantise == 4
    assert choose(quantise=None, named=8).quantise is None


@pytest.mark.usefixtures("plain_cpu")
def test_bits_that_are_not_to_be_had_leave_weights_as_they_are_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def left(choice: Choice, why: str) -> None:
        assert choice.quantise is None
        assert "as the checkpoint names" in choice.why
        assert why in choice.why

    left(choose(named=4), "dense on cpu in float32 has none")
    left(choose(dtype="bfloat16", named=8), "dense on cpu in bfloat16 has none")
    monkeypatch.setattr(linear, "int8_missing", lambda: "torch has no 8-bit products for this CPU")
    left(choose(named=8), "no 8-bit products")
    Cuda(monkeypatch)
    left(choose(named=8), "flashinfer on cuda in bfloat16 has none")
    left(choose("dense", named=8), "dense on cuda in bfloat16 has none")


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


@pytest.mark.parametrize(("torchs", "each"), [(1, 1), (2, 1), (3, 1), (8, 4)])
def test_decoder_and_vocoder_share_the_threads_of_torch(torchs: int, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: torchs)
    choice = choose("dense", "cpu")
    assert choice.threads == each
    assert choice.why.endswith(f"{each} thread{'s' if each > 1 else ''} for this machine")
    asked = choose("dense", "cpu", threads=3)
    assert asked.threads == 3
    assert asked.why.endswith("3 threads as asked")


def test_no_threads_are_none() -> None:
    with pytest.raises(ConfigError, match="threads is 0"):
        TTS.load("tiny", threads=0)
