"""What a `TTS` was asked for, and how it comes by it: a model of its own, in a process or a thread, or that of a server.

Importing this imports no tensor library; opening does.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from cf_agents.backends import Backend, Choice, Dtype, Quantise, choose
from cf_agents.links.base import Link
from cf_agents.observer import StreamObserver
from cf_agents.voice import DEFAULT_VOICE, Voice

if TYPE_CHECKING:
    from cf_agents.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "pocket"

Linked = Literal["thread", "process"]


@dataclass(frozen=True)
class Request:
    """What `TTS.load` or `TTS.attach` was asked for; nothing of it is done before the block is entered."""

    model: str | Path | None
    """None: what the server has."""
    backend: Backend
    dtype: Dtype
    device: str
    quantise: Quantise
    threads: int | None
    max_streams: int
    link: Linked
    voices: Mapping[str, Voice | str | Path]
    revision: str | None
    local_files_only: bool
    observers: tuple[StreamObserver, ...]
    progress: Callable[[str], None]
    attach: Attach | None = None


@dataclass(frozen=True)
class Attach:
    """The server to share. start: it may be started."""

    path: str | os.PathLike[str]
    start: bool
    idle_s: float


class _Asked(TypedDict):
    """The arguments of `choose`."""

    backend: Backend
    device: str
    dtype: Dtype
    quantise: Quantise
    threads: int | None


@dataclass(frozen=True)
class Opened:
    """A model that can speak, and the way to it."""

    checkpoint: Checkpoint
    choice: Choice
    voices: dict[str, Voice]
    link: Link


def opened(request: Request, abandoned: threading.Event) -> Opened:
    """Read the model and make it ready to speak, or connect to the server that has it. Blocks until then.

    abandoned: set when nobody waits any more; what was opened is closed again. Raises what `TTS.load` and `attach` say.
    """
    model = (_attached if request.attach is not None else _own)(request, abandoned)
    logger.info("%s speaks on %s.", model.checkpoint.config.name, model.choice.why)
    if not model.checkpoint.config.trained:
        logger.info("It has random weights that nobody trained: what it says is noise.")
    return model


def _own(request: Request, abandoned: threading.Event) -> Opened:
    """A model of this process's own."""
    checkpoint = _checkpoint(request)
    voices = _voices(request, checkpoint)
    link, choice = (_process_link if request.link == "process" else _thread_link)(request, checkpoint, voices, abandoned)
    return Opened(checkpoint, choice, voices, link)


def _attached(request: Request, abandoned: threading.Event) -> Opened:
    """The model of a server."""
    from cf_agents.checkpoint import Checkpoint
    from cf_agents.links.attached import AttachedLink, Start
    from cf_agents.serving import MODEL_FACTORY, Demand, Served

    attach = request.attach
    assert attach is not None
    wanted = _checkpoint(request) if request.model is not None else None
    demand = Demand(None if wanted is None else _folder(wanted), {**_asked(request)})
    start = None
    if attach.start:
        start = Start(MODEL_FACTORY, _arguments(request, wanted or _checkpoint(request)), attach.idle_s)
    link = AttachedLink(attach.path, start, request.progress, demand.check)
    link.wait(abandoned)
    try:
        assert isinstance(link.about, Served)
        checkpoint = wanted or Checkpoint.open(link.about.folder)
        return Opened(checkpoint, link.about.choice, _voices(request, checkpoint), link)
    except BaseException:
        link.close()
        raise


def _checkpoint(request: Request) -> Checkpoint:
    from cf_agents.builtin import open_model

    model = DEFAULT_MODEL if request.model is None else request.model
    request.progress(f"Looking for {model}")
    return open_model(
        model,
        revision=request.revision,
        local_files_only=request.local_files_only,
        progress=request.progress is not silently,
    )


def _voices(request: Request, checkpoint: Checkpoint) -> dict[str, Voice]:
    voices = {name: Voice.load(path) for name, path in checkpoint.voices.items()}
    for name, voice in request.voices.items():
        voices[name] = voice if isinstance(voice, Voice) else Voice.load(voice)
    for voice in voices.values():
        voice.check(checkpoint.config)
    return voices


def _thread_link(
    request: Request, checkpoint: Checkpoint, voices: Mapping[str, Voice], abandoned: threading.Event
) -> tuple[Link, Choice]:
    request.progress("Importing torch")
    import torch

    from cf_agents.builtin import default_voice
    from cf_agents.loading import thread_link, warm_up

    asked = _asked(request)
    if request.threads is None:
        # The number that this process has is its own business.
        asked["threads"] = torch.get_num_threads()
    choice = choose(**asked, named=checkpoint.config.quantise)
    link = thread_link(checkpoint, choice, request.max_streams, request.progress)
    warm_up(link, voices.get(DEFAULT_VOICE) or default_voice(checkpoint), checkpoint.config, request.progress)
    if abandoned.is_set():
        link.close()
    return link, choice


def _process_link(
    request: Request, checkpoint: Checkpoint, voices: Mapping[str, Voice], abandoned: threading.Event
) -> tuple[Link, Choice]:
    from cf_agents.links.process import ProcessLink
    from cf_agents.serving import MODEL_FACTORY, Served

    link = ProcessLink(MODEL_FACTORY, _arguments(request, checkpoint), request.progress)
    link.wait(abandoned)
    assert isinstance(link.about, Served)
    return link, link.about.choice


def _arguments(request: Request, checkpoint: Checkpoint) -> dict[str, object]:
    """Of `serving.load_model`."""
    return {"folder": _folder(checkpoint), "max_streams": request.max_streams, "choose": _asked(request)}


def _folder(checkpoint: Checkpoint) -> str:
    return str(checkpoint.folder.resolve())


def _asked(request: Request) -> _Asked:
    return {
        "backend": request.backend,
        "device": request.device,
        "dtype": request.dtype,
        "quantise": request.quantise,
        "threads": request.threads,
    }


def silently(message: str) -> None:
    """Where nobody asked for progress."""
    logger.debug("%s.", message)
