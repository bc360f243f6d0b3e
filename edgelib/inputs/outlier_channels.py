"""Which channels carry planted outliers: the same for a seed and a layer, whatever the model."""

from __future__ import annotations

import torch
from torch import Tensor

from edgelib.inputs.randomness import address, keys_for

SHARE = 0.05  # of the channels of every layer


def chosen_channels(width: int, seed: int, layer: str) -> Tensor:
    """Indices [max(1, 5 % of width)] of the channels that carry outliers in a layer."""
    order = keys_for(address("outliers", seed, layer), torch.arange(width)).argsort()
    return order[: max(1, round(SHARE * width))].sort().values
