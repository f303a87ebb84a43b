"""The offline example runs as it stands, with Pipecat's own output transport and clock."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import soundfile

pytestmark = pytest.mark.anyio

EXAMPLE = Path(__file__).parents[3] / "examples" / "pipecat_offline.py"


@pytest.mark.timeout(400)
async def test_the_offline_bot_is_interrupted_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("pipecat_offline", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "HEARD_S", 0.5)
    monkeypatch.setattr(example, "ANSWERS", [example.ANSWERS[0], "It is twelve dollars."])
    await example.main("tiny", tmp_path)
    heard, missed, afterwards = capsys.readouterr().out.splitlines()
    assert heard.removeprefix("heard: ") + " " + missed.removeprefix("not heard: ") == example.ANSWERS[0]
    assert len(heard.split()) > 1
    assert afterwards == "heard afterwards: It is twelve dollars."
    assert soundfile.info(tmp_path / "out.wav").duration > 0.5
    assert (tmp_path / "timeline.png").read_bytes()[:4] == b"\x89PNG"
