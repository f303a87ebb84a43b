"""Importing has no effects, and the agent's process does not pay for torch until it asks for a model."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import cf_agents

# Modules that must be importable where there is no torch: an agent's process imports them.
LIGHT = (
    "cf_agents",
    "cf_agents.config",
    "cf_agents.errors",
    "cf_agents.engines.base",
    "cf_agents.checkpoint",
    "cf_agents.tts",
    "cf_agents.metrics",
    "cf_agents.tracing",
)

# Back-ends whose package need not be there.
OPTIONAL = {"cf_agents.engines.metal": "mlx", "cf_agents.engines.metal_t3": "mlx"}

WATCH = """
import logging, os, signal, sys, threading, warnings
import numpy  # adds warning filters of its own

before = (
    dict(os.environ),
    threading.active_count(),
    list(logging.root.handlers),
    logging.root.level,
    list(warnings.filters),
    [signal.getsignal(number) for number in signal.valid_signals()],
    os.getcwd(),
    sys.excepthook,
)
loaded = set(sys.modules)
{statement}
after = (
    dict(os.environ),
    threading.active_count(),
    list(logging.root.handlers),
    logging.root.level,
    list(warnings.filters),
    [signal.getsignal(number) for number in signal.valid_signals()],
    os.getcwd(),
    sys.excepthook,
)
names = "environment threads handlers level filters signals directory excepthook".split()
changed = [name for name, old, new in zip(names, before, after) if old != new]
ours = [name for name, logger in logging.Logger.manager.loggerDict.items()
        if name.startswith("cf_agents") and isinstance(logger, logging.Logger) and (logger.handlers or logger.level)]
unwanted = "torch mlx flashinfer transformers huggingface_hub prometheus_client opentelemetry".split()
heavy = sorted(set(unwanted) & (set(sys.modules) - loaded))
if changed or ours or heavy:
    sys.exit(f"changed: {changed}, loggers set up: {ours}, imported: {heavy}")
"""


def child(code: str) -> tuple[int, str, str]:
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return ran.returncode, ran.stdout, ran.stderr


def public_modules() -> list[str]:
    found = (module.name for module in pkgutil.walk_packages(cf_agents.__path__, "cf_agents."))
    return [
        name
        for name in found
        if not any(part.startswith("_") for part in name.split("."))
        and (name not in OPTIONAL or importlib.util.find_spec(OPTIONAL[name]) is not None)
    ]


def test_importing_the_package_has_no_effects_and_takes_no_torch() -> None:
    assert child(WATCH.replace("{statement}", "import cf_agents")) == (0, "", "")


def test_what_an_agent_imports_takes_no_torch() -> None:
    assert child(WATCH.replace("{statement}", f"import {', '.join(LIGHT)}")) == (0, "", "")


def test_the_watch_sees_effects() -> None:
    code, _, said = child(WATCH.replace("{statement}", "import logging; logging.basicConfig()"))
    assert code == 1
    assert "handlers" in said


def test_every_public_module_imports_without_a_warning_or_a_word() -> None:
    modules = public_modules()
    assert "cf_agents.models.t3" in modules
    assert child(f"import {', '.join(modules)}") == (0, "", "")


def test_every_module_says_what_it_is() -> None:
    for path in Path(cf_agents.__path__[0]).rglob("*.py"):
        source = path.read_text("utf-8")
        assert not source.strip() or ast.get_docstring(ast.parse(source)), path.name
