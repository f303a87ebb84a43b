"""A checkpoint: a folder in the released layout, found on disk or on the hub, checked and read into networks.

    t3_flash.safetensors   the decoder
    s3gen.safetensors      flow., mel2wav. (the vocoder); speaker_encoder., tokenizer. (only making a voice needs these)
    ve.safetensors         the voice encoder (only making a voice needs it)
    tokenizer.json         text to ids
    config.json            optional: sizes that differ from the released model's
    voices/NAME.safetensors  optional: ready-made voices

Knows nothing of how a network computes. Importing this file imports no tensor library.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cf_agents import hub
from cf_agents.config import ModelConfig
from cf_agents.errors import CheckpointDamaged, CheckpointNotFound
from cf_agents.tokenizer import TextTokenizer
from cf_agents.weights import WeightFile, torch_dtype

if TYPE_CHECKING:
    import torch
    from torch import nn

T3_FILE = "t3_flash.safetensors"
S3GEN_FILE = "s3gen.safetensors"
VOICE_ENCODER_FILE = "ve.safetensors"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "config.json"
REQUIRED_FILES = (T3_FILE, S3GEN_FILE, VOICE_ENCODER_FILE, TOKENIZER_FILE)
RELEASED_REPOSITORY = "ResembleAI/chatterbox-flash"

SECTIONS: Mapping[str, tuple[str, ...]] = types.MappingProxyType(
    {
        T3_FILE: ("",),
        S3GEN_FILE: ("flow.", "mel2wav.", "speaker_encoder.", "tokenizer."),
        VOICE_ENCODER_FILE: ("",),
    }
)
"""Every prefix a file's tensors may have. One network, or part of one, owns each."""

IGNORED: Mapping[str, Mapping[str, str]] = types.MappingProxyType(
    {
        T3_FILE: types.MappingProxyType({}),
        S3GEN_FILE: types.MappingProxyType(
            {
                "tokenizer._mel_filters": "a mel filter bank, a constant that is computed here; later releases leave it out",
                "tokenizer.window": "a Hann window, likewise",
            }
        ),
        VOICE_ENCODER_FILE: types.MappingProxyType({}),
    }
)
"""Tensors a file may hold that no network here reads, and why. Every other one must be there, and nothing else may."""


class Checkpoint:
    """A folder whose files are all there and whose `config.json`, if any, is understood.

    Made by `open`. Weights are read by `fill`; what a file holds is checked then, or all at once by `verify`.
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self.folder = folder
        self.config = config
        self._files: dict[str, WeightFile] = {}

    @classmethod
    def open(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        progress: bool = True,
    ) -> Checkpoint:
        """Open a local folder, or a hub id such as "ResembleAI/chatterbox-flash", which is downloaded once (about 3.2 GB).

        A folder that exists wins over a hub id of the same spelling. `revision` (a branch, tag or commit), `local_files_only`
        and `progress` are for the hub; see `hub.download`.

        Raises `CheckpointNotFound` naming what is not there, `CheckpointDamaged` for a `config.json` that is not JSON,
        `ConfigError` for one with an unknown key, `DownloadError` when the hub cannot be reached or refuses.
        """
        folder = Path(source).expanduser()
        if not folder.exists() and isinstance(source, str) and hub.is_repository(source):
            wanted = (*REQUIRED_FILES, CONFIG_FILE, "voices/*.safetensors")
            folder = hub.download(source, wanted, revision=revision, local_files_only=local_files_only, progress=progress)
        _check_files(folder, source)
        return cls(folder, _read_config(folder / CONFIG_FILE))

    @property
    def voices(self) -> Mapping[str, Path]:
        """The files of ready-made voices that came with it, by name."""
        return {path.stem: path for path in sorted((self.folder / "voices").glob("*.safetensors"))}

    def tokenizer(self) -> TextTokenizer:
        """The text tokenizer. Raises as `TextTokenizer.open` does."""
        return TextTokenizer.open(self.folder / TOKENIZER_FILE, self.config.t3)

    def file(self, name: str) -> WeightFile:
        """One of the weight files, its header checked. Raises `CheckpointDamaged` for a file that is not whole,
        `CheckpointMismatch` when it holds tensors that belong to no part of the model."""
        if name not in self._files:
            file = WeightFile(self.folder / name)
            file.complain((), sorted(key for key in file.tensors if not key.startswith(SECTIONS[name])))
            self._files[name] = file
        return self._files[name]

    def fill(
        self,
        module: nn.Module,
        file: str = T3_FILE,
        prefix: str = "",
        *,
        dtype: torch.dtype | str = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        """Read the part of `file` under `prefix` into `module`, which is best built under `torch.device("meta")`.

        Floating tensors become `dtype`, whatever the file holds; integers keep theirs. Weights already on the CPU in that dtype
        stay mapped from the file, which must not change while the module lives.

        Raises `CheckpointMismatch` when what is under `prefix` is not exactly what the module needs, `CheckpointDamaged` when
        the file is not whole.
        """
        from cf_agents.models.layout import released_layout

        weights = self.file(file)
        weights.verify(released_layout(module, prefix), prefix, IGNORED[file])
        weights.fill(module, prefix, torch_dtype(dtype) if isinstance(dtype, str) else dtype, device)

    def verify(self) -> None:
        """Check every tensor of every file against the configured networks, reading headers only.

        Raises `CheckpointDamaged` or `CheckpointMismatch` naming the first file that fails and all that is wrong with it.
        """
        from cf_agents.models.released import released_layouts

        self.tokenizer()
        for name, layout in released_layouts(self.config).items():
            self.file(name).verify(layout, ignored=IGNORED[name])


def _check_files(folder: Path, source: str | Path) -> None:
    where = f"{source}" if str(folder) == str(source) else f"{source} ({folder})"
    hint = (
        f"A checkpoint folder holds {', '.join(REQUIRED_FILES)}; `hf download {RELEASED_REPOSITORY}` fetches the released one, "
        f'or give the hub id "{RELEASED_REPOSITORY}".'
    )
    if not folder.exists():
        raise CheckpointNotFound(f"There is no folder {where}. {hint}")
    if not folder.is_dir():
        raise CheckpointNotFound(f"{where} is a file; give the folder it is in. {hint}")
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointNotFound(f"{where} lacks {', '.join(missing)}. {hint}")


def _read_config(path: Path) -> ModelConfig:
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return ModelConfig()
    except ValueError as error:
        raise CheckpointDamaged(
            f"{path} is not JSON ({error}). Correct it, or remove it to read the folder as the released model."
        ) from error
    return ModelConfig.from_dict(data)
