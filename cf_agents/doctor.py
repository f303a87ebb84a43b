"""What is installed on this machine and what would run on it, as a table to read or to put into a bug report."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

import cf_agents
from cf_agents import backends
from cf_agents.builtin import TINY_NAME, open_model
from cf_agents.checkpoint import RELEASED_REPOSITORY, T3_FILE, Checkpoint
from cf_agents.errors import CfAgentsError

_NEEDED = ("numpy", "anyio", "tokenizers", "safetensors", "huggingface-hub", "soundfile", "soxr", "num2words", "rich")
_EXTRAS = {
    "sounddevice": "--play",
    "trio": "the other event loop",
    "flashinfer-python": "the paged engine on CUDA",
    "mlx": "the engine for Apple silicon",
}


def report(console: Console, model: str) -> None:
    """Print the table. Looks only: nothing is downloaded, built or changed."""
    import torch

    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")

    def tell(name: str, what: str) -> None:
        # Text, not markup: "cf-agents[mlx]" is not a style.
        table.add_row(Text(name), Text(what))

    tell("cf_agents", cf_agents.__version__)
    tell("python", f"{platform.python_version()} on {platform.platform()}")
    tell("torch", f"{torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    tell("cpu", backends.cpu_numbers())
    for n in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(n)
        tell(f"cuda:{n}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, compute {about.major}.{about.minor}")
    if torch.cuda.device_count() == 0:
        tell("cuda", f"none (torch was built {'for CUDA ' + torch.version.cuda if torch.version.cuda else 'without CUDA'})")
    if torch.backends.mps.is_available():
        tell("mps", "available")
    tell("packages", ", ".join(f"{name} {_version(name) or 'MISSING'}" for name in _NEEDED))
    for name, use in _EXTRAS.items():
        tell(name, f"{_version(name) or 'not installed'} ({use})")
    found = _found(model)
    tell("would run", backends.choose(named=None if isinstance(found, str) else found.config.quantise).why)
    for name, why in backends.unavailable().items():
        tell(f"no {name}", why)
    tell("released model", _released())
    tell(f"model {model}", found if isinstance(found, str) else _about(found))
    console.print(table, soft_wrap=True)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _released() -> str:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    found = try_to_load_from_cache(RELEASED_REPOSITORY, T3_FILE)
    return f"{RELEASED_REPOSITORY}: {Path(found).parent if isinstance(found, str) else f'not in {HF_HUB_CACHE}'}"


def _found(model: str) -> Checkpoint | str:
    """A whole checkpoint that is here, or what to say instead."""
    if model == TINY_NAME:
        return "built when it is first asked for; untrained"
    try:
        checkpoint = open_model(model, local_files_only=True)
        checkpoint.verify()
    except CfAgentsError as error:
        return f"{type(error).__name__}: {error}"
    return checkpoint


def _about(checkpoint: Checkpoint) -> str:
    trained = "trained" if checkpoint.config.trained else "untrained"
    return f"{checkpoint.config.name} in {checkpoint.folder}, {trained}, voices: {', '.join(checkpoint.voices) or 'none'}"
