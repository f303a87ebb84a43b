"""The command line, run in this process and, where the process matters, in its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from cf_agents import backends
from cf_agents.cli import main
from cf_agents.config import DecodeParams
from cf_agents.models.linear import int8_missing
from cf_agents.stream import Stream
from cf_agents.tts import TTS

QUICK = ["--steps", "2", "--max-tokens", "16"]
ROOT = Path(__file__).parents[1]


def run(*args: str | Path) -> int:
    return main([str(arg) for arg in args])


@contextmanager
def child(*args: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process of its own, all three ends as pipes; it does not outlive the block."""
    command = [sys.executable, "-m", "cf_agents", *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE

    def heed_interrupts() -> None:
        # A shell that runs the tests in the background has them, and so this, ignore SIGINT.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command, cwd=ROOT, env=environment, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, preexec_fn=heed_interrupts
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_say_writes_a_file_and_tells_what_it_took(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hello.wav"
    assert run("say", "Hello", "there.", "--output", path, "--model", tiny_folder, "--seed", "1", *QUICK) == 0
    sound, rate = soundfile.read(path)
    assert (len(sound), rate) == (16 * 960, 24_000)
    assert sound.std() > 0.01
    captured = capsys.readouterr()
    assert captured.out == ""
    for part in ("time to first audio", "real-time factor", "0.64 s of speech", "seed 1", "dense on cpu in float32", "noise"):
        assert part in captured.err
    assert [line.split()[0] for line in captured.err.splitlines()[-5:-1]] == ["text", "decode", "audio", "heard"]


def test_say_writes_what_a_telephone_wants(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    telephone = ("--sample-rate", "8000", "--encoding", "mulaw", "--model", tiny_folder, "--quiet", *QUICK)
    assert run("say", "Hello there.", "-o", path, *telephone) == 0
    (tmp_path / "lines.txt").write_text("Hello there.\n", "utf-8")
    assert run("say", "--file", tmp_path / "lines.txt", "-o", tmp_path / "out", *telephone) == 0
    for made in (path, tmp_path / "out" / "0001.wav"):
        info = soundfile.info(made)
        assert (info.samplerate, info.subtype, info.frames) == (8000, "ULAW", 16 * 320)
    with child("say", "Hello there.", "-o", "-", *telephone) as process:
        raw, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert len(raw) == 16 * 320


def test_the_same_seed_says_the_same(tiny_folder: Path, tmp_path: Path) -> None:
    made = []
    for n, seed in enumerate(["1", "1", "2"]):
        path = tmp_path / f"{n}.wav"
        assert run("say", "Hello.", "-o", path, "--model", tiny_folder, "--seed", seed, "--quiet", *QUICK) == 0
        made.append(path.read_bytes())
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--preset", "paper", "--temperature", "0.4", "--block-size", "8"], DecodeParams(8, 0.4, 0.5, block_size=8)),
        (["--prior", "marginal"], DecodeParams(steps=3, guidance=0.0, prior="marginal")),
    ],
    ids=["of a preset", "of the checkpoint"],
)
def test_knobs_reach_the_stream(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], wanted: DecodeParams
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"decoding": {"steps": 3, "guidance": 0.0}}))
    asked: list[DecodeParams | str | None] = []
    real = TTS.stream

    def stream(self: TTS, *args: Any, **rest: Any) -> Stream:
        asked.append(rest["params"])
        return real(self, *args, **rest)

    monkeypatch.setattr(TTS, "stream", stream)
    assert run("say", "Hi.", "-o", tmp_path / "x.wav", "--model", folder, "--quiet", "--max-tokens", "16", *given) == 0
    assert asked == [replace(wanted, max_tokens=16)]


def test_every_knob_has_an_option() -> None:
    from cf_agents import cli

    assert set(cli._KNOBS) == set(DecodeParams.__dataclass_fields__)


