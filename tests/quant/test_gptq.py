"""GPTQ: the authors' results, the update written out, and the laws behind it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import INPUTS, PEERS, WEIGHT, layer_of, random_layer

from edgelib.formats.table import FORMATS, decode
from edgelib.quant.methods import gptq as module
from edgelib.quant.methods.gptq import gptq, inverse_factor, round_gptq
from edgelib.quant.methods.loss import weight_error
from edgelib.quant.methods.ranges import RANGES, best_shrink
from edgelib.quant.methods.rtn import nearest, round_to_nearest

HESSIAN = INPUTS.T @ INPUTS / len(INPUTS)
REFERENCES = [key.split("/")[2] for key in PEERS.files if key.startswith("gptq/") and key.endswith("/Q")]
FORMS = ["int4", "int3", "int8", "fp8_e4m3", "mxfp4", "nvfp4"]


@pytest.mark.parametrize("setting", REFERENCES)
def test_the_error_is_that_of_the_authors(setting):
    bits, kind, group, rest = re.fullmatch(r"b(\d)_(a?sym)_g(None|\d+)(.*)", setting).groups()
    symmetric, group = kind == "sym", None if group == "None" else int(group)
    format = FORMATS[f"int{bits}"].variant(symmetric=symmetric, full_range=symmetric)
    # their range search: the norm is ours, the grid is wider
    shrink = best_shrink(WEIGHT, format, group, [1 - i / 100 for i in range(80)]) if "mse" in rest else 1.0
    damping = 0.1 if "percdamp0.1" in rest else 0.01
    encoded, used = gptq(WEIGHT, HESSIAN, format, group, shrink=shrink, act_order="actorder" in rest, damping=damping)
    theirs = torch.from_numpy(PEERS[f"gptq/W_64x128/{setting}/Q"])
    # their symmetric range is half as wide for a row without negatives
    rows = (WEIGHT < 0).any(1) | torch.tensor(not symmetric)
    error, reference = (((q - WEIGHT)[rows] @ INPUTS.T).square().sum() for q in (decode(encoded), theirs))
    assert used == damping and torch.isclose(error, reference, rtol=0.01)
    assert (decode(encoded) - theirs)[rows].abs().gt(1e-4).float().mean() < 0.01


def spelled_out(weight, hessian, format, order, shrink=1.0):
    """Round column after column; after each, solve anew for the best of those not yet rounded (the paper's eq. 3)."""
    grid = format.fit(weight[:, None], shrink)
    weight, left = weight.clone(), list(order)
    while left:
        column, *left = left
        rounded = format.snap(weight[:, column, None], type(grid)(*(p if p is None else p[:, 0] for p in grid)))[:, 0]
        error = weight[:, column] - rounded
        remaining = torch.tensor([column, *left])
        inverse = torch.linalg.inv(hessian[remaining][:, remaining])
        weight[:, remaining] -= error[:, None] * inverse[0] / inverse[0, 0]
        weight[:, column] = rounded
    return weight


@pytest.mark.parametrize("act_order", [True, False], ids=["act-order", "in place"])
@pytest.mark.parametrize("format", ["int4", "int3", "fp8_e4m3"])
def test_the_fast_form_is_the_update_written_out(format, act_order, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 5)  # updates across and within blocks
    layer = random_layer("w4a16-gptq-channel")
    weight, hessian = layer.weight.double(), layer.seen.hessian.double() + torch.eye(32, dtype=torch.double)
    order = hessian.diagonal().argsort(descending=True).tolist() if act_order else range(32)
    encoded, _ = gptq(weight, hessian, FORMATS[format], act_order=act_order, damping=0.0)
    assert torch.allclose(decode(encoded), spelled_out(weight, hessian, FORMATS[format], order), rtol=1e-9)


@pytest.mark.parametrize("format,group_size", [*((f, None) for f in FORMS), ("int4", 8)])
def test_without_correlation_it_is_round_to_nearest(format, group_size):
    weight = random_layer("w4a16-gptq-channel").weight
    plain = round_to_nearest(weight, FORMATS[format], group_size)
    for diagonal in (torch.ones(32), torch.arange(1.0, 33)):
        for act_order in (True, False):
            encoded, _ = gptq(weight, torch.diag(diagonal), FORMATS[format], group_size, act_order=act_order)
            assert encoded.codes.dtype == plain.codes.dtype and torch.equal(encoded.scale, plain.scale)
            assert torch.equal(decode(encoded), decode(plain))


SPECS = [
    "w4a16-gptq-channel",
    "w3a8-gptq-g8",
    "w4a16-gptq-g8-mse",
    "w4a8-gptq-asym-imatrix",
    "nvfp4-gptq",
    "mxfp4-gptq",
]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), spec=st.sampled_from(SPECS))
def test_never_worse_than_rounding_to_nearest_on_its_own_loss(seed, spec):
    layer = random_layer(spec, seed)
    encoded, notes = round_gptq(layer)
    shrink = RANGES[layer.scheme.weight_range].shrink(layer)
    plain = nearest(layer.weight, layer.scheme.weight_format, layer.scheme.group_size, shrink)
    assert (weight_error(layer, decode(encoded)) <= weight_error(layer, plain)).all()
    assert notes["damping"] == 0.01 and "fallback" not in notes


