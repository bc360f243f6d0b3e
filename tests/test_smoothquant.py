"""SmoothQuant scales: the authors' own numbers, and the laws behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgelib.quant.methods.smoothquant import smoothing_scales

PEERS = np.load(Path(__file__).parent / "reference" / "ptq" / "integers.npz")
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
