"""Weights that were rounded before are told by the values in their blocks, and so are the grids that give them back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgelib.errors import EdgelibError
from edgelib.formats.table import fake_quantize
from edgelib.quant.rounded import grids_of, rounded_before, values_per_block

ROUNDED = {
    "q4_1": dict(format="q4_1"),
    "q4_0": dict(format="q4_0"),
    "w4 with -g32": dict(format="int4", granularity=32),
    "w4 with -g32-asym": dict(format="int4", granularity=32, symmetric=False),
}


def network(**how) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 8))
    if how:
        net[0].weight.data = fake_quantize(net[0].weight.detach(), **how)
    return net


def test_different_values_are_counted_by_block():
    weight = torch.tensor([[1.0, 2, 1, 2, 0, 0, 0, 0], [1, 2, 3, 4, -0.0, 0, 5, 5]])
    assert values_per_block(weight, 4).tolist() == [[2, 1], [4, 2]]
    with pytest.raises(EdgelibError, match="blocks of 3 do not divide rows of 8"):
        values_per_block(weight, 3)


@pytest.mark.parametrize("label", ROUNDED)
def test_a_grid_gives_back_what_it_made(label):
    net = network(**ROUNDED[label])
    assert rounded_before(net)["rounded"].tolist() == [True, False]
    assert label in grids_of(net)
    if label == "q4_1":  # whose zero is no code, unlike that of an integer grid
        assert grids_of(net) == ["q4_1"]


@pytest.mark.parametrize("cast", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_weights_in_floating_point_lie_on_no_grid(cast):
    net = network()
    net[0].weight.data = net[0].weight.data.to(cast).float()
    assert not rounded_before(net)["rounded"].any() and grids_of(net) == []


def test_eight_bits_and_empty_layers_are_no_four_bits():
    assert not rounded_before(network(format="int8", granularity=32))["rounded"].any()
    net = network()
    nn.init.zeros_(net[0].weight)
    assert not rounded_before(net)["rounded"].any()