def test_much_better_than_rounding_to_nearest_where_inputs_are_correlated():
    layer = random_layer("w3a16-gptq-channel", rows=400)
    plain = nearest(layer.weight, layer.scheme.weight_format)
    assert weight_error(layer, decode(round_gptq(layer).encoded)).sum() < 0.6 * weight_error(layer, plain).sum()


def test_the_order_of_calibration_rows_does_not_matter():
    layer = random_layer("w4a16-gptq-channel")
    rows = layer.seen.rows[torch.randperm(40, generator=torch.Generator().manual_seed(1))]
    shuffled = layer_of("w4a16-gptq-channel", layer.weight, rows)
    assert torch.equal(round_gptq(layer).encoded.codes, round_gptq(shuffled).encoded.codes)


def test_the_factor_is_of_the_damped_inverse():
    hessian = random_layer("w4a16-gptq-channel").seen.hessian.double()
    upper, damping = inverse_factor(hessian, 0.01)
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(32, dtype=torch.double)
    assert damping == 0.01 and torch.equal(upper, upper.triu())
    assert torch.allclose(upper.T @ upper, torch.linalg.inv(damped), rtol=1e-8)


@pytest.mark.parametrize("lowest,damping", [(-0.005, 0.01), (-0.05, 0.1), (-0.5, 1.0)])
def test_damping_grows_until_the_factorisation_succeeds(lowest, damping):
    basis = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q
    eigenvalues = torch.ones(8)
    eigenvalues[0] = lowest
    hessian = basis @ torch.diag(eigenvalues / eigenvalues.mean()) @ basis.T
    assert inverse_factor(hessian).damping == pytest.approx(damping)
    assert gptq(torch.ones(2, 8), hessian, FORMATS["int4"])[1] == pytest.approx(damping)


def test_a_hopeless_hessian_falls_back_and_says_so():
    layer = random_layer("w4a16-gptq-channel", name="tower.fc1")
    broken = replace(layer, seen=replace(layer.seen, hessian=-layer.seen.hessian - 100 * torch.eye(32)))
    with pytest.warns(UserWarning, match="Hessian of layer 'tower.fc1'.*rounded to nearest"):
        encoded, notes = round_gptq(broken)
    assert notes["fallback"] and torch.equal(encoded.codes, round_to_nearest(layer.weight, FORMATS["int4"]).codes)


def test_a_channel_never_seen_active_is_rounded_to_nearest():
    layer = random_layer("w4a16-gptq-channel")
    encoded, _ = gptq(layer.weight, layer.seen.hessian, FORMATS["int4"])
    assert torch.equal(encoded.codes[:, 5], round_to_nearest(layer.weight, FORMATS["int4"]).codes[:, 5])


@pytest.mark.parametrize(
    "rows", [torch.zeros(3, 32), torch.ones(1, 32), torch.ones(64, 32)], ids=["dead", "one", "constant"]
)
def test_poor_calibration_gives_a_finite_result(rows):
    layer = layer_of("w4a16-gptq-channel", random_layer("w4a16-gptq-channel").weight, rows)
    encoded, notes = round_gptq(layer)
    assert torch.isfinite(decode(encoded)).all() and "fallback" not in notes
