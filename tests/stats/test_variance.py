"""Variance components against the analysis of variance, statsmodels, and their own promises in simulation."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from edgelib.errors import EdgelibError
from edgelib.stats import components as c
from edgelib.stats.runs import run_outcomes
from edgelib.stats.variance import variance_shares

FACTORS = ("mix", "size", "seed")


def design(mixes=6, sizes=5, seeds=5, keep=1.0, rng=None):
    """One row per run; a fraction `keep` of the crossed design."""
    table = pd.DataFrame(itertools.product(range(mixes), range(sizes), range(seeds)), columns=FACTORS)
    if keep < 1:
        table = table.iloc[np.sort(rng.choice(len(table), int(keep * len(table)), replace=False))]
    return table.reset_index(drop=True)


def terms(table, factors=FACTORS):
    return [c.incidence(table.groupby(factor.split(":")).ngroup().to_numpy()) for factor in factors]


def drawn(rng, parts, variances, columns=()):
    """Responses [N, *columns] of runs with planted variances of the terms `parts`, the rest last."""
    effects = [z @ rng.normal(0, np.sqrt(v), (z.shape[1], *columns)) for z, v in zip(parts, variances, strict=False)]
    return sum(effects) + rng.normal(0, np.sqrt(variances[-1]), (len(parts[0]), *columns))


def itemised(rng, table, n, effects, own):
    """Graded outcomes of every run on n items: difficulty of the item + run effect + noise of sd `own` per item."""
    difficulty = rng.normal(size=n)
    rows = table.loc[table.index.repeat(n)].assign(item=np.tile(np.arange(n), len(table)))
    noise = own * rng.normal(size=(len(table), n))
    return rows.assign(correct=(difficulty + effects[:, None] + noise).ravel())


def balanced(table, y):
    """The restricted maximum in closed form: mean squares below that of the rest are pooled with it."""
    degrees = np.array([table[f].nunique() - 1 for f in FACTORS])
    squares = np.array([((table.assign(y=y).groupby(f)["y"].transform("mean") - y.mean()) ** 2).sum() for f in FACTORS])
    rest, left = ((y - y.mean()) ** 2).sum() - squares.sum(), len(y) - 1 - degrees.sum()
    found = np.zeros(4)
    for f in np.argsort(squares / degrees):
        if squares[f] / degrees[f] < rest / left:
            rest, left = rest + squares[f], left + degrees[f]
        else:
            found[f] = (squares[f] / degrees[f] - rest / left) / (len(y) / (degrees[f] + 1))
    found[3] = rest / left
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_balanced_design_is_the_analysis_of_variance(seed):
    rng = np.random.default_rng(seed)
    table = design(*rng.integers(2, 8, 3))
    y = drawn(rng, terms(table), 10 ** rng.uniform(-3, 3, 4))
    expected = balanced(table, y)
    assert c.reml(y, terms(table)) == pytest.approx(expected, rel=1e-3, abs=1e-6 * expected.max())


def test_an_unbalanced_design_is_statsmodels():
    rng = np.random.default_rng(2)
    table = design(keep=0.6, rng=rng)
    table = table.assign(y=drawn(rng, terms(table), (4, 1, 0.5, 1)), one=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = {name: f"0 + C({name})" for name in FACTORS}
        fit = smf.mixedlm("y ~ 1", table, groups="one", vc_formula=parts).fit(reml=True)
    peer = dict(zip(fit.model.exog_vc.names, fit.vcomp, strict=True))
    expected = [peer[name] for name in FACTORS] + [fit.scale]
    assert c.reml(table["y"].to_numpy(), terms(table)) == pytest.approx(expected, rel=0.01)


def test_the_rest_draws_are_the_chi_square_interval():
    table = design()
    y = drawn(np.random.default_rng(3), terms(table), (1, 1, 1, 1))
    rest = c.rest_space(terms(table))
    draws = c.pivotal_draws(y, terms(table), [[], [], []], 20_000, np.random.default_rng(0))[:, -1]
    expected = ((rest.T @ y) ** 2).sum() / stats.chi2.ppf([0.975, 0.025], 136)
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("f", range(3), ids=FACTORS)
def test_a_term_s_draws_solve_the_balanced_closed_form(f):
    # Mean squares are independent: (ms_f df_f / chi2 - ms_rest df_rest / chi2) / n, and 0 where that is negative.
    table, rng = design(), np.random.default_rng(4)
    y = drawn(rng, terms(table), (0.3, 0.1, 0.2, 1))
    space, rest, size = c.own_space(terms(table)[f], []), c.rest_space(terms(table)), (25, 30, 30)[f]
    own, left = ((space.T @ y) ** 2).sum(), ((rest.T @ y) ** 2).sum()
    closed = own / rng.chisquare(space.shape[1], 20_000) - left / rng.chisquare(rest.shape[1], 20_000)
    draws = c.pivotal_draws(y, terms(table), [[], [], []], 20_000, rng)[:, f]
    at = [0.1, 0.5, 0.9]
    assert np.quantile(draws, at) == pytest.approx(np.quantile(np.maximum(closed / size, 0), at), rel=0.06, abs=0.004)


CASES = {
    "crossed": (1.0, FACTORS, (4, 1, 0.5, 1)),
    "fraction": (0.5, FACTORS, (1, 1, 0.3, 1)),
    "zeros": (1.0, FACTORS, (1, 0, 0, 1)),
    "interaction": (0.7, (*FACTORS, "mix:size"), (2, 1, 0.5, 1, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_intervals_cover_the_planted_shares(case):
    keep, factors, variances = CASES[case]
    rng, runs, covered = np.random.default_rng(5), 150, 0
    parts, inside = terms(design(keep=keep, rng=rng), factors), [[3], [3], [], []] if len(factors) == 4 else [[]] * 3
    truth = np.array(variances) / sum(variances)
    for _ in range(runs):
        draws = c.pivotal_draws(drawn(rng, parts, variances), parts, inside, 400, rng)
        low, high = np.quantile(draws / draws.sum(axis=1, keepdims=True), [0.025, 0.975], axis=0)
        covered = covered + ((low <= truth + 1e-9) & (truth <= high))
    error = 3 * np.sqrt(0.05 * 0.95 / runs)  # of binomial sampling, for four or five shares at once
    assert (covered / runs >= 0.95 - error).all(), covered / runs


def test_estimates_recover_planted_components_on_average():
    rng, parts, planted = np.random.default_rng(6), terms(design(12, 10, 5)), np.array([4, 1, 0.5, 1])
    found = np.mean([c.reml(drawn(rng, parts, planted), parts) for _ in range(100)], axis=0)
    # Standard error of the mean estimate, from the chi-square with levels - 1 degrees of freedom.
    error = planted * np.sqrt(2 / np.array([11, 9, 4, 574]) / 100) + 0.01
    assert (np.abs(found - planted) < 3 * error).all()


def test_many_levels_give_the_components_within_a_tenth():
    rng = np.random.default_rng(7)
    parts = [c.incidence(rng.permutation(np.arange(2400) % 400))]
    assert c.reml(drawn(rng, parts, (4, 1)), parts) == pytest.approx([4, 1], rel=0.1)


def test_a_factor_without_effect_has_a_share_near_zero():
    table = design(seeds=8)
    table = table.assign(y=drawn(np.random.default_rng(8), terms(table), (4, 2, 0, 0.5)))
    shares = variance_shares(table, "y", item=None).set_index("component")
    assert shares["share"]["seed"] < 0.02 and shares["low"]["seed"] == 0.0


@pytest.mark.parametrize("factors", [FACTORS, (*FACTORS, "mix:size")], ids=["main", "interaction"])
def test_shares_add_up_to_one(factors):
    rng, table = np.random.default_rng(9), design(4, 3, 3)
    rows = itemised(rng, table, 30, drawn(rng, terms(table), (0.1, 0.1, 0.1, 0.1)), 1.0)
    shares = variance_shares(rows, factors=factors, n_draws=200)
    assert shares["share"].sum() == pytest.approx(1) and (shares["sd"] >= 0).all()
    assert list(shares["component"]) == [*factors, "rest", "images"]
    assert ((shares["low"] <= shares["high"]) & (shares["low"] >= 0) & (shares["high"] <= 1)).all()


def test_runs_that_differ_by_image_noise_only_blame_the_images():
    rng, table, misses = np.random.default_rng(10), design(5, 4, 4), 0
    for _ in range(20):
        shares = variance_shares(itemised(rng, table, 200, np.zeros(80), 1.0), n_draws=400).set_index("component")
        assert shares["share"]["images"] > 0.6
        misses += shares["low"]["rest"] > 0
    assert misses <= 2


def test_image_noise_is_taken_out_of_the_rest():
    rng, table = np.random.default_rng(11), design(8, 6, 5)
    shares = variance_shares(itemised(rng, table, 100, drawn(rng, terms(table), (0, 0, 0, 0.01)), 1.0)).set_index(
        "component"
    )
    # 1.0 / 100 of noise beside a true 0.01, each seen through 239 contrasts.
    assert shares["sd"]["images"] ** 2 == pytest.approx(0.01, rel=0.25)
    assert shares["sd"]["rest"] ** 2 == pytest.approx(0.01, rel=0.5)


def test_image_noise_that_a_mix_shares_is_taken_out_of_the_mix():
    rng, table, n = np.random.default_rng(12), design(8, 4, 4), 50
    shared = rng.normal(size=(8, n))
    rows = itemised(rng, table, n, np.zeros(len(table)), 0.1)
    rows["correct"] += shared[rows["mix"], rows["item"]]
    shares = variance_shares(rows).set_index("component")
    raw = variance_shares(rows.groupby(list(FACTORS), as_index=False)["correct"].mean(), item=None)
    assert raw.set_index("component")["share"]["mix"] > 0.8 and shares["share"]["images"] > 0.6
    assert shares["low"]["mix"] < 0.05


def test_sampling_variances_are_those_of_the_columns():
    parts = terms(design(5, 4, 3))
    columns = drawn(np.random.default_rng(13), parts, (2, 0, 1, 3), (4000,))
    found = c.sampling_variances(columns / np.sqrt(4000), parts)
    assert found == pytest.approx([2, 0, 1, 3], rel=0.1, abs=0.05)


def test_repeating_every_question_of_an_image_changes_nothing_with_clusters():
    rng, table = np.random.default_rng(14), design(4, 3, 3)
    once = itemised(rng, table, 40, drawn(rng, terms(table), (0.1, 0.1, 0.1, 0.1)), 1.0)
    thrice = pd.concat([once.assign(image=once["item"], item=once["item"] + 40 * k) for k in range(3)])
    one, three = variance_shares(once), variance_shares(thrice, cluster="image")
    assert np.allclose(one[["sd", "share", "low", "high"]], three[["sd", "share", "low", "high"]])


@pytest.mark.parametrize("item", [None, "item"], ids=["runs", "items"])
def test_the_order_of_the_rows_does_not_matter(item):
    rng, table = np.random.default_rng(15), design(4, 3, 3)
    rows = table.assign(item=0, correct=drawn(rng, terms(table), (1, 1, 1, 1)))
    if item:
        rows = itemised(rng, table, 20, rows["correct"].to_numpy(), 1.0)
    mixed = rows.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(variance_shares(rows, item=item), variance_shares(mixed, item=item))


def test_every_group_has_shares_of_its_own():
    rng, table = np.random.default_rng(16), design(4, 3, 3)
    a, b = (table.assign(config=name, y=drawn(rng, terms(table), (1, 1, 1, 1))) for name in "ab")
    both = variance_shares(pd.concat([a, b]), "y", item=None, by="config")
    assert list(both["config"]) == ["a"] * 4 + ["b"] * 4
    pd.testing.assert_frame_equal(
        both[both["config"] == "b"].drop(columns="config").reset_index(drop=True), variance_shares(b, "y", item=None)
    )


def test_a_response_that_never_varies_has_no_shares():
    shares = variance_shares(itemised(np.random.default_rng(17), design(3, 3, 3), 10, np.zeros(27), 0.0))
    assert shares["share"].isna().all() and (shares["sd"] == 0).all() and shares["low"].isna().all()


def test_additive_runs_leave_no_rest():
    table = design(4, 3, 3)
    shares = variance_shares(table.assign(y=table["mix"] + 0.1 * table["seed"] ** 2), "y", item=None)
    assert shares.set_index("component")["share"]["rest"] < 1e-6 and np.isfinite(shares["high"]).all()


def test_run_outcomes_sums_clusters():
    rows = pd.DataFrame(dict(mix=["b", "a"] * 3, item=[0, 0, 1, 1, 2, 2], image=[0, 0, 0, 0, 1, 1]))
    runs = run_outcomes(rows.assign(correct=[1, 0, 1, 1, 0, 0]), "mix", cluster="image")
    assert list(runs.keys["mix"]) == ["a", "b"] and runs.sizes.tolist() == [2, 1]
    assert runs.sums.tolist() == [[1, 0], [2, 0]] and runs.means == pytest.approx([1 / 3, 2 / 3])


RUNS = design(3, 3, 3).assign(y=np.arange(27) ** 1.5, item=0)
BAD = {
    "one level": (dict(table=RUNS.query("seed == 0")), "'seed' has one level"),
    "nested": (dict(table=RUNS.assign(seed=RUNS["mix"])), "'mix' cannot be told from size, seed"),
    "no rest": (dict(factors=("mix", "size", "seed", "mix:size:seed")), "27 runs leave nothing"),
    "unknown factor": (dict(factors=("mix", "sizes")), "did you mean 'size'"),
    "twice": (dict(factors=("mix", "mix")), "none twice"),
    "no factor": (dict(factors=()), "at least one"),
    "NaN": (dict(table=RUNS.assign(y=np.nan)), "missing values"),
    "text": (dict(table=RUNS.assign(y="a")), "numbers"),
    "infinite": (dict(table=RUNS.assign(y=np.inf)), "infinite"),
    "no rows": (dict(table=RUNS[:0]), "no rows"),
    "level": (dict(level=95), "level"),
    "few draws": (dict(n_draws=3), "n_draws"),
    "repeated outcome": (dict(table=pd.concat([RUNS, RUNS[:1]]), item="item"), "item 0 occurs 2 times .*mix 0, size 0"),
    "one image": (dict(item="item"), "at least two"),
}


@pytest.mark.parametrize("call", BAD)
def test_bad_input_is_named(call):
    arguments, words = BAD[call]
    with pytest.raises(EdgelibError, match=words):
        variance_shares(**dict(table=RUNS, response="y", item=None) | arguments)


def test_an_item_may_not_change_its_image():
    rows = pd.DataFrame(dict(mix=[0, 0, 1, 1], item=[0, 1, 0, 1], image=[0, 1, 0, 0], correct=1))
    with pytest.raises(EdgelibError, match="'image' must be the same"):
        run_outcomes(rows, "mix", cluster="image")
