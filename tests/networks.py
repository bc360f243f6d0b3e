"""Small networks and images that tests of several rooms quantize and observe."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgelib.observe.watch import Pass


class Block(nn.Module):
    """Pre-norm attention-like block: one norm feeds q, k, v; another feeds fc1; fc2 and out read other things."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, 16), nn.Linear(16, width)

    def forward(self, x):
        h = self.norm1(x)
        x = x + self.out(F.scaled_dot_product_attention(self.q(h), self.k(h), self.v(h)))
        return x + self.fc2(F.gelu(self.fc1(F.dropout(self.norm2(x), 0.5, self.training))))


class Model:
    """The part of a ZeroShotModel that calibration uses."""

    def __init__(self, module):
        self.module = module

    def with_module(self, module):
        return Model(module)

    def probe(self):
        self.module(inputs(1))

    def calibration_passes(self, dataset, batch_size):
        for positions, images in dataset.batches(batch_size):
            yield Pass(lambda images=images: self.module(images), positions, "image")


class Images:
    def __init__(self, images, order=None):
        self.images = images
        self.order = torch.arange(len(images)) if order is None else order

    def batches(self, size):
        yield from ((part, self.images[part]) for part in self.order.split(size))


def inputs(count: int = 12) -> torch.Tensor:
    return torch.randn(count, 5, 8, generator=torch.Generator().manual_seed(1))


class Waves(nn.Module):
    """A Linear after a rotation by frequencies that the constructor computes and no checkpoint holds."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)
        self.register_buffer("inv_freq", 1 / torch.arange(3.0, 11), persistent=False)
        self.register_buffer("mean", 1 / torch.arange(3.0, 11))
        self.register_buffer("table", None, persistent=False)

    def forward(self, x):
        return self.fc(x * (self.inv_freq * 100).cos() - self.mean)
