"""`cf-agents serve`: a server in the foreground, for every process of this user that attaches to its socket path."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal

from rich.console import Console
from rich.text import Text

from cf_agents.backends import check_names
from cf_agents.builtin import open_model
from cf_agents.cli_say import told
from cf_agents.errors import ConfigError
from cf_agents.links.far import check_sockets
from cf_agents.links.host import Host
from cf_agents.links.server import Server, claimed
from cf_agents.serving import MODEL_FACTORY, Served


def serve(args: argparse.Namespace, console: Console) -> None:
    """Run the command until SIGTERM, SIGINT, or `--idle` seconds without a client. Raises `CfAgentsError` with what to tell."""
    check_sockets()
    check_names(args.backend, args.dtype, args.quantise, args.threads)
    for name, value, least in (("streams", args.streams, 1), ("idle", args.idle, 0)):
        if value is not None and not value >= least:
            raise ConfigError(f"--{name} is {value}; give at least {least}.")
    with claimed(args.socket) as (address, lock), contextlib.ExitStack() as shown:
        progress = shown.enter_context(told(console, args.quiet)) or (lambda message: None)
        progress(f"Looking for {args.model}")
        checkpoint = open_model(args.model, revision=args.revision, local_files_only=args.offline, progress=not args.quiet)
        asked = {name: vars(args)[name] for name in ("backend", "device", "dtype", "quantise", "threads")}
        arguments = {"folder": str(checkpoint.folder.resolve()), "max_streams": args.streams, "choose": asked}
        host = Host(MODEL_FACTORY, arguments, progress)

        def ready() -> None:
            shown.close()
            if not args.quiet and host.speaker is not None and isinstance(host.speaker.about, Served):
                why = host.speaker.about.choice.why
                console.print(
                    Text(f"{checkpoint.config.name} speaks on {address.path}, {why}. Ctrl-C ends it."), soft_wrap=True
                )

        server = Server(address, lock, host, args.idle, ready)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stop())
        server.run()
    if server.loading:
        # It cannot be interrupted, and nothing waits for it.
        os._exit(0)
    if host.error is not None:
        raise host.error