def test_many_lines_become_many_files(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lines.txt").write_text("One.\n\nTwo, and a bit more.\n   \nThree!\n😀\n", "utf-8")
    out = tmp_path / "out"
    assert run("say", "--file", tmp_path / "lines.txt", "-o", out, "--model", tiny_folder, "--streams", "2", *QUICK) == 0
    assert sorted(path.name for path in out.iterdir()) == ["0001.wav", "0002.wav", "0003.wav", "0004.wav"]
    assert [soundfile.info(path).frames for path in sorted(out.iterdir())] == [16 * 960] * 3 + [2400]
    assert "4 files" in capsys.readouterr().err


def test_standard_input_is_spoken_as_it_arrives(tiny_folder: Path) -> None:
    with child("say", "-o", "-", "--model", tiny_folder, *QUICK) as process:
        assert process.stdin
        assert process.stdout
        # Ends in the middle of a letter.
        process.stdin.write("Good morning to everybody who has come here today. This is a na\u00efve".encode()[:-3])
        process.stdin.flush()
        # Sound comes while the writer has not finished.
        first = process.stdout.read(1000)
        assert first
        rest, said = process.communicate("\u00efve text, and this is its end.".encode()[1:], timeout=60)
        assert process.returncode == 0, said
    samples = np.frombuffer(first + rest, "<i2")
    assert len(samples) % 960 == 0
    assert len(samples) > 16 * 960
    assert samples.std() > 300


def test_an_interrupt_stops_at_once_and_leaves_a_playable_file(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with child("say", "A very long text that goes on and on. " * 200, "-o", path, "--model", tiny_folder) as process:
        deadline = time.monotonic() + 60
        while not (path.exists() and path.stat().st_size > 100_000):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        # All of it would take minutes.
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
    assert b"Traceback" not in said
    assert soundfile.info(path).frames > 40_000


def test_a_reader_that_goes_away_ends_it(tiny_folder: Path) -> None:
    with child("say", "A long text that goes on and on. " * 50, "-o", "-", "--model", tiny_folder) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(1000)
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(20) == 2, said
    assert b"Traceback" not in said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["say", "hi"], "Say where the sound goes"),
        (["say", "hi", "-o", "nowhere/at/all.wav"], "There is no folder"),
        (["say", "hi", "--file", "x.txt", "-o", "out"], "--file speaks the lines"),
        (["say", "--file", "absent.txt", "-o", "out"], "cannot be read as text"),
        (["say", "hi", "-o", "x.wav", "--sample-rate", "4000", "--model", "{tiny}"], "whole Hz from 8000 to 48000"),
        (["say", "hi", "-o", "x.wav", "--steps", "0"], "DecodeParams.steps is 0"),
        (["say", "hi", "-o", "x.wav", "--model", "absent/folder/x"], "CheckpointNotFound"),
        (["say", "hi", "-o", "x.wav", "--backend", "flashinfer"], "BackendUnavailable"),
        (["say", "hi", "-o", "x.wav", "--backend", "dense", "--quantise", "4"], "option of backend='mlx'"),
        (["say", "hi", "-o", "x.wav", "--voice", "nobody", "--model", "{tiny}"], "no voice 'nobody'"),
        (["say", "hi", "-o", "x.wav", "--exaggeration", "9", "--model", "{tiny}"], "An exaggeration of 9"),
        (["say", "hi", "-o", "x.wav", "--device", "cuda:77", "--model", "{tiny}"], "CUDA devices"),
        (["voice", "show", "absent.safetensors"], "There is no voice file"),
        (["voice", "make", "absent.wav", "-o", "x.safetensors", "--model", "{tiny}"], "absent.wav"),
    ],
)
def test_errors_are_told_without_a_traceback(
    args: list[str],
    message: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*(arg.replace("{tiny}", str(tiny_folder)) for arg in args)) == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.split())
    assert "Traceback" not in said


def test_one_bad_line_does_not_stop_the_others(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lines.txt").write_text("One.\nTwo.\nThree.\n", "utf-8")
    (tmp_path / "out" / "0002.wav").mkdir(parents=True)
    args = ("say", "--file", tmp_path / "lines.txt", "-o", tmp_path / "out", "--model", tiny_folder, *QUICK)
    assert run(*args) == 2
    assert "line 2: AudioError" in capsys.readouterr().err
    assert (tmp_path / "out" / "0003.wav").stat().st_size > 10_000


def test_a_voice_is_made_shown_and_used(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = np.arange(4 * 24_000) / 24_000
    speech = 0.3 * np.sin(2 * np.pi * 150 * seconds) * (1 + np.sin(2 * np.pi * 3 * seconds)) / 2
    soundfile.write(tmp_path / "me.wav", speech + 0.01 * np.random.RandomState(0).standard_normal(len(speech)), 24_000)
    voice = tmp_path / "me.safetensors"
    assert run("voice", "make", tmp_path / "me.wav", "-o", voice, "--name", "Anna", "--model", tiny_folder) == 0
    assert "'Anna'" in capsys.readouterr().err
    assert run("voice", "show", voice) == 0
    shown = capsys.readouterr().out
    assert "Anna" in shown
    assert "4.00 s" in shown
    args = ("say", "Hi there.", "-o", tmp_path / "x.wav", "--voice", voice, "--exaggeration", "1", "--model", tiny_folder)
    assert run(*args, "--quiet", *QUICK) == 0


def test_the_doctor_says_what_would_run(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--model", tiny_folder) == 0
    said = " ".join(capsys.readouterr().err.split())
    for part in (
        "cf_agents 0",
        "torch",
        "would run dense on",
        "thread for this machine",
        "flashinfer",
        "mlx",
        "tiny-random in",
        "untrained",
        "default",
    ):
        assert part in said, part
    for part in ("cpu computes in", "quantise=8"):
        assert part in said, part
    if importlib.util.find_spec("flashinfer") is None:
        assert "no flashinfer The paged engine" in said
        assert "pip install 'cf-agents[flashinfer]'" in said


@pytest.mark.skipif(int8_missing() is not None, reason=str(int8_missing()))
def test_the_bits_that_a_model_names_are_told_and_can_be_refused(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backends, "_cpu_multiplies_bfloat16", lambda: False)
    monkeypatch.setenv("COLUMNS", "400")
    folder = shutil.copytree(tiny_folder, tmp_path / "named")
    (folder / "config.json").write_text(json.dumps({**json.loads((folder / "config.json").read_text()), "quantise": 8}))

    def told(*args: str | Path) -> str:
        assert run(*args) == 0
        return " ".join(capsys.readouterr().err.split())

    say = ("say", "hi", "-o", tmp_path / "x.wav", "--model", folder, "--device", "cpu", *QUICK)
    assert "weights in 8 bits" in told(*say)
    assert "8 bits" not in told(*say, "--quantise", "none")
    assert "weights in 8 bits, as the checkpoint names" in told("doctor", "--model", folder)
    with pytest.raises(SystemExit):
        run(*say, "--quantise", "5")
    assert "none of auto, none, 8 and 4" in capsys.readouterr().err


def test_the_doctor_knows_the_model_that_comes_with_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    assert "trained, voices: " in " ".join(capsys.readouterr().err.split())


def test_playing_without_the_package_says_what_to_install(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("sounddevice"):
        pytest.skip("sounddevice is installed, and this would make noise")
    assert run("say", "hi", "--play", "--model", tiny_folder, *QUICK) == 2
    assert "cf-agents[play]" in " ".join(capsys.readouterr().err.split())


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run("--version")
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("cf-agents 0.")
