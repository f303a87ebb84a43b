"""Decoding knobs on a command line: "steps=8,guidance=0" or "preset=paper,steps=6"."""

from __future__ import annotations

import dataclasses
from typing import Any

from cf_agents.config import DecodeParams


def parse_knobs(text: str, base: DecodeParams) -> DecodeParams:
    """The knobs of a text; what it does not say is as in its preset, or in `base`. Raises as `DecodeParams` does."""
    given: dict[str, Any] = dict(part.split("=", 1) for part in text.split(",") if part)
    if "preset" in given:
        base = DecodeParams.preset(given.pop("preset"))
    kinds = {each.name: type(each.default) for each in dataclasses.fields(DecodeParams) if each.default is not None}
    return dataclasses.replace(base, **{name: kinds.get(name, int)(value) for name, value in given.items()})
