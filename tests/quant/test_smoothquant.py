"""SmoothQuant scales: the authors' own numbers, and the laws behind them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import REFERENCE
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import layer_of, random_layer

from edgelib.formats.table import fake_quantize
from edgelib.quant.methods.loss import output_error
from edgelib.quant.methods.rtn import nearest
from edgelib.quant.methods.smoothquant import ALPHAS, smooth, smoothing_scales

PEERS = np.load(REFERENCE / "ptq" / "integers.npz")
DEAD = 77  # a channel that the authors' calibration inputs never activate


def authors(alpha: float) -> torch.Tensor:
    return torch.from_numpy(PEERS[f"smoothquant/smooth_ln_fcs/alpha{alpha}/scales"])


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.75, 0.85, 1.0])
def test_scales_are_those_of_the_authors(alpha):
    # their scales at alpha 1 are the activation maxima, at alpha 0 the inverse weight maxima
    abs_max, weight = authors(1.0).clone(), 1 / authors(0.0)[None]
    abs_max[DEAD] = 0
    scales = smoothing_scales(abs_max, [weight], alpha)
    live = torch.arange(256) != DEAD
    assert torch.allclose(scales[live], authors(alpha)[live], rtol=2e-6, atol=0)


def test_a_channel_never_seen_active_is_left_alone():
    assert smoothing_scales(torch.tensor([0.0, 4.0]), [torch.ones(3, 2)])[0] == 1


def test_layers_that_share_an_input_share_the_larger_weight():
    a, b = torch.tensor([[1.0, -9.0]]), torch.tensor([[-4.0, 1.0]])
    scales = smoothing_scales(torch.tensor([16.0, 16.0]), [a, b])
    assert torch.allclose(scales, torch.tensor([2.0, 4 / 3]))


def test_alpha_one_flattens_the_activations_and_alpha_zero_the_weights():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(50, 8, generator=generator), torch.randn(5, 8, generator=generator)
    flat = (x / smoothing_scales(x.abs().amax(0), [weight], 1.0)).abs().amax(0)
    assert torch.allclose(flat, torch.ones(8))
    level = (weight * smoothing_scales(x.abs().amax(0), [weight], 0.0)).abs().amax(0)
    assert torch.allclose(level, torch.ones(8))


def test_a_dead_weight_column_stays_finite():
    weight = torch.ones(3, 2)
    weight[:, 0] = 0
    assert torch.isfinite(smoothing_scales(torch.ones(2), [weight])).all()


@pytest.mark.parametrize("alpha,name", [(0.5, "w8a8-smoothquant"), (0.8, "w8a8-smoothquant-alpha0.8")])
def test_a_given_alpha_is_used(alpha, name):
    layer = random_layer(name)
    found = smooth([layer])
    assert found.notes == {"ratio": alpha}
    assert torch.equal(found.scales, smoothing_scales(layer.seen.abs_max, [layer.weight], alpha))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), name=st.sampled_from(["w8a8-smoothquant-search", "w3a8-smoothquant-search"]))
def test_the_searched_alpha_has_the_lowest_output_error(seed, name):
    layer = random_layer(name, seed)
    x, w, bits = layer.seen.rows, layer.weight, layer.scheme.weight
    errors = {}
    for alpha in ("none", *ALPHAS):
        s = torch.ones(32) if alpha == "none" else smoothing_scales(layer.seen.abs_max, [w], alpha)
        rounded = fake_quantize(w * s, bits, granularity="channel")
        errors[alpha] = float((fake_quantize(x / s, "int8", granularity="token") @ rounded.T - x @ w.T).square().mean())
    found = smooth([layer])
    chosen = "none" if math.isnan(found.notes["ratio"]) else found.notes["ratio"]
    assert errors[chosen] == pytest.approx(min(errors.values()), rel=1e-3)
    assert errors[chosen] <= errors["none"] * 1.001, "never worse than rounding to nearest"


def test_the_search_leaves_alone_what_smoothing_would_spoil():
    weight = torch.tensor([[3.0, 1, -2, 1], [1, -3, 2, 3]])  # on the grid of int3, and the inputs on that of int8
    rows = torch.tensor([[127.0, 3, 5, 64], [-127, 64, -1, 9]])
    layer = layer_of("w3a8-smoothquant-search", weight, rows)
    assert output_error(layer, nearest(weight, layer.scheme.weight_format)).sum() == 0
    found = smooth([layer])
    assert math.isnan(found.notes["ratio"]) and torch.equal(found.scales, torch.ones(4))
