"""Between our modules and the names of the released files: what a module's tensors are called there, and how they are put in.

Our modules carry the released names, except that a weight-normalised convolution is one plain convolution here: the file stores
a gain and a direction, which are folded once at load. Knows nothing of files or configs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

GAIN = "parametrizations.weight.original0"
DIRECTION = "parametrizations.weight.original1"


class WeightNormConv1d(nn.Conv1d):
    """A convolution that the released file stores weight-normalised."""


class WeightNormConvTranspose1d(nn.ConvTranspose1d):
    """A transposed convolution that the released file stores weight-normalised."""


def released_layout(module: nn.Module, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of `module` as the released file stores it, `prefix` in front of each name."""
    normed = _weight_normed(module)
    layout: dict[str, tuple[int, ...]] = {}
    for name, value in module.state_dict().items():
        shape = tuple(value.shape)
        if name in normed:
            stem = prefix + name.removesuffix("weight")
            layout[stem + GAIN] = (shape[0],) + (1,) * (len(shape) - 1)
            layout[stem + DIRECTION] = shape
        else:
            layout[prefix + name] = shape
    return layout


@torch.no_grad()
def assign(module: nn.Module, read: Callable[[str], Tensor], prefix: str = "") -> None:
    """Put `read(name)` into every tensor of `module`, weight norm folded. The module may be on the meta device.

    `read` gets each name of `released_layout` once and returns that tensor, already of the dtype and device wanted.
    """
    normed = _weight_normed(module)
    state: dict[str, Tensor] = {}
    for name in module.state_dict():
        if name in normed:
            stem = prefix + name.removesuffix("weight")
            state[name] = fold_weight_norm(read(stem + GAIN), read(stem + DIRECTION))
        else:
            state[name] = read(prefix + name)
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False)
    module.eval()


def fold_weight_norm(gain: Tensor, direction: Tensor) -> Tensor:
    """w = g v / ||v||, the norm over every axis but the first (Salimans and Kingma 2016, eq. 2)."""
    norm = direction.float().flatten(1).norm(dim=1).view(gain.shape)
    return (direction.float() * (gain.float() / norm)).to(direction.dtype)


def _weight_normed(module: nn.Module) -> set[str]:
    kinds = (WeightNormConv1d, WeightNormConvTranspose1d)
    return {(f"{name}." if name else "") + "weight" for name, child in module.named_modules() if isinstance(child, kinds)}


@contextmanager
def without_storage() -> Iterator[None]:
    """Modules built inside have shapes and no memory (the meta device), ready for `assign`."""
    with torch.device("meta"), _Uninitialised():
        yield


_DRAWING = frozenset({init.normal_, init.uniform_, init.kaiming_normal_, init.kaiming_uniform_, init.xavier_uniform_})


class _Uninitialised(TorchFunctionMode):
    """Leaves the values of new parameters alone: they are read from a file, and on the meta device drawing them imports torch's
    compiler, a second and a half."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = kwargs or {}
        if func in _DRAWING:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)
