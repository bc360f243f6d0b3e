"""Calibration in the order of the network: GPTQ behind rounded layers, GPTAQ against the unrounded network."""

from __future__ import annotations

import copy
from dataclasses import replace

import kv_models
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import random_layer
from networks import Block, Images, Model, inputs
from torch import nn

from edgelib.errors import EdgelibError
from edgelib.formats.table import FORMATS, decode
from edgelib.observe.calibrate import calibrate
from edgelib.quant.methods import gptq as module
from edgelib.quant.methods.gptaq import STRENGTH, drifted_error, round_gptaq
from edgelib.quant.methods.gptq import gptq, round_gptq
from edgelib.quant.methods.layer import Layer
from edgelib.quant.methods.loss import weight_error
from edgelib.quant.methods.rtn import nearest
from edgelib.quant.quantize import quantize
from edgelib.quant.scheme import calibration_of, needs_of, scheme
from edgelib.quant.sequential.units import units_of
from edgelib.quant.sequential.walk import round_in_order

WALKS = ["w4a16-gptq-channel-sequential", "w3a16-gptaq-channel"]


def drifted_layer(spec, seed: int = 0):
    """A layer whose inputs lie off those of the unrounded network, and both inputs [n, in]."""
    layer = random_layer(spec, seed, rows=60)
    x = layer.seen.rows
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 1))
    drift = 0.1 * noise * x.std(0) + 0.1 * x.roll(1, dims=1)
    return replace(layer, seen=replace(layer.seen, drift=drift.T @ x / len(x))), x, x + drift


def spelled_out(weight, hessian, drift, format):
    """Column after column: the error and the column's own drift are made up for by those to come, solved anew."""
    grid = format.fit(weight[:, None], 1.0)
    grid = type(grid)(*(part if part is None else part[:, 0] for part in grid))
    weight, left = weight.clone(), list(range(weight.shape[1]))
    while left:
        column, *left = left
        before = weight[:, column].clone()
        rounded = format.snap(weight[:, column, None], grid)[:, 0]
        remaining = torch.tensor([column, *left])
        inverse = torch.linalg.inv(hessian[remaining][:, remaining])
        weight[:, remaining] -= (before - rounded)[:, None] * inverse[0] / inverse[0, 0]
        if left:
            later = torch.tensor(left)
            weight[:, later] += before[:, None] * (drift[column, later] @ torch.linalg.inv(hessian[later][:, later]))
        weight[:, column] = rounded
    return weight


@pytest.mark.parametrize("format", ["int4", "int3", "fp8_e4m3"])
def test_the_fast_form_of_gptaq_is_the_update_written_out(format, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 5)  # updates across and within blocks
    layer, _, _ = drifted_layer("w4a16-gptaq-channel")
    weight, hessian, drift = (t.double() for t in (layer.weight, layer.seen.hessian, layer.seen.drift))
    hessian = hessian + torch.eye(32, dtype=torch.double)
    encoded, _ = gptq(weight, hessian, FORMATS[format], act_order=False, damping=0.0, drift=STRENGTH * drift)
    expected = spelled_out(weight, hessian, STRENGTH * drift, FORMATS[format])
    assert torch.allclose(decode(encoded), expected, rtol=1e-9)


def test_without_drift_gptaq_is_gptq():
    layer = random_layer("w4a16-gptaq-channel")
    still = replace(layer, seen=replace(layer.seen, drift=torch.zeros(32, 32)))
    plain = decode(round_gptq(random_layer("w4a16-gptq-channel")).encoded)
    assert torch.equal(decode(round_gptaq(layer).encoded), plain)
    assert torch.equal(decode(round_gptaq(still).encoded), plain)


def test_the_drifted_error_is_the_distance_from_the_unrounded_output():
    layer, x, whole = drifted_layer("w4a16-gptaq-channel")
    rounded = nearest(layer.weight, layer.scheme.weight_format)
    target = whole @ layer.weight.T
    expected = (x @ rounded.T - target).square().mean(0) - ((whole - x) @ layer.weight.T).square().mean(0)
    assert torch.allclose(drifted_error(layer, rounded), expected, rtol=1e-3, atol=1e-2)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), spec=st.sampled_from(["w4a16-gptaq-channel", "w3a16-gptaq-g8", "nvfp4-gptaq"]))
