"""Which back-end, device and number format a machine gets, and why. Knows nothing of checkpoints or speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cf_agents.errors import BackendUnavailable, ConfigError

Backend = Literal["auto", "dense", "flashinfer", "mlx"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_NOT_BUILT = {
    "flashinfer": "The paged engine on FlashInfer kernels",
    "mlx": "The engine on MLX for Apple silicon",
}


@dataclass(frozen=True)
class Choice:
    """What will run, and one sentence on why."""

    backend: Literal["dense"]
    device: str
    dtype: Literal["float32", "bfloat16", "float16"]
    why: str


def check_names(backend: str, dtype: str) -> None:
    """Raise `ConfigError` for names that mean nothing, `BackendUnavailable` for a back-end that is known and not here yet."""
    if backend not in get_args(Backend):
        raise ConfigError(f"There is no back-end {backend!r}; choose one of {', '.join(get_args(Backend))}.")
    if dtype not in get_args(Dtype):
        raise ConfigError(f"There is no dtype {dtype!r}; choose one of {', '.join(get_args(Dtype))}.")
    if backend in _NOT_BUILT:
        raise BackendUnavailable(
            f"{_NOT_BUILT[backend]} is not part of this version; use backend='dense', which runs on every device torch knows."
        )


def choose(backend: str = "auto", device: str = "auto", dtype: str = "auto") -> Choice:
    """Settle what "auto" leaves open. Imports torch.

    Raises as `check_names` does, `ConfigError` for a device torch has no name for, and `BackendUnavailable` for one that is not
    in this machine.
    """
    check_names(backend, dtype)
    import torch

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
    return {name: f"{what} is not part of this version" for name, what in _NOT_BUILT.items()}


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
