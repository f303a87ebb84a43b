"""Which back-end, device and number format a machine gets, and why. Knows nothing of checkpoints or speech."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

from cf_agents.errors import BackendUnavailable, ConfigError

Backend = Literal["auto", "dense", "flashinfer", "mlx"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantise = Literal[8, 4]

_NOT_BUILT = {
    "flashinfer": "The paged engine on FlashInfer kernels",
}


_NO_MLX = "The engine on MLX needs the package mlx: pip install 'cf-agents[mlx]'"


@dataclass(frozen=True)
class Choice:
    """What will run, and one sentence on why."""

    backend: Literal["dense", "mlx"]
    device: str
    """Torch's: of the whole model, or with MLX of the vocoder; MLX takes the Apple GPU where there is one, else the CPU."""
    dtype: Literal["float32", "bfloat16", "float16"]
    why: str
    quantise: Quantise | None = None
    """Bits of the decoder's weights."""


def check_names(backend: str, dtype: str, quantise: int | None = None) -> None:
    """Raise `ConfigError` for what means nothing, `BackendUnavailable` for a back-end that is known and not here.

    Imports neither torch nor a back-end.
    """
    if backend not in get_args(Backend):
        raise ConfigError(f"There is no back-end {backend!r}; choose one of {', '.join(get_args(Backend))}.")
    if dtype not in get_args(Dtype):
        raise ConfigError(f"There is no dtype {dtype!r}; choose one of {', '.join(get_args(Dtype))}.")
    if quantise is not None and quantise not in get_args(Quantise):
        raise ConfigError(f"quantise is {quantise!r}; give 8 or 4 bits, or None for weights as they are.")
    if quantise is not None and backend not in ("auto", "mlx"):
        raise ConfigError(f"quantise={quantise} is an option of backend='mlx'; {backend!r} runs weights as they are.")
    if backend == "mlx" and find_spec("mlx") is None:
        raise BackendUnavailable(f"{_NO_MLX}, or use backend='dense'.")
    if backend in _NOT_BUILT:
        raise BackendUnavailable(
            f"{_NOT_BUILT[backend]} is not part of this version; use backend='dense', which runs on every device torch knows."
        )


def choose(backend: str = "auto", device: str = "auto", dtype: str = "auto", quantise: int | None = None) -> Choice:
    """Settle what "auto" leaves open: dense on CUDA, else MLX on an Apple GPU, else dense. Imports torch.

    MLX on a CPU runs only when asked for by name. Raises as `check_names` does, `ConfigError` for a device torch has no name
    for and for `quantise` where the choice is not MLX, and `BackendUnavailable` for what is not in this machine.
    """
    check_names(backend, dtype, quantise)
    import torch

    if backend == "mlx" or (backend == "auto" and device == "auto" and not torch.cuda.is_available() and _mlx_gpu()):
        return _choose_mlx(backend, device, dtype, quantise)
    if quantise is not None:
        raise ConfigError(
            f"quantise={quantise} is an option of MLX, and 'auto' takes the dense engine on this machine: leave it out, or ask "
            "for backend='mlx'."
        )
    if device == "auto":
        place = "cuda" if torch.cuda.is_available() else "cpu"
        why = "a CUDA device was found" if place == "cuda" else "torch finds no CUDA device"
    else:
        place, why = device, "as asked"
        _check_device(place)
    numbers: Literal["float32", "bfloat16", "float16"]
    match dtype:
        case "float32" | "bfloat16" | "float16":
            numbers = dtype
        case _:
            numbers = "bfloat16" if place.startswith("cuda") and torch.cuda.is_bf16_supported() else "float32"
    return Choice("dense", place, numbers, f"dense on {place} in {numbers}: {why}")


def unavailable() -> dict[str, str]:
    """The known back-ends that cannot be chosen, and why."""
    found = {name: f"{what} is not part of this version" for name, what in _NOT_BUILT.items()}
    missing = _mlx_missing()
    return found | ({"mlx": missing} if missing else {})


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