def test_gptaq_is_never_worse_than_min_max_on_its_own_loss(seed, spec):
    layer, _, _ = drifted_layer(spec, seed)
    plain = nearest(layer.weight, layer.scheme.weight_format, layer.scheme.group_size)
    found = drifted_error(layer, decode(round_gptaq(layer).encoded))
    assert (found <= drifted_error(layer, plain) + 1e-6 * found.abs()).all()


class Chain(nn.Module):
    """Three blocks in a list and a Linear after them."""

    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(3)), nn.Linear(8, 4)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.fixture
def chain():
    torch.manual_seed(0)
    return Chain().eval()


def test_units_are_blocks_in_the_order_of_calls(chain):
    targets = [name for name, layer in chain.named_modules() if isinstance(layer, nn.Linear)]
    units = units_of(chain, targets, lambda: chain(inputs(2)))
    assert [unit.name for unit in units] == ["blocks.0", "blocks.1", "blocks.2", "head"]
    assert [unit.follows for unit in units] == [False, True, True, False]
    assert [name for unit in units for name in unit.targets] == targets


@pytest.mark.parametrize("loaded", [False, True], ids=["bare", "loaded"])
@pytest.mark.parametrize("spec", ["w3a16-gptq-channel-sequential", "w3a8-gptq-sequential"])
def test_each_layer_is_that_of_a_fresh_calibration_of_the_part_rounded_network(chain, spec, loaded):
    """The slow way: after every group of readers, calibrate the whole network again."""
    data = inputs(10)
    model, calibration = (Model(chain), Images(data)) if loaded else (chain, [data])
    made = quantize(model, spec, calibration)
    made = made.module if loaded else made
    slow, own = copy.deepcopy(chain), scheme(spec)
    plain = scheme(spec.replace("-sequential", ""))
    for group in [
        [f"blocks.{i}.{key}" for key in part] for i in range(3) for part in ("qkv", ["out"], ["fc1"], ["fc2"])
    ]:
        reads = {}
        layer = slow.get_submodule(group[0])
        hook = layer.register_forward_pre_hook(lambda _, args, reads=reads: reads.update(x=args[0]))
        with torch.no_grad():
            slow(data)
        hook.remove()
        rows = own.activation_format.round_rows(reads["x"].flatten(0, -2))
        for name in group:
            linear = slow.get_submodule(name)
            seen = calibrate(nn.Sequential(linear), [(rows,)], needs=["hessian"]).layers["0"]
            layer = Layer(name, linear.weight.detach(), plain, seen)
            expected = decode(round_gptq(layer).encoded)
            found = made.get_submodule(name)
            assert torch.allclose(found.weight, expected, atol=1e-6), name
            parent, _, key = name.rpartition(".")
            setattr(slow.get_submodule(parent), key, found)


@pytest.mark.parametrize("spec", WALKS)
def test_the_model_stays_as_it_is_and_the_set_may_come_in_any_batches(chain, spec):
    before = {key: value.clone() for key, value in chain.state_dict().items()}
    whole = quantize(chain, spec, [inputs(12)])
    parts = quantize(chain, spec, iter(inputs(12).split(5)))
    assert all(torch.equal(before[key], value) for key, value in chain.state_dict().items())
    assert not chain.training and not any(layer._forward_pre_hooks for layer in chain.modules())
    for name in ("blocks.0.q", "blocks.2.fc2", "head"):
        a, b = (m.get_submodule(name).weight for m in (whole, parts))
        assert (a != b).float().mean() < 0.02  # sums in another order


