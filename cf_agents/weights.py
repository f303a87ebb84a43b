"""One `.safetensors` file of a checkpoint: what is in it, whether that is what a network needs, and the way in.

The header is read and checked without a tensor library, so a damaged file is named before anything is built. Tensors are
mapped from the file: on the CPU, in the file's own dtype, they stay a view of it, shared with every process that loads the same
file; otherwise they are converted one at a time, and what was mapped is the system's to drop. No file is ever read into memory.
Knows nothing of folders, configs or which network belongs where.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cf_agents.errors import CheckpointDamaged, CheckpointMismatch, CheckpointNotFound, ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FLOATING = ("F64", "F32", "F16", "BF16")
_HEADER_LIMIT = 100_000_000
_SHOWN = 5
# Spellings of weight norm before torch 2.0 named its parts.
_OLDER_NAMES = ((".weight_g", ".parametrizations.weight.original0"), (".weight_v", ".parametrizations.weight.original1"))


@dataclass(frozen=True)
class StoredTensor:
    """One entry of a file's header: the name it has there, the format's name of its dtype, and its shape."""

    stored_name: str
    dtype: str
    shape: tuple[int, ...]


class WeightFile:
    """A readable file and its tensors by released name. Holds no file handle and no tensor."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises `CheckpointNotFound` when there is no such file, `CheckpointDamaged` when it is not whole."""
        self.path = path
        self.tensors: Mapping[str, StoredTensor] = _read_header(path)

    def verify(self, layout: Mapping[str, Sequence[int]], prefix: str = "", ignored: Collection[str] = ()) -> None:
        """Check that the tensors whose names start with `prefix` are those of `layout`, in name and shape.

        `ignored` names may be there or not. Raises `CheckpointMismatch` naming what is missing, unexpected or misshapen.
        """
        present = {name for name in self.tensors if name.startswith(prefix)}
        missing = [name for name in layout if name not in present]
        unexpected = sorted(present - set(layout) - set(ignored))
        shapes = [
            f"{name} (file {list(self.tensors[name].shape)}, needed {list(shape)})"
            for name, shape in layout.items()
            if name in present and self.tensors[name].shape != tuple(shape)
        ]
        self.complain(missing, unexpected, shapes)

    def check_floating(self, names: Iterable[str]) -> None:
        """Raise `CheckpointMismatch` when one of these tensors is not stored as floating numbers."""
        for name in names:
            stored = self.tensors[name].dtype
            if stored not in _FLOATING:
                raise CheckpointMismatch(
                    f"{name} of {self.path} is stored as {stored}. Give the checkpoint in float32, float16 or bfloat16; "
                    "quantised files are not read."
                )

    def complain(self, missing: Sequence[str], unexpected: Sequence[str], shapes: Sequence[str] = ()) -> None:
        """Raise `CheckpointMismatch` for what was found, if anything was."""
        found = [
            f"{len(names)} {word}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
            for word, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if names
        ]
        if found:
            raise CheckpointMismatch(
                f"The tensors of {self.path} are not those of the configured model: {'; '.join(found)}. Check that the file "
                "and the folder's config.json belong together (without one the released sizes are meant); if the checkpoint "
                "is newer than this package, update cf_agents."
            )

    def fill(
        self, module: nn.Module, prefix: str = "", dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """Put this file's tensors into `module`, which may be on the meta device and should be, so that nothing is held twice.

        Floating tensors become `dtype` (None keeps the file's); integers keep theirs. Call `verify` first: a name that is not
        there is our mistake here. The file must stay as it is for as long as the module lives.
        """
        from safetensors import safe_open

        from cf_agents.models.layout import assign, released_layout

        integers = {prefix + name: value.dtype for name, value in module.state_dict().items() if not value.is_floating_point()}
        self.check_floating(name for name in released_layout(module, prefix) if name not in integers)
        with safe_open(self.path, framework="pt", device="cpu") as file:

            def read(name: str) -> torch.Tensor:
                value = file.get_tensor(self.tensors[name].stored_name)
                return value.to(device=device, dtype=integers.get(name, dtype))

            assign(module, read, prefix)
        left = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
        assert not left, f"no file fills these, so {type(module).__name__} may not make them on the meta device: {left}"
        module.to(device)


def torch_dtype(name: str) -> torch.dtype:
    """The floating dtype called `name`. Raises `ConfigError` for any that weights are not held in."""
    import torch

    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
    if name not in known:
        raise ConfigError(f"Unknown dtype {name!r}; choose one of {', '.join(known)}.")
    return known[name]


def _read_header(path: Path) -> dict[str, StoredTensor]:
    """Parse and check the header: https://github.com/huggingface/safetensors#format."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            raw = file.read(length) if 2 <= length <= _HEADER_LIMIT else b""
    except FileNotFoundError:
        raise CheckpointNotFound(f"There is no {path}. Download the checkpoint again, or correct the folder.") from None
    except OSError as error:
        raise CheckpointDamaged(f"{path} cannot be read: {error.strerror}. Check its permissions and the disk.") from error
    if start == b"version " or not raw.startswith(b"{"):
        raise CheckpointDamaged(
            f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder."
            if start == b"version "
            else f"{path} ({size} bytes) is not a safetensors file. Download it again."
        )
    if len(raw) < length:
        raise CheckpointDamaged(f"{path} is cut off inside its header, at {size} bytes. Download it again.")
    try:
        entries = {name: entry for name, entry in json.loads(raw).items() if name != "__metadata__"}
        tensors: dict[str, StoredTensor] = {}
        end = 0
        for name, entry in entries.items():
            dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            if dtype in _BYTES and last - first != _BYTES[dtype] * math.prod(shape):
                raise ValueError(f"{name} has {last - first} bytes for shape {list(shape)} of {dtype}")
            tensors[_released_name(name)] = StoredTensor(name, dtype, shape)
            end = max(end, last)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointDamaged(f"The header of {path} is not valid ({error}). Download it again.") from error
    wanted = 8 + length + end
    if size != wanted:
        what = "is cut off" if size < wanted else "has something appended"
        raise CheckpointDamaged(f"{path} {what}: {size} bytes where its header needs {wanted}. Download it again.")
    return tensors


def _released_name(name: str) -> str:
    for older, released in _OLDER_NAMES:
        if name.endswith(older):
            return name.removesuffix(older) + released
    return name
