"""Shapes of outliers against closed forms and scipy, in any cut into batches."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from edgelib.errors import EdgelibError
from edgelib.observe.outliers import Extremes


def normal(n: int = 4000, width: int = 8):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def test_kurtosis_is_scipy_s_and_the_median_lies_in_its_bucket():
    x = normal() + 0.5
    found = Extremes.of(x).summary()
    assert found["kurtosis"] == pytest.approx(stats.kurtosis(x.numpy(), axis=None, fisher=False), rel=1e-4)
    assert found["median"] == pytest.approx(float(x.abs().median()), rel=1 / 128)
    assert found["peak"] == float(x.abs().max()) and found["peak_ratio"] == found["peak"] / found["median"]


@pytest.mark.parametrize("kind", ["channel", "token"])
def test_one_that_stands_out_is_told_from_the_other(kind):
    x = normal(200)
    x[(slice(None), 3) if kind == "channel" else 5] *= 100
    found = Extremes.of(x).summary()
    other = {"channel": "token", "token": "channel"}[kind]
    assert found[f"{kind}_ratio"] > 50 and found[f"{other}_ratio"] < 10
    assert found[f"outlier_{kind}s"] == pytest.approx({"channel": 1 / 8, "token": 1 / 200}[kind])
    assert found[f"outlier_{other}s"] == 0


def test_massive_values_are_beyond_a_thousand_medians_and_a_hundred():
    x = normal(100)
    x[7, 2] = 5000.0
    assert Extremes.of(x).summary()["massive"] == pytest.approx(1 / 100)
    assert Extremes.of(x / 100).summary()["massive"] == 0


def test_batches_add_up():
    x = normal(90)
    whole, parts = Extremes.of(x), Extremes.of(x[:17])
    parts.add(Extremes.of(x[17:].view(-1, 1, 8)))
    assert parts.summary() == pytest.approx(whole.summary())
    assert whole.beyond(1.0) == pytest.approx(float((x.abs() > 1).float().mean()), abs=0.005)


def test_zeros_have_no_shape():
    with pytest.raises(EdgelibError, match="not all zero"):
        Extremes.of(torch.zeros(3, 2)).summary()