def test_the_reference_is_compared_at_the_same_place(chain):
    seen = {}
    targets = [name for name, layer in chain.named_modules() if isinstance(layer, nn.Linear)]
    made = quantize(chain, "w3a16-minmax-channel", [inputs(6)])

    def make(name, linear, statistics):
        seen[name] = statistics
        return made.get_submodule(name)

    run = lambda network: [lambda: network(inputs(6))]  # noqa: E731
    result = copy.deepcopy(chain)
    round_in_order(chain, result, targets, scheme("w3a16-gptaq-channel"), run, lambda n: n(inputs(1)), make)
    assert seen["blocks.0.q"].drift.abs().max() < 1e-3  # of 16 bits
    x, whole = inputs(6), inputs(6)
    with torch.no_grad():
        for i in range(2):
            x, whole = result.blocks[i](x), chain.blocks[i](whole)
        x, whole = (n.blocks[2].norm1(h).flatten(0, 1) for n, h in ((result, x), (chain, whole)))
    x16 = FORMATS["fp16"].round_rows(x)
    assert torch.allclose(seen["blocks.2.k"].drift, (whole - x16).T @ x16 / len(x), rtol=1e-3, atol=1e-4)
    assert torch.allclose(seen["blocks.2.k"].hessian, x16.T @ x16 / len(x), rtol=1e-4)


def test_a_decoder_gains_on_average():
    """Output error of the last block on tokens that were not calibrated on, three decoders and two widths."""
    test = torch.randint(1, 50, (16, 24), generator=torch.Generator().manual_seed(9))
    total = dict.fromkeys(["minmax", "gptq", "gptaq"], 0.0)
    for seed in range(3):
        model = kv_models.llama()
        for parameter in model.parameters():
            if parameter.dim() == 2:
                generator = torch.Generator().manual_seed(seed + len(parameter))
                parameter.data.normal_(0, 0.06, generator=generator)
        data = [{"input_ids": torch.randint(1, 50, (16, 24), generator=torch.Generator().manual_seed(seed))}]
        with torch.no_grad():
            true = model(input_ids=test, output_hidden_states=True).hidden_states[-1]
            for method in total:
                made = quantize(model, {"preset": f"w3a16-{method}-g16", "exclude": ["lm_head"]}, data)
                found = made(input_ids=test, output_hidden_states=True).hidden_states[-1]
                total[method] += float((found - true).square().mean() / true.square().mean())
    assert total["gptaq"] <= total["gptq"] < total["minmax"]


def test_a_layer_that_no_input_reaches_is_rounded_to_nearest_with_a_warning(chain):
    chain.spare = nn.Linear(8, 8)
    with pytest.warns(UserWarning, match="never reached 1 layers, such as 'spare'"):
        made = quantize(chain, "w4a16-gptq-channel-sequential", [inputs(4)])
    assert torch.equal(made.spare.weight, nearest(chain.spare.weight.detach(), FORMATS["int4"]))
    with pytest.raises(EdgelibError, match="'spare'.*no static scale"):
        quantize(chain, "w8a8-gptq-static-sequential", [inputs(4)])


@pytest.mark.parametrize("spec", WALKS)
def test_statistics_cannot_stand_for_the_set(chain, spec):
    statistics = calibrate(chain, [inputs(4)], needs=["hessian"])
    assert needs_of([spec]) == frozenset() and scheme(spec).needs_calibration
    assert calibration_of(spec, statistics, "the set") == "the set"
    assert calibration_of("w4a16-gptq", statistics, "the set") is statistics
    with pytest.raises(EdgelibError, match="pass the calibration set itself"):
        quantize(chain, spec, statistics)
    with pytest.raises(EdgelibError, match="needs a calibration set"):
        quantize(chain, spec)


def test_sequential_belongs_to_gptq():
    with pytest.raises(EdgelibError, match="sequential=True belongs to gptq; awq has none"):
        scheme("w4a16-awq-sequential")


def test_weight_error_is_the_part_without_drift():
    layer = random_layer("w4a16-gptaq-channel")
    rounded = nearest(layer.weight, layer.scheme.weight_format)
    assert torch.allclose(drifted_error(layer, rounded), weight_error(layer, rounded), rtol=1e-5)
