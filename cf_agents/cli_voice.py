"""`cf-agents voice`: making a voice of a recording, and showing one."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from cf_agents.builtin import open_model
from cf_agents.config import TOKEN_RATE
from cf_agents.voice import Voice


def make(args: argparse.Namespace, console: Console) -> None:
    """Write the voice file of a recording. Raises `VoiceError`, `AudioError` and the errors of a checkpoint."""
    checkpoint = open_model(args.model, revision=args.revision, local_files_only=args.offline, progress=True)
    if not checkpoint.config.trained:
        console.print(f"[yellow]{args.model} is untrained: this voice fits it, and is that of nobody.[/]")
    with console.status("Listening"):
        from cf_agents.loading import reference_model

        model = reference_model(checkpoint)
        voice = Voice.from_audio(args.recording, model, name=args.name, exaggeration=args.exaggeration)
        voice.save(args.output)
    console.print(f"{args.output}: the voice {voice.name!r}, {voice.metadata['seconds']} s of {voice.metadata['source']}")


def show(args: argparse.Namespace, console: Console) -> None:
    """Print what a voice file holds. Raises `VoiceError`."""
    voice = Voice.load(args.file)
    table = Table(show_header=False, box=None)
    rows = {
        "name": voice.name,
        "exaggeration": f"{voice.conditioning.exaggeration:g}",
        "decoder prompt": f"{len(voice.conditioning.prompt_tokens) / TOKEN_RATE:.2f} s",
        "vocoder prompt": f"{len(voice.flow_tokens) / TOKEN_RATE:.2f} s",
        "file": f"{args.file.stat().st_size:,} bytes",
        **voice.metadata,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console(highlight=False).print(table)
