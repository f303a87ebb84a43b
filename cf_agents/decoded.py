"""What the decoder gives for a block it has finished. Knows nothing of tensors, engines or audio."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decoded:
    """A finished block: its codec tokens, as far as they are heard; none where its first was the stop.

    places: where in the prefix's text ids each token is spoken (`engines.base.Scored.places`), as the last denoising step saw
    it. None where the engine has no alignment heads.
    """

    tokens: list[int]
    places: list[float] | None = None
