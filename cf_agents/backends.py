"""Which back-end, device, number format and threads a machine gets, and why. Knows nothing of checkpoints or speech."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal, get_args

from cf_agents.config import Bits
from cf_agents.errors import BackendUnavailable, ConfigError

Backend = Literal["auto", "dense", "flashinfer", "mlx"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantise = Literal["auto", 8, 4, None]
"""Bits of the decoder's weights: "auto" is what the checkpoint names, where that is to be had; None keeps them as they are."""

_NO_MLX = "The engine on MLX needs the package mlx: pip install 'cf-agents[mlx]'"
_NO_FLASHINFER = "The paged engine on FlashInfer needs the package flashinfer-python: pip install 'cf-agents[flashinfer]'"
_OLDEST_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Choice:
    """What will run, and one sentence on why."""

    backend: Literal["dense", "flashinfer", "mlx"]
    device: str
    """Torch's: of the whole model, or with MLX of the vocoder; MLX takes the Apple GPU where there is one, else the CPU."""
    dtype: Literal["float32", "bfloat16", "float16"]
    why: str
    quantise: Bits = None
    graphs: bool = False
    """Whole denoising steps are captured as CUDA graphs."""
    threads: int = 1
    """Of torch on the CPU: the decoder has so many, and the vocoder beside it."""


def check_names(backend: str, dtype: str, quantise: str | int | None = "auto", threads: int | None = None) -> None:
    """Raise `ConfigError` for what means nothing, `BackendUnavailable` for a back-end that is known and not here.

    Imports neither torch nor a back-end.
    """
    if backend not in get_args(Backend):
        raise ConfigError(f"There is no back-end {backend!r}; choose one of {', '.join(get_args(Backend))}.")
    if dtype not in get_args(Dtype):
        raise ConfigError(f"There is no dtype {dtype!r}; choose one of {', '.join(get_args(Dtype))}.")
    if quantise not in get_args(Quantise):
        raise ConfigError(
            f"quantise is {quantise!r}; give 8 or 4 bits, None for weights as they are, or 'auto' for what a checkpoint names."
        )
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; give at least 1, or None for what suits the machine.")
    asked = quantise not in ("auto", None)
    if asked and backend == "flashinfer":
        raise ConfigError(
            f"quantise={quantise} is an option of backend='mlx' and 'dense'; FlashInfer runs weights as they are."
        )
    if quantise == 4 and backend == "dense":
        raise ConfigError("quantise=4 is an option of backend='mlx'; 'dense' has 8 bits on a CPU, or weights as they are.")
    if asked and backend == "dense" and dtype not in ("auto", "float32"):
        raise ConfigError(f"quantise={quantise} of 'dense' computes in whole numbers and float32; leave out dtype={dtype!r}.")
    if backend == "mlx" and find_spec("mlx") is None:
        raise BackendUnavailable(f"{_NO_MLX}, or use backend='dense'.")
    if backend == "flashinfer" and find_spec("flashinfer") is None:
        raise BackendUnavailable(f"{_NO_FLASHINFER}, or use backend='dense'.")
    if backend == "flashinfer" and dtype == "float32":
        raise ConfigError("FlashInfer's kernels take bfloat16 and float16; leave dtype out, or use backend='dense'.")


def choose(
    backend: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    quantise: str | int | None = "auto",
    threads: int | None = None,
    *,
    named: Bits = None,
) -> Choice:
    """Settle what "auto" leaves open: FlashInfer, else dense with CUDA graphs, else MLX on an Apple GPU, else dense.

    named: the bits that a checkpoint is served with (`ModelConfig.quantise`). MLX has 8 and 4, dense on a CPU 8 beside float32;
    what runs in something else keeps weights as they are, and `why` says so.

    Imports torch. MLX on a CPU runs only when asked for by name. Raises as `check_names` does, `ConfigError` for a device torch
    has no name for and for `quantise` where the choice has no such weights, and `BackendUnavailable` for what is not in this
    machine.
    """
    check_names(backend, dtype, quantise, threads)
    choice = _choose(backend, device, dtype, quantise if isinstance(quantise, int) else None)
    if quantise == "auto" and named is not None:
        choice = _as_named(choice, named)
    count = cpu_threads() if threads is None else threads
    if choice.device != "cpu":
        return replace(choice, threads=count)
    each = f"{count} thread{'s' if count > 1 else ''} {'as asked' if threads else 'for this machine'}"
    return replace(choice, threads=count, why=f"{choice.why}; {each}")


