"""The command line: `cf-agents say`, `serve`, `voice` and `doctor`. Parses, makes messages of errors; knows no work itself."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.text import Text

import cf_agents
from cf_agents.backends import Backend, Dtype, Quantise
from cf_agents.config import PRESETS
from cf_agents.encoding import Encoding
from cf_agents.errors import CfAgentsError
from cf_agents.opening import DEFAULT_MODEL
from cf_agents.voice import DEFAULT_VOICE

FAILED = 2
INTERRUPTED = 130
"""128 and the number of SIGINT, as shells have it."""

_KNOBS: dict[str, tuple[type, str]] = {
    "steps": (int, "denoising steps per block at most"),
    "temperature": (float, "of token sampling; 0 takes the most likely token"),
    "early": (float, "alpha of early decoding; more is faster, 0 is off"),
    "guidance": (float, "classifier-free guidance weight; 0 halves the work"),
    "schedule_shift": (float, "t of the unmasking curve"),
    "position_noise": (float, "noise on the scores that rank positions"),
    "prior": (str, "causal or marginal: what scores are measured against"),
    "block_size": (int, "speech tokens per block, 40 ms each"),
    "max_tokens": (int, "most speech tokens of one segment"),
    "retakes": (int, "how often a block that leaves a word out is denoised again"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, 2 for an error that was told, 130 when interrupted."""
    args = parser().parse_args(argv)
    console = Console(stderr=True, highlight=False)
    if args.verbose:
        logging.basicConfig(level=logging.DEBUG if args.verbose > 1 else logging.INFO, stream=sys.stderr)
    try:
        match args.command:
            case "say":
                from cf_agents.cli_say import say

                return say(args, _knobs(args), console)
            case "serve":
                from cf_agents.cli_serve import serve

                serve(args, console)
            case "doctor":
                from cf_agents.doctor import report

                report(console, args.model)
            case _:
                from cf_agents.cli_voice import make, show

                make(args, console) if args.action == "make" else show(args, console)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return INTERRUPTED
    except (BaseExceptionGroup, BrokenPipeError, CfAgentsError) as error:
        if not _tell(error, console):
            raise
        return FAILED
    return 0


def parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    top = argparse.ArgumentParser(prog="cf-agents", description="Streaming text-to-speech for voice agents.")
    top.add_argument("--version", action="version", version=f"cf-agents {cf_agents.__version__}")
    commands = top.add_subparsers(dest="command", required=True)
    _say_parser(commands.add_parser("say", help="speak a text, standard input as it arrives, or many texts at once"))
    _serve_parser(commands.add_parser("serve", help="one engine for every process of this user that attaches to a socket"))
    voice = commands.add_parser("voice", help="make a voice of a recording, or look at one")
    actions = voice.add_subparsers(dest="action", required=True)
    make = actions.add_parser("make", help="make a voice of at least 3 s of clean speech")
    make.add_argument("recording", type=Path, help="a wav, flac, mp3 or ogg file")
    make.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the .safetensors file to write")
    make.add_argument("--name", help="what the voice is called; the file's name if not given")
    make.add_argument("--exaggeration", type=float, default=0.5, metavar="X", help="0 to 2; 0.5 is neutral")
    show = actions.add_parser("show", help="what a voice file holds")
    show.add_argument("file", type=Path)
    doctor = commands.add_parser("doctor", help="what is installed, and what would run")
    for each in (make, show, doctor):
        _common(each)
    return top


def _say_parser(say: argparse.ArgumentParser) -> None:
    say.add_argument("text", nargs="*", help="what to say; without it standard input is spoken as it arrives")
    say.add_argument("--file", type=Path, metavar="FILE", help="many texts, one a line, spoken at once into the folder of -o")
    say.add_argument(
        "-o", "--output", metavar="PATH", help="a wav file; a folder with --file; - is raw samples on standard output"
    )
    say.add_argument("--play", action="store_true", help="play it (needs the package sounddevice)")
    say.add_argument("--voice", default=DEFAULT_VOICE, help="a voice of the model, or a voice file")
    say.add_argument("--exaggeration", type=float, metavar="X", help="0 to 2; 0.5 is neutral")
    say.add_argument("--seed", type=int, help="the same seed and text give the same speech")
    say.add_argument("--sample-rate", type=int, metavar="HZ", help="of the output; the model's if not given")
    say.add_argument("--encoding", choices=get_args(Encoding), default="s16le", help="of the output; mulaw and alaw are G.711")
    say.add_argument("--lead", type=float, metavar="S", help="how far synthesis runs ahead of playback; no limit into a file")
    say.add_argument("--quiet", action="store_true", help="no figures and no timeline")
    _machine(say)
    say.add_argument("--streams", type=int, default=8, metavar="N", help="texts of --file spoken at the same time")
    say.add_argument("--preset", choices=list(PRESETS), help="decoding knobs to start from; the model's own if not given")
    for name, (kind, meaning) in _KNOBS.items():
        say.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help=meaning)
    _common(say)


def _serve_parser(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--socket", type=Path, required=True, metavar="PATH", help="where TTS.attach finds it")
    serve.add_argument("--idle", type=float, default=math.inf, metavar="S", help="end after so long without a client")
    serve.add_argument("--quiet", action="store_true", help="say nothing but errors")
    serve.add_argument("--streams", type=int, default=8, metavar="N", help="spoken at the same time, of all clients together")
    _machine(serve)
    _common(serve)


def _machine(command: argparse.ArgumentParser) -> None:
    """What runs the model."""
    command.add_argument("--backend", choices=get_args(Backend), default="auto")
    command.add_argument("--dtype", choices=get_args(Dtype), default="auto")
    command.add_argument(
        "--quantise",
        type=_quantise,
        default="auto",
        metavar="{auto,none,8,4}",
        help="bits of the decoder's weights: 8 with mlx and on a CPU, 4 with mlx, none for weights as they are; auto is what "
        "the model names",
    )
    command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps")
    command.add_argument("--threads", type=int, metavar="N", help="of torch, on the CPU")


def _quantise(text: str) -> Quantise:
    for each in get_args(Quantise):
        if str(each).lower() == text:
            return each
    raise argparse.ArgumentTypeError(f"{text!r} is none of auto, none, 8 and 4")


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default=DEFAULT_MODEL, help="pocket, tiny, a checkpoint folder, or a hub id")
    command.add_argument("--revision", help="a branch, tag or commit of the hub")
    command.add_argument("--offline", action="store_true", help="use the hub's cache only")
    command.add_argument("-v", "--verbose", action="count", default=0, help="say what is done; twice for more")


def _knobs(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(args).items() if name in _KNOBS and value is not None}


def _tell(error: BaseException, console: Console) -> bool:
    """Print what this package raised on purpose; whether that was all there is."""
    if isinstance(error, BaseExceptionGroup):
        told = [_tell(each, console) for each in error.exceptions]
        return all(told)
    if isinstance(error, CfAgentsError):
        console.print(Text("cf-agents: ", "bold red") + Text(f"{type(error).__name__}: {error}", "default"), soft_wrap=True)
        return True
    # A reader that has gone needs no message.
    return isinstance(error, BrokenPipeError)
