"""`cf-agents say`: one text, standard input as it arrives, or many texts at once; into files, a pipe or the loudspeaker."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import dataclasses
import io
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import anyio
import anyio.to_thread
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from cf_agents.audio import AudioChunk, WavWriter
from cf_agents.backends import cpu_threads
from cf_agents.config import DecodeParams
from cf_agents.errors import AudioError, CfAgentsError, ConfigError, TextError
from cf_agents.stream import Stream
from cf_agents.timeline import draw
from cf_agents.tts import TTS
from cf_agents.voice import Voice

STDOUT = "-"
_STYLES = {"text": "cyan", "decode": "magenta", "audio": "green", "heard": "green"}


class Sink(Protocol):
    """Where chunks go."""

    async def write(self, chunk: AudioChunk) -> None:
        """Take a chunk; waits where the other side pushes back."""
        ...


def say(args: argparse.Namespace, knobs: Mapping[str, Any], console: Console) -> int:
    """Run the command, with `knobs` of `DecodeParams` in place of the preset's or the model's.

    Returns the exit status; raises `CfAgentsError` with what to tell.
    """
    if not (args.output or args.play):
        raise ConfigError("Say where the sound goes: -o hello.wav, -o - for raw samples on standard output, or --play.")
    if args.file and (args.text or args.play or args.output == STDOUT):
        raise ConfigError("--file speaks the lines of a file into a folder: give -o FOLDER, and no text, - or --play.")
    if args.output and not args.file and args.output != STDOUT and not Path(args.output).absolute().parent.is_dir():
        raise AudioError(f"There is no folder for {args.output}; make it, or give another path with -o.")
    DecodeParams(**knobs)  # raises before anything is loaded
    return anyio.run(_say_lines if args.file else _say_one, args, knobs, console)


async def _say_one(args: argparse.Namespace, knobs: Mapping[str, Any], console: Console) -> int:
    async with _load(args, console) as tts:
        lead_s = args.lead or (tts.lead_s if args.play else math.inf)
        voice = _voice(tts, args)
        params = dataclasses.replace(tts.params, **knobs)
        async with tts.stream(
            voice, params=params, seed=args.seed, lead_s=lead_s, sample_rate=args.sample_rate, encoding=args.encoding
        ) as stream:
            async with _sinks(args, stream.sample_rate) as sinks, anyio.create_task_group() as group:
                group.start_soon(_write, stream, args.text)
                async for chunk in stream:
                    for sink in sinks:
                        await sink.write(chunk)
            if not args.quiet:
                _tell_one(tts, stream, console)
    return 0


async def _write(stream: Stream, text: list[str]) -> None:
    if text:
        stream.write(" ".join(text))
    else:
        async for piece in _standard_input():
            stream.write(piece)
    stream.end()


async def _standard_input() -> AsyncIterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    while True:
        data = await anyio.to_thread.run_sync(os.read, sys.stdin.fileno(), 4096, abandon_on_cancel=True)
        yield decoder.decode(data, final=not data)
        if not data:
            return


async def _say_lines(args: argparse.Namespace, knobs: Mapping[str, Any], console: Console) -> int:
    lines = _lines(args.file)
    folder = _folder(args.output)
    failures: list[str] = []
    audio_s = 0.0
    digits = max(4, len(str(len(lines))))
    async with _load(args, console) as tts:
        voice, params = _voice(tts, args), dataclasses.replace(tts.params, **knobs)
        # One more would be told that the house is full.
        room = anyio.CapacityLimiter(args.streams)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        began = time.monotonic()
        with Progress(*columns, console=console, disable=args.quiet) as progress:
            task = progress.add_task("Speaking", total=len(lines))

            async def speak(number: int, text: str) -> None:
                nonlocal audio_s
                async with room:
                    path = folder / f"{number:0{digits}}.wav"
                    try:
                        audio_s += await _say_into(
                            tts.stream(
                                voice,
                                params=params,
                                seed=args.seed,
                                lead_s=args.lead or math.inf,
                                sample_rate=args.sample_rate,
                                encoding=args.encoding,
                            ),
                            text,
                            path,
                        )
                    except CfAgentsError as error:
                        failures.append(f"line {number}: {type(error).__name__}: {error}")
                progress.advance(task)
                progress.update(task, description=f"{audio_s:.0f} s of speech")

            async with anyio.create_task_group() as group:
                for number, text in enumerate(lines, start=1):
                    group.start_soon(speak, number, text)
        elapsed_s = time.monotonic() - began
        if not args.quiet:
            rate = f", {audio_s / elapsed_s:.1f} s of speech a second" if elapsed_s else ""
            console.print(
                f"{len(lines) - len(failures)} files in {folder}: {audio_s:.1f} s of speech in {elapsed_s:.1f} s{rate}"
            )
            _tell_model(tts, console)
    for failure in failures:
        console.print(Text(f"cf-agents: {failure}", style="red"), soft_wrap=True)
    return 2 if failures else 0


async def _say_into(opened: Stream, text: str, path: Path) -> float:
    async with opened as stream:
        stream.write(text)
        stream.end()
        with WavWriter.create(path, stream.sample_rate, encoding=stream.encoding) as file:
            async for chunk in stream:
                file.write(chunk)
            return file.duration_s


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{path} cannot be read as text ({error}). Give a UTF-8 file with one text a line.") from error
    lines = [line for line in lines if line]
    if not lines:
        raise TextError(f"{path} has no text in it; put one text on each line.")
    return lines


def _folder(name: str) -> Path:
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudioError(f"Cannot make the folder {name} ({error.strerror}). Give another one with -o.") from error
    return Path(name)


@asynccontextmanager
async def _load(args: argparse.Namespace, console: Console) -> AsyncIterator[TTS]:
    async with contextlib.AsyncExitStack() as stack:
        with told(console, args.quiet) as progress:
            tts = TTS.load(
                args.model,
                backend=args.backend,
                dtype=args.dtype,
                device=args.device,
                quantise=args.quantise,
                max_streams=args.streams,
                # One speaker in a process of its own already.
                threads=cpu_threads() if args.threads is None else args.threads,
                link="thread",
                params=args.preset,
                revision=args.revision,
                local_files_only=args.offline,
                progress=progress,
            )
            await stack.enter_async_context(tts)
        yield tts


@contextmanager
def told(console: Console, quiet: bool) -> Iterator[Callable[[str], None] | None]:
    """What `TTS.load` takes as its progress, shown while the block lasts."""
    if quiet:
        yield None
        return
    with contextlib.ExitStack() as stack:
        status = console.status("")
        started = False

        def tell(message: str) -> None:
            nonlocal started
            if message.startswith("Looking for"):
                # The hub library may draw bars of its own next.
                console.print(Text(message, style="dim"))
                return
            status.update(message)
            if not started:
                stack.enter_context(status)
                started = True

        yield tell


def _voice(tts: TTS, args: argparse.Namespace) -> Voice | str:
    if args.exaggeration is None:
        return args.voice
    voice = tts.voices[args.voice] if args.voice in tts.voices else Voice.load(args.voice)
    return voice.with_exaggeration(args.exaggeration)


@asynccontextmanager
async def _sinks(args: argparse.Namespace, sample_rate: int) -> AsyncIterator[list[Sink]]:
    async with contextlib.AsyncExitStack() as stack:
        sinks: list[Sink] = []
        if args.output == STDOUT:
            # Unbuffered: nothing is left to flush to a reader that has gone.
            raw = stack.enter_context(io.FileIO(sys.stdout.fileno(), "wb", closefd=False))
            sinks.append(_File(stack.enter_context(WavWriter(raw, sample_rate, header=False, encoding=args.encoding))))
        elif args.output:
            sinks.append(_File(stack.enter_context(WavWriter.create(args.output, sample_rate, encoding=args.encoding))))
        if args.play:
            sinks.append(await stack.enter_async_context(_Player(sample_rate)))
        yield sinks


class _File:
    def __init__(self, writer: WavWriter) -> None:
        self._writer = writer

    async def write(self, chunk: AudioChunk) -> None:
        await anyio.to_thread.run_sync(self._writer.write, chunk, abandon_on_cancel=True)


class _Player:
    def __init__(self, sample_rate: int) -> None:
        try:
            import sounddevice  # pyright: ignore[reportMissingImports]
        except (ImportError, OSError) as error:
            raise AudioError(
                f"--play needs the package sounddevice and the PortAudio library ({error}): pip install 'cf-agents[play]', or "
                "write a file with -o."
            ) from error
        try:
            self._out = sounddevice.RawOutputStream(samplerate=sample_rate, channels=1, dtype="int16")
            self._out.start()
        except sounddevice.PortAudioError as error:
            raise AudioError(f"No loudspeaker can be opened ({error}); write a file with -o.") from error

    async def __aenter__(self) -> _Player:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await anyio.to_thread.run_sync(self._out.stop, abandon_on_cancel=True)
        else:
            self._out.abort()
        self._out.close()

    async def write(self, chunk: AudioChunk) -> None:
        await anyio.to_thread.run_sync(self._out.write, chunk.samples.tobytes(), abandon_on_cancel=True)


def _tell_one(tts: TTS, stream: Stream, console: Console) -> None:
    stats = stream.stats
    if stats.ttfa_s is None or stats.rtf is None:
        console.print("Nothing was written, so nothing was said.")
        return
    took_s = stats.delivered[-1].at_s - stats.written[0].at_s
    console.print(
        f"time to first audio [bold]{stats.ttfa_s * 1e3:.0f} ms[/], {stats.audio_s:.2f} s of speech in {took_s:.2f} s, "
        f"real-time factor [bold]{stats.rtf:.3f}[/] ({len(stats.blocks)} blocks, {stats.steps} steps), seed {stream.seed}"
    )
    _tell_model(tts, console)
    for row in draw(stats, max(20, min(console.width, 120) - 8)):
        console.print(Text(f"{row.label:>6} ") + Text(row.cells, style=_STYLES.get(row.label, "dim")), no_wrap=True)


def _tell_model(tts: TTS, console: Console) -> None:
    threads = f", {tts.choice.threads} thread(s)" if tts.choice.device == "cpu" else ""
    bits = f", weights in {tts.choice.quantise} bits" if tts.choice.quantise else ""
    runs = f"{tts.choice.backend} on {tts.choice.device} in {tts.choice.dtype}{bits}{threads}"
    console.print(Text(f"{tts.config.name}, {runs}", "dim"))
    if not tts.config.trained:
        console.print(Text("This model has random weights: nobody trained it, and what it says is noise.", "yellow"))
