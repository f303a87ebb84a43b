"""Modules with the weights that `cf_agents.synthetic` draws by tensor name, as the goldens' networks have them."""

from __future__ import annotations

import torch
from torch import nn

from cf_agents.models.layout import assign, released_layout
from cf_agents.synthetic import draw


def load_drawn(module: nn.Module, prefix: str = "", seed: int = 0) -> None:
    """Fill `module` with drawn weights; `prefix` is what the released file puts before its names."""
    layout = released_layout(module, prefix)
    kinds = {prefix + name: value.dtype for name, value in module.state_dict().items()}

    def read(name: str) -> torch.Tensor:
        value = torch.from_numpy(draw(name, layout[name], seed))
        return value.to(kinds.get(name, torch.float32))

    assign(module, read, prefix)
