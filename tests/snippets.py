"""The Python examples of a Markdown page, run as a reader would run them: as they stand, in an empty folder.

Two things are put in place of what a reader has and a test has not. The hub id of the released model becomes the folder of a
small random one, and every recording that an example names is there to be read.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import numpy as np
import soundfile

from cf_agents.checkpoint import RELEASED_REPOSITORY

_BLOCK = re.compile(r"^```(?:python|py)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_RECORDING = re.compile(r"""["']([\w-]+\.(?:wav|flac))["']""")


@dataclass(frozen=True)
class Snippet:
    """One fenced block: its page, the line its code starts on, and the code."""

    page: Path
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    def absent_packages(self) -> list[str]:
        """Packages that it imports and this environment lacks, other than our own: an integration's framework."""
        imported: set[str] = set()
        for node in ast.walk(ast.parse(self.code)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
        return sorted(name for name in imported - {"cf_agents"} if importlib.util.find_spec(name) is None)

    def run(self, folder: Path, checkpoint: Path) -> None:
        """Execute it with `folder` as the current directory, which the caller has seen to. What it raises is raised."""
        for name in _RECORDING.findall(self.code):
            write_recording(folder / name)
        # Blank lines in front make tracebacks point into the page.
        source = "\n" * (self.line - 1) + self.code.replace(RELEASED_REPOSITORY, checkpoint.as_posix())
        code = compile(source, str(self.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        space: dict[str, object] = {"__name__": "__main__", "__file__": str(self.page)}
        arguments, sys.argv = sys.argv, [str(self.page)]
        try:
            if code.co_flags & inspect.CO_COROUTINE:

                async def top_level() -> None:
                    await eval(code, space)

                anyio.run(top_level)
            else:
                exec(code, space)
        finally:
            sys.argv = arguments


def snippets(page: Path) -> Iterator[Snippet]:
    """The blocks of `page` marked as Python, in order."""
    text = page.read_text("utf-8")
    for block in _BLOCK.finditer(text):
        yield Snippet(page, text.count("\n", 0, block.start(1)) + 1, block.group(1))


def write_recording(path: Path, seconds: float = 4.0) -> None:
    """A voice-like recording: a wavering harmonic tone in syllables, with breath noise."""
    rate = 24_000
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(140 + 20 * np.sin(2 * np.pi * 0.7 * time)) / rate
    voiced = np.sum([np.sin(k * phase) / k for k in range(1, 12)], axis=0)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 3 * time)
    breath = np.random.RandomState(0).standard_normal(time.shape)
    soundfile.write(path, (0.1 * syllables * voiced + 0.002 * breath).astype(np.float32), rate)
