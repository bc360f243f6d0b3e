"""Mixed precision: the integer program against trying everything, its bound, shared formats, and impossible budgets."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from edgelib.decide.allocation import allocate, total
from edgelib.errors import EdgelibError

FORMATS = ["w4", "w8", "fp32"]


def problem(seed, layers):
    rng = np.random.default_rng(seed)
    names = [f"layer{i}" for i in range(layers)]
    weights = rng.integers(10, 200, layers)
    losses = pd.DataFrame(np.sort(rng.random((layers, 3)), axis=1)[:, ::-1].copy(), index=names, columns=FORMATS)
    sizes = pd.DataFrame(np.outer(weights, [0.5, 1, 4]), index=names, columns=FORMATS)
    return losses, sizes


@pytest.mark.parametrize("share", [0.45, 0.9, 1.7, 3.0, 4.5])
@pytest.mark.parametrize("seed", range(3))
def test_the_choice_is_the_best_of_all_that_fit(seed, share):
    losses, sizes = problem(seed, 6)
    budget = share * sizes["w8"].sum()
    tries = np.array(list(itertools.product(range(3), repeat=6)))
    loss, size = (table.to_numpy()[np.arange(6), tries].sum(axis=1) for table in (losses, sizes))
    if not (size <= budget).any():
        with pytest.raises(EdgelibError, match="no choice of formats fits"):
            allocate(losses, sizes, budget)
        return
    found = allocate(losses, sizes, budget)
    assert found.loss == pytest.approx(loss[size <= budget].min()) and found.bytes <= budget
    assert found.least_loss <= found.loss + 1e-9 and found.bytes == pytest.approx(total(sizes, found.formats))


def test_at_the_bytes_of_a_uniform_scheme_it_is_never_worse():
    losses, sizes = problem(3, 30)
    found = allocate(losses, sizes, total(sizes, "w8"))
    assert found.loss <= total(losses, "w8") and found.formats.nunique() > 1
    assert allocate(losses, sizes, 1e9).formats.eq("fp32").all()


def test_layers_of_a_group_share_a_format():
    losses, sizes = problem(4, 12)
    groups = {f"layer{i}": "qkv" for i in (0, 1, 2)}
    found = allocate(losses, sizes, 0.9 * total(sizes, "w8"), groups=groups)
    free = allocate(losses, sizes, 0.9 * total(sizes, "w8"))
    assert found.formats[list(groups)].nunique() == 1 and found.loss >= free.loss - 1e-9
    assert list(found.formats.index) == list(losses.index)


def test_units_of_loss_do_not_matter():
    losses, sizes = problem(5, 15)
    budget = 0.8 * total(sizes, "w8")
    assert allocate(losses * 1e-9, sizes, budget).formats.equals(allocate(losses, sizes, budget).formats)


def test_a_budget_is_kept_to_the_byte():
    index = ["a", "b"]
    losses = pd.DataFrame(dict(w4=[3.0, 2.0], w8=[0.0, 0.0]), index=index)
    sizes = pd.DataFrame(dict(w4=[5e7, 5e7], w8=[1e8 + 1, 1e8]), index=index)
    found = allocate(losses, sizes, 1.5e8)
    assert found.formats.to_dict() == {"a": "w4", "b": "w8"} and found.bytes == 1.5e8
    assert allocate(losses, sizes, 1.5e8 + 1).formats.to_dict() == {"a": "w8", "b": "w4"}


@pytest.mark.parametrize("seed", range(3))
def test_no_choice_is_better_by_a_little(seed):
    rng = np.random.default_rng(seed)
    losses = pd.DataFrame(dict(w4=1 + 1e-5 * rng.random(8), w8=1e-5 * rng.random(8)))
    sizes = pd.DataFrame(dict(w4=rng.integers(90, 110, 8), w8=rng.integers(190, 210, 8)))
    tries = np.array(list(itertools.product(range(2), repeat=8)))
    loss, size = (table.to_numpy()[np.arange(8), tries].sum(axis=1) for table in (losses, sizes))
    assert allocate(losses, sizes, 1200).loss == pytest.approx(loss[size <= 1200].min(), rel=1e-7)


LOSSES, SIZES = problem(0, 3)
BAD = {
    "too small": (lambda: allocate(LOSSES, SIZES, 1), "no choice of formats fits 1 bytes"),
    "zero budget": (lambda: allocate(LOSSES, SIZES, 0), "above 0, got 0"),
    "negative budget": (lambda: allocate(LOSSES, SIZES, -5), "above 0, got -5"),
    "NaN budget": (lambda: allocate(LOSSES, SIZES, np.nan), "above 0, got nan"),
    "text budget": (lambda: allocate(LOSSES, SIZES, "4 GB"), "got '4 GB'"),
    "NaN loss": (lambda: allocate(LOSSES.replace(LOSSES.iloc[1, 0], np.nan), SIZES, 1e9), "'layer1' in 'w4' is NaN"),
    "no bytes": (lambda: allocate(LOSSES, SIZES * 0, 1e9), "above 0 bytes"),
    "other layers": (lambda: allocate(LOSSES, SIZES[:2], 1e9), "same layers and formats"),
    "no table": (lambda: allocate([1], SIZES, 1e9), "losses must be a table"),
    "unknown layer": (lambda: allocate(LOSSES, SIZES, 1e9, groups={"layer9": "a"}), "unknown layer 'layer9'"),
    "unknown format": (lambda: total(SIZES, "w5"), "unknown format 'w5'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    run, words = BAD[case]
    with pytest.raises(EdgelibError, match=words):
        run()
