"""A checkpoint as something that a process can speak with for others: how it is built there, and what is said of it.

Importing this file imports no tensor library.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cf_agents.backends import Choice
from cf_agents.errors import ServerMismatch

if TYPE_CHECKING:
    from cf_agents.links.host import Speaker

MODEL_FACTORY = "cf_agents.serving:load_model"
_NOTHING_ASKED: Mapping[str, object] = types.MappingProxyType({"folder": None, "threads": None})
"""Of those where it is not "auto"."""


@dataclass(frozen=True)
class Served:
    """What runs in a process that speaks for others."""

    folder: str
    """The checkpoint's, absolute and without links."""
    choice: Choice


@dataclass
class Demand:
    """What a client asks of a server: a model, and what of `backends.choose` it named.

    "auto" takes what there is, and so does None for a folder and threads; for `quantise` it means weights as they are.
    """

    folder: str | None
    """Once a server was taken, its model is asked for ever after."""
    asked: Mapping[str, object]

    def check(self, about: object) -> None:
        """Raise `ServerMismatch` when what a server says of itself is something else."""
        if not isinstance(about, Served):
            raise ServerMismatch(f"The server speaks with something that is no model ({about!r}): give another path.")
        runs = {"folder": about.folder} | {name: getattr(about.choice, name) for name in self.asked}
        wanted = {"folder": self.folder, **self.asked}
        wrong = [name for name, value in wanted.items() if value not in (_NOTHING_ASKED.get(name, "auto"), runs[name])]
        if wrong:
            raise ServerMismatch(
                f"The server speaks with {_listed(runs, wrong)}, and {_listed(wanted, wrong)} was asked for: give another path "
                "for another server, or ask for what it has."
            )
        self.folder = about.folder


def load_model(arguments: Mapping[str, object], progress: Callable[[str], None]) -> Speaker:
    """The `host.Factory` of a checkpoint. arguments: folder, max_streams, and those of `backends.choose`. About: `Served`.

    Raises the errors of `choose`, `Checkpoint.fill` and `loading.warm_up`.
    """
    progress("Importing torch")
    from cf_agents.backends import choose
    from cf_agents.builtin import default_voice
    from cf_agents.checkpoint import Checkpoint
    from cf_agents.links.host import Speaker
    from cf_agents.loading import thread_link, warm_up

    match arguments["choose"], arguments["folder"], arguments["max_streams"]:
        case dict(asked), str(folder), int(max_streams):
            checkpoint = Checkpoint.open(folder)
            choice = choose(**asked, named=checkpoint.config.quantise)
            link = thread_link(checkpoint, choice, max_streams, progress)
            voice = default_voice(checkpoint)
            warm_up(link, voice, checkpoint.config, progress)
            return Speaker(link, Served(folder, choice), (voice,))
    raise AssertionError(f"no arguments of a model: {arguments}")


def _listed(values: Mapping[str, object], names: list[str]) -> str:
    return ", ".join(f"{name} {values[name]}" for name in names)
