"""A fused Linear of which a mix gives the rows of q, k and v types of their own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgelib.quant.linear import QuantLinear


class Stacked(nn.Module):
    """Quantized Linears that read one input, their outputs one after the other: what the fused Linear computed."""

    def __init__(self, parts: Mapping[str, QuantLinear]):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    @property
    def in_features(self) -> int:
        return next(self.children()).in_features

    @property
    def out_features(self) -> int:
        return sum(part.out_features for part in self.children())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.children()], -1)
