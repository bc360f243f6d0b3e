"""Crossed random effects: planted spreads are found, predictions are those of the formulas, bad input is named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.mixed_linear_model import MixedLM

from edgelib.devices.published.effects import Effects, fit_effects
from edgelib.errors import EdgelibError


def planted(rng, groups=40, each=6, spread=0.5, residual=0.2):
    labels = pd.DataFrame(dict(device=np.repeat([f"d{i}" for i in range(groups)], each)))
    return labels, np.repeat(rng.normal(0, spread, groups), each) + rng.normal(0, residual, groups * each)


def test_planted_spreads_are_found_and_agree_with_a_mixed_model():
    labels, values = planted(np.random.default_rng(0))
    found = fit_effects(labels, values, {"device": 0.3}, 0.3)
    peer = MixedLM(values, np.zeros((len(values), 0)), groups=labels["device"], exog_re=np.ones((len(values), 1)))
    peer = peer.fit(reml=False)
    assert found.spreads["device"] == pytest.approx(float(np.sqrt(np.asarray(peer.cov_re)[0, 0])), rel=0.05)
    assert found.residual == pytest.approx(float(np.sqrt(peer.scale)), rel=0.05)


def test_prediction_of_one_factor_is_the_shrunken_mean():
    effects = Effects(pd.DataFrame(dict(device=["a", "a", "b"])), np.array([0.4, 0.6, -1.0]), {"device": 0.3}, 0.2)
    mean, sd = effects.predict(pd.DataFrame(dict(device=["a", "b", "new"])))
    shrink = [2 / (2 + 0.04 / 0.09), 1 / (1 + 0.04 / 0.09)]
    assert mean == pytest.approx([0.5 * shrink[0], -shrink[1], 0])
    assert sd**2 == pytest.approx([0.09 * (1 - shrink[0]) + 0.04, 0.09 * (1 - shrink[1]) + 0.04, 0.13])


def test_without_values_the_prior_stands_and_further_values_narrow_it():
    empty = fit_effects(pd.DataFrame(dict(device=[])), [], {"device": 0.3}, 0.2)
    row = pd.DataFrame(dict(device=["a"]))
    assert empty.predict(row)[1] == pytest.approx([np.sqrt(0.13)]) and empty.predict(row)[0] == pytest.approx([0])
    more = empty.with_values(row, [1.0])
    assert more.predict(row)[1] < empty.predict(row)[1] and more.spreads == empty.spreads


def test_effects_do_not_depend_on_the_order_of_values():
    labels, values = planted(np.random.default_rng(1), groups=8, each=3)
    order = np.random.default_rng(2).permutation(len(values))
    found, again = (
        fit_effects(labels, values, {"device": 0.3}, 0.3),
        fit_effects(labels.iloc[order], values[order], {"device": 0.3}, 0.3),
    )
    assert found.spreads["device"] == pytest.approx(again.spreads["device"], rel=1e-3)


@pytest.mark.parametrize(
    ("labels", "values", "spreads", "words"),
    [
        (["a"], [np.nan], {"device": 0.3}, "finite value per row"),
        (["a"], [1.0, 2.0], {"device": 0.3}, "got 2 for 1 rows"),
        (["a"], [1.0], {"engine": 0.3}, "no column 'engine'"),
        (["a"], [1.0], {"device": 0.0}, "above 0, got 0"),
    ],
    ids=["NaN", "length", "column", "spread"],
)
def test_bad_input_is_named(labels, values, spreads, words):
    with pytest.raises(EdgelibError, match=words):
        fit_effects(pd.DataFrame(dict(device=labels)), values, spreads, 0.2)
