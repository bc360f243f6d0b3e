"""Which attention blocks can be rescaled from the values to the output projection: found by experiment."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgelib.ground.modules import shared_copy
from edgelib.observe.attention import attention_blocks
from edgelib.observe.calibrate import calibrate


class Attention(nn.Module):
    """Two heads of width 4 with something between the values and the output projection."""

    def __init__(self, values: int = 8, between=lambda x, v: x):
        super().__init__()
        self.q_proj, self.out_proj = nn.Linear(8, 8), nn.Linear(8, 8)
        self.k_proj, self.v_proj = nn.Linear(8, values), nn.Linear(8, values)
        self.between = between

    def forward(self, x):
        q, k, v = (p(x).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)
        return self.out_proj(self.between(mixed, v))


class Normed(Attention):
    """Another kind of block, with a norm in between, as in BitNet and EVA."""

    def __init__(self):
        super().__init__(between=lambda x, v: F.layer_norm(x, (8,)))


class Net(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.blocks, self.norm, self.head = nn.ModuleList(blocks), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x))


def inputs() -> torch.Tensor:
    return torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))


def fed_by_value(net) -> dict[str, str]:
    return calibrate(net, [inputs()]).fed_by_value


def test_values_feed_the_output_projection():
    assert fed_by_value(Net(Attention(), Attention())) == {
        f"blocks.{i}.out_proj": f"blocks.{i}.v_proj" for i in range(2)
    }


def test_folding_into_what_is_found_keeps_the_function():
    net = Net(Attention(), Attention()).double()
    x, twin = inputs().double(), shared_copy(net)
    for out, value in calibrate(net, [x]).fed_by_value.items():
        scale = torch.rand(8, dtype=torch.float64) + 0.5
        v, o = twin.get_submodule(value), twin.get_submodule(out)
        v.weight.data, v.bias.data = v.weight / scale[:, None], v.bias / scale
        o.weight.data = o.weight * scale
    assert torch.allclose(twin(x), net(x), rtol=1e-10)


BETWEEN = {
    "norm": lambda x, v: F.layer_norm(x, (8,)),
    "other order": lambda x, v: x.flip(-1),
    "curve": lambda x, v: x.square(),
    "offset": lambda x, v: x + 1,
    "nothing": lambda x, v: x * 0,
    "chance": lambda x, v: x + torch.randn_like(x),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_a_block_with_something_in_between_is_left_out(between):
    assert fed_by_value(Net(Attention(between=BETWEEN[between]))) == {}


def test_values_with_another_reader_are_left_out():
    class Leaky(Net):
        def forward(self, x):
            return self.head(self.norm(self.blocks[0](x) + self.blocks[0].v_proj(x)))

    assert fed_by_value(Leaky(Attention())) == {}


def test_one_kind_of_block_does_not_spoil_another():
    assert fed_by_value(Net(Attention(), Normed(), Attention())) == {
        "blocks.0.out_proj": "blocks.0.v_proj",
        "blocks.2.out_proj": "blocks.2.v_proj",
    }


def test_grouped_values_are_left_out_and_still_attention():
    net = Net(Attention(values=4))
    assert fed_by_value(net) == {} and [a.name for a in attention_blocks(net)] == ["blocks.0"]


def test_a_tied_value_projection_is_left_out():
    block = Attention()
    block.k_proj.weight = block.v_proj.weight
    assert fed_by_value(Net(block)) == {}


def test_the_model_is_not_changed():
    net = Net(Attention())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert fed_by_value(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