def cpu_threads() -> int:
    """Threads of torch for the decoder, and for the vocoder beside it: half of torch's number each, at least 1. Imports torch.

    Torch's number is that of the cores this process may use, or what OMP_NUM_THREADS says. With all of them for both, the two
    stand in each other's way (`benchmarks/load.py --threads`).
    """
    import torch

    return max(1, torch.get_num_threads() // 2)


def _choose(backend: str, device: str, dtype: str, quantise: int | None) -> Choice:
    import torch

    if backend == "mlx" or (backend == "auto" and device == "auto" and not torch.cuda.is_available() and _mlx_gpu()):
        return _choose_mlx(backend, device, dtype, quantise)
    if device == "auto":
        place = "cuda" if torch.cuda.is_available() else "cpu"
        why = "a CUDA device was found" if place == "cuda" else "torch finds no CUDA device"
    else:
        place, why = device, "as asked"
        _check_device(place)
    cuda = place.startswith("cuda")
    if quantise is not None:
        return _choose_int8(place, dtype, quantise, why)
    missing = _flashinfer_missing(place) if cuda else "FlashInfer's kernels need a CUDA device, and this is " + place
    if backend == "flashinfer" and missing:
        raise BackendUnavailable(f"{missing}, or use backend='dense'.")
    numbers: Literal["float32", "bfloat16", "float16"]
    match dtype:
        case "float32" | "bfloat16" | "float16":
            numbers = dtype
        case _:
            fast = torch.cuda.is_bf16_supported() if cuda else place == "cpu" and _cpu_multiplies_bfloat16()
            numbers = "bfloat16" if fast else "float32"
    if numbers == "float32" and not missing:
        missing = "FlashInfer's kernels take bfloat16 and float16"
    if backend != "dense" and not missing:
        return Choice("flashinfer", place, numbers, f"flashinfer on {place} in {numbers}, with CUDA graphs: {why}", graphs=True)
    with_graphs = ", with CUDA graphs" if cuda else ""
    not_taken = f" ({missing})" if cuda and backend == "auto" else ""
    return Choice("dense", place, numbers, f"dense on {place} in {numbers}{with_graphs}: {why}{not_taken}", graphs=cuda)


def unavailable() -> dict[str, str]:
    """The known back-ends that cannot be chosen, and why. Imports torch."""
    reasons = {"flashinfer": _flashinfer_missing("cuda"), "mlx": _mlx_missing()}
    return {name: why for name, why in reasons.items() if why}


def cpu_numbers() -> str:
    """What this CPU computes in, and which options of `choose` it has, in words. Imports torch."""
    from cf_agents.models.linear import int8_missing

    numbers = "bfloat16 (it has instructions for it)" if _cpu_multiplies_bfloat16() else "float32 (bfloat16 would be slower)"
    return f"computes in {numbers}; quantise=8: {int8_missing() or 'can be had'}"


def _flashinfer_missing(device: str) -> str | None:
    """Why FlashInfer cannot be had on a CUDA device; None where it can."""
    import torch

    if find_spec("flashinfer") is None:
        return _NO_FLASHINFER
    if not torch.cuda.is_available():
        return f"FlashInfer's kernels need a CUDA device, and torch {torch.__version__} finds none"
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST_CAPABILITY:
        return "FlashInfer's kernels need compute capability 8.0 or newer, and {} has {}.{}".format(device, *capability)
    if find_spec("flashinfer_jit_cache") is None and not _cuda_compiler():
        return (
            "FlashInfer compiles its kernels on first use, and there is no nvcc: install the CUDA toolkit, or the package "
            "flashinfer-jit-cache"
        )
    return None


def _cuda_compiler() -> bool:
    from torch.utils.cpp_extension import CUDA_HOME

    return CUDA_HOME is not None or shutil.which("nvcc") is not None


def _choose_int8(place: str, dtype: str, quantise: int, why: str) -> Choice:
    from cf_agents.models.linear import int8_missing

    if quantise != 8 or place != "cpu" or dtype not in ("auto", "float32"):
        raise ConfigError(
            f"quantise={quantise} is not to be had on {place} in dtype {dtype!r}: torch has 8 bits, on a CPU, beside float32. "
            "Leave it out, or ask for backend='mlx'."
        )
    missing = int8_missing()
    if missing:
        raise BackendUnavailable(f"{missing}: leave quantise out.")
    return Choice("dense", place, "float32", f"dense on cpu in float32, products in 8 bits: {why}", 8)


def _as_named(choice: Choice, bits: Literal[8, 4]) -> Choice:
    """The choice with weights in the bits that a checkpoint names, or why not."""
    from cf_agents.models.linear import int8_missing

    missing: str | None = None
    if choice.backend != "mlx":
        has = (choice.backend, choice.device, choice.dtype, bits) == ("dense", "cpu", "float32", 8)
        missing = int8_missing() if has else f"{choice.backend} on {choice.device} in {choice.dtype} has none"
    if missing:
        return replace(
            choice, why=f"{choice.why}; weights as they are, not in {bits} bits, as the checkpoint names ({missing})"
        )
    return replace(choice, quantise=bits, why=f"{choice.why}; weights in {bits} bits, as the checkpoint names")


def _cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it; without them it is slower than float32."""
    import torch

    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def _choose_mlx(backend: str, device: str, dtype: str, quantise: int | None) -> Choice:
    missing = _mlx_missing()
    if missing:
        raise BackendUnavailable(f"{missing}, or use backend='dense'.")
    if device != "auto":
        _check_device(device)
    gpu = _mlx_gpu()
    numbers: Literal["float32", "bfloat16", "float16"]
    match dtype:
        case "float32" | "bfloat16" | "float16":
            numbers = dtype
        case _:
            numbers = "bfloat16" if gpu else "float32"
    bits: Quantise | None = 8 if quantise == 8 else 4 if quantise == 4 else None
    place = "cpu" if device == "auto" else device
    weights = f"{numbers}, weights in {bits} bits" if bits else numbers
    why = "as asked" if backend == "mlx" else "an Apple GPU was found"
    where = "the GPU" if gpu else "the CPU, where dense is faster,"
    return Choice("mlx", place, numbers, f"mlx on {where} in {weights}, vocoder on {place}: {why}", bits)


def _mlx_missing() -> str | None:
    """Why MLX cannot be had; None where it can."""
    if find_spec("mlx") is None:
        return _NO_MLX
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        return f"MLX is installed and does not load ({error}); on Linux: pip install 'mlx[cpu]'"
    return None


def _mlx_gpu() -> bool:
    if _mlx_missing():
        return False
    import mlx.core as mx

    return mx.metal.is_available()


def _check_device(device: str) -> None:
    import torch

    try:
        kind = torch.device(device).type
        index = torch.device(device).index or 0
    except RuntimeError as error:
        raise ConfigError(f"There is no device {device!r}; give 'cpu', 'cuda', 'cuda:1' or 'mps'.") from error
    if kind == "cuda" and (not torch.cuda.is_available() or index >= torch.cuda.device_count()):
        raise BackendUnavailable(
            f"Device {device!r} was asked for, and torch {torch.__version__} finds {torch.cuda.device_count()} CUDA devices. "
            "Check the driver with nvidia-smi and that torch is a CUDA build, or use device='cpu'."
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise BackendUnavailable("Device 'mps' was asked for, and torch finds no Apple GPU; use device='cpu'.")
