"""The package as its ecosystem takes it: importing does nothing, the framework knows it, its papers and examples are true."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from livekit.agents import Plugin
from livekit.plugins import cf_agents
from livekit_fakes import FakeEngine

from cf_agents import TTS
from cf_agents.errors import CheckpointNotFound

PACKAGE = Path(cf_agents.__file__).parent
DISTRIBUTION = PACKAGE.parents[2]
EXAMPLES = DISTRIBUTION.parents[1] / "examples"

IMPORT = """
import asyncio, sys, threading
import livekit.agents
before = set(sys.modules)

def refuse(*arguments, **more):
    raise AssertionError("importing has effects")

asyncio.new_event_loop = asyncio.set_event_loop = asyncio.run = threading.Thread.start = refuse
from livekit.plugins import cf_agents
cf_agents.TTS()
assert not {"torch", "mlx", "soundfile", "tokenizers"} & (set(sys.modules) - before), sorted(set(sys.modules) - before)
"""


def test_importing_starts_nothing_so_the_forkserver_may_do_it() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", "import sys; sys.path[:] = " + repr(sys.path) + IMPORT], check=True)


def test_the_framework_knows_the_plugin() -> None:
    assert cf_agents.plugin in Plugin.registered_plugins
    plugin = cf_agents.plugin
    assert (plugin.title, plugin.package) == ("livekit.plugins.cf_agents", "livekit.plugins.cf_agents")
    assert plugin.version == cf_agents.__version__
    assert plugin.logger is not None


def test_download_files_fetches_the_models_that_were_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cf_agents.plugin.models == ["pocket"]
    cf_agents.plugin.download_files()
    monkeypatch.setattr(cf_agents.plugin, "models", ["pocket", str(tmp_path / "nowhere")])
    with pytest.raises(CheckpointNotFound):
        cf_agents.plugin.download_files()


def test_the_namespace_belongs_to_nobody() -> None:
    assert PACKAGE == DISTRIBUTION / "livekit" / "plugins" / "cf_agents"
    assert not (PACKAGE.parent / "__init__.py").exists()
    assert not (PACKAGE.parents[1] / "__init__.py").exists()
    assert (PACKAGE / "py.typed").is_file()


def test_the_papers_know_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (DISTRIBUTION / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", cf_agents.__version__]
    assert "1.8.9" in (DISTRIBUTION / "README.md").read_text("utf-8")
    assert "MIT" in (DISTRIBUTION / "LICENSE").read_text("utf-8")


async def test_the_offline_example_ends_in_the_middle_and_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TTS, "load", lambda model, observers: FakeEngine(observers))
    example = runpy.run_path(str(EXAMPLES / "livekit_offline.py"))
    await example["main"]("pocket", tmp_path)
    told = capsys.readouterr().out
    (_, first), (_, second) = example["TURNS"]
    heard, missed = re.search(r"heard: (.+?) *\nnot heard: (.+)\n", told).groups()
    assert heard.startswith("The first train to the coast leaves")
    assert f"{heard} {missed}" == first
    assert f"afterwards: {second}" in told
    audio, rate = soundfile.read(tmp_path / "out.wav")
    spoken_s = len(audio) / rate
    assert 3.0 + len(second) / 15 - 0.5 < spoken_s < 3.0 + len(second) / 15 + 2.0
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_the_agents_file_needs_only_what_it_says() -> None:
    source = (EXAMPLES / "livekit_agent.py").read_text("utf-8")
    compile(source, "livekit_agent.py", "exec")
    assert "pip install livekit-plugins-cf-agents livekit-plugins-openai" in source
