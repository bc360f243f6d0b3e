"""Distances between activations: zero for equal statistics, and each one moved by what it is named after."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgelib.errors import EdgelibError
from edgelib.observe.calibrate import calibrate
from edgelib.observe.distance import DISTANCES, activation_distance


def seen(x: torch.Tensor, width: int = 8):
    torch.manual_seed(0)
    return calibrate(nn.Sequential(nn.Linear(width, 4)), [x])


def sample() -> torch.Tensor:
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


def test_equal_statistics_are_at_distance_zero():
    distance = activation_distance(seen(sample()), seen(sample()))
    assert set(distance) == set(DISTANCES) and all(value == pytest.approx(0, abs=1e-6) for value in distance.values())


def test_a_power_of_two_is_so_many_octaves():
    distance = activation_distance(seen(sample()), seen(8 * sample()))
    assert distance["peak"] == pytest.approx(3) and distance["spread"] == pytest.approx(3)
    assert distance["direction"] == pytest.approx(0, abs=1e-6) and distance["dead"] == 0


def test_it_counts_the_channels_beyond_the_seen_peak():
    louder = sample()
    louder[:, :2] *= 100
    assert activation_distance(seen(sample()), seen(louder))["clipped"] == pytest.approx(2 / 8)
    assert activation_distance(seen(louder), seen(sample()))["clipped"] == 0


def test_it_counts_the_channels_calibration_never_woke():
    asleep = sample()
    asleep[:, 3] = 0
    distance = activation_distance(seen(asleep), seen(sample()))
    assert distance["dead"] == pytest.approx(1 / 8) and distance["spread"] == pytest.approx(10 / 8, abs=0.5)


def test_orthogonal_channels_point_elsewhere():
    first, second = torch.zeros(4, 8), torch.zeros(4, 8)
    first[:, 0], second[:, 1] = 1, 1
    assert activation_distance(seen(first), seen(second))["direction"] == pytest.approx(1)


def test_models_without_a_common_layer_are_refused():
    with pytest.raises(EdgelibError, match="share no layer"):
        one = calibrate(nn.Sequential(nn.Linear(8, 4)), [sample()])
        other = calibrate(nn.Sequential(nn.Identity(), nn.Linear(8, 4)), [sample()])
        activation_distance(one, other)
