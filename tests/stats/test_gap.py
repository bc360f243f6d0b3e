"""The robustness gap: closed forms, the published floor effect, and what it promises in simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special
from statsmodels.stats.contingency_tables import StratifiedTable

from edgelib.errors import EdgelibError
from edgelib.stats import gap as g
from edgelib.stats import metrics, outcomes
from edgelib.stats.family import Family
from edgelib.stats.paired import wilson

# EdgeVLM-Bench (CLIP ViT-B/32 on CIFAR-10, 1,000 images): clean accuracy and RS.
EDGEVLM = {"FP16": (0.901, 0.516), "W4A8-minmax": (0.677, 0.419), "W4A8-AWQ": (0.417, 0.460)}


def long_rows(correct, configs, cells):
    """Rows from outcomes [items, configs, cells]; cells are (corruption, severity)."""
    index = np.indices(correct.shape).reshape(3, -1)
    names, severities = zip(*cells, strict=True)
    return pd.DataFrame(
        dict(
            item=index[0],
            config=np.array(configs)[index[1]],
            corruption=np.array(names)[index[2]],
            severity=np.array(severities)[index[2]],
            correct=correct.ravel().astype(int),
        )
    )


def rows_with_accuracy(accuracy, n):
    """Rows in which every config has exactly the given accuracies, {config: [clean, cell, ...]}."""
    configs, table = list(accuracy), np.array(list(accuracy.values()))
    right = np.arange(n)[:, None, None] < np.round(table * n)[None]
    return long_rows(right, configs, [("clean", 0)] + [("fog", s + 1) for s in range(table.shape[1] - 1)])


def known(eta, chance):
    return chance + (1 - chance) * special.expit(np.asarray(eta, dtype=float))


def simulated(rng, n, shift, planted=0.0, chance=0.1):
    """Outcomes of two models whose log odds above chance differ by `shift`, plus `planted` on corrupted cells."""
    eta = np.array([2.2, 2.0, 1.0, 0.0, -1.0])
    p = known(np.stack([eta, eta - shift - planted * (np.arange(5) > 0)]), chance)
    image, cell, own = rng.normal(size=(n, 1, 1)), rng.normal(size=(n, 1, 5)), rng.normal(size=(n, 2, 5))
    u = special.ndtr(np.sqrt(0.5) * image + np.sqrt(0.4) * cell + np.sqrt(0.1) * own)
    return long_rows(u < p, ["fp32", "w4"], [("clean", 0), ("fog", 1), ("fog", 3), ("fog", 5), ("blur", 5)])


def effects(table):
    return table.set_index("scale")["effect"]


def test_edgevlm_bench_numbers_and_the_sign_that_flips():
    rows = rows_with_accuracy({name: [clean, clean * rs] for name, (clean, rs) in EDGEVLM.items()}, 1000)
    table = g.rs_table(rows, 0.1, n_boot=100).set_index("config")
    assert table["logit_drop"].to_numpy() == pytest.approx([2.35, 1.67, 1.10], abs=0.01)
    assert table["retention"].to_numpy() == pytest.approx([0.456, 0.318, 0.290], abs=0.002)
    assert table["accuracy_drop"].idxmin() == "W4A8-AWQ" == table["clean"].idxmin()
    gaps = g.gap_table(rows, "FP16", 0.1, n_boot=100).pivot(index="config", columns="scale", values="effect")
    assert (gaps["logit, no floor"] < 0).all() and (gaps["retention"] > 0).all()


def test_scores_equal_the_metric_functions():
    rows = rows_with_accuracy({"fp32": [0.9, 0.7, 0.4]}, 100)
    row = g.rs_table(rows, 0.1, n_boot=100).iloc[0]
    assert row["rs"] == pytest.approx(metrics.robustness_score(0.9, [0.7, 0.4]))
    assert row["accuracy_drop"] == pytest.approx(metrics.accuracy_drop(0.9, [0.7, 0.4]))
    assert row["retention"] == pytest.approx(metrics.chance_corrected_retention(0.9, [0.7, 0.4], 0.1))
    assert (row["n_items"], row["n_cells"]) == (100, 2)


def test_one_cell_without_chance_is_the_difference_of_logit_drops():
    gap = g.robustness_gap(rows_with_accuracy({"a": [0.9, 0.6], "b": [0.8, 0.3]}, 200), "b", "a", 0, n_boot=100)
    logit = {k: np.log((k + 0.5) / (200 - k + 0.5)) for k in (180, 120, 160, 60)}
    expected = (logit[160] - logit[60]) - (logit[180] - logit[120])
    assert gap.effect == pytest.approx(expected)
    assert gap.scales["effect"]["logit, no floor"] == pytest.approx(expected)


def test_many_cells_pool_as_mantel_and_haenszel():
    a, b = np.array([0.8, 0.5, 0.2]), np.array([0.7, 0.3, 0.05])
    tables = [np.array([[p, 1 - p], [q, 1 - q]]) * 100 + 0.5 for p, q in zip(a, b, strict=True)]
    assert np.exp(g._log_odds_ratio(a, b, 100, 0.0)) == pytest.approx(StratifiedTable(tables).oddsratio_pooled)


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.5])
def test_a_constant_shift_in_log_odds_above_chance_is_no_gap(chance):
    eta = np.array([3.0, 2.0, 0.5, -1.0])
    rows = rows_with_accuracy({"fp32": known(eta, chance), "w4": known(eta - 1.2, chance)}, 10_000)
    effect = effects(g.gap_table(rows, "fp32", chance, n_boot=100))
    assert abs(effect["logit"]) < 0.01
    assert (effect["logit, no floor"] < -0.1) == (chance > 0)


def test_rs_crowns_the_worst_model_where_the_logit_gap_sees_a_planted_loss():
    accuracy = {"fp32": known([3.0, -1.5], 0.1), "w3": known([3.0 - 4.2, -1.5 - 4.7], 0.1)}
    rows = rows_with_accuracy(accuracy, 10_000)
    scores = g.rs_table(rows, 0.1, n_boot=100).set_index("config")
    assert scores["rs"]["w3"] > scores["rs"]["fp32"] and scores["clean"]["w3"] < 0.35
    gap = g.robustness_gap(rows, "w3", "fp32", 0.1, n_boot=400)
    assert gap.effect == pytest.approx(0.5, abs=0.05) and gap.scales["effect"]["accuracy"] < 0
    assert gap.at_floor == 1.0 and gap.interval[1] == np.inf  # at the floor the size of the loss cannot be known
    assert Family({"w3": gap}).verdict("w3") == f"not estimated: {g.TOO_FEW}"


def test_no_gap_is_rarely_reported_and_the_scale_without_floor_is_fooled():
    rng, runs, rejected = np.random.default_rng(0), 80, dict.fromkeys(["logit", "accuracy"], 0)
    for run in range(runs):
        table = g.gap_table(simulated(rng, 200, 1.5), "fp32", 0.1, n_boot=300, seed=run).set_index("scale")
        for scale in rejected:
            rejected[scale] += table["p"][scale] < 0.05
    assert rejected["logit"] / runs <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / runs)
    table = g.gap_table(simulated(rng, 4000, 2.8), "fp32", 0.1, n_boot=300).set_index("scale")
    assert table["p"]["logit"] > 0.05 > table["p"]["logit, no floor"] and table["high"]["logit, no floor"] < 0


@pytest.mark.parametrize("planted", [-0.6, 0.6], ids=["robuster", "amplified"])
def test_a_planted_gap_is_found_with_its_sign(planted):
    gap = g.robustness_gap(simulated(np.random.default_rng(1), 3000, 1.5, planted), "w4", "fp32", 0.1, n_boot=400)
    assert gap.interval[0] < planted < gap.interval[1] and np.sign(gap.effect) == np.sign(planted)
    assert gap.p < 0.05 and not gap.interval[0] < 0 < gap.interval[1]
    assert 0 < gap.mde < 0.6 and (gap.n, gap.n_cells, gap.at_floor) == (3000, 4, 0.0)


def test_matched_accuracy_is_retention_times_clean_above_chance():
    accuracy = {"fp32": [0.9, 0.7, 0.4], "w4": [0.6, 0.4, 0.2]}
    effect = effects(g.gap_table(rows_with_accuracy(accuracy, 1000), "fp32", 0.1, n_boot=100))
    assert effect["retention"] == pytest.approx((0.55 - 0.1) / 0.8 - (0.3 - 0.1) / 0.5)
    assert effect["matched accuracy"] == pytest.approx((0.6 - 0.1) * effect["retention"])


def test_a_reference_degraded_by_guessing_has_no_gap_to_its_matched_control():
    clean = np.array([0.9, 0.8, 0.5, 0.3])
    rows = rows_with_accuracy({"fp32": clean, "guesser": 0.1 + 0.6 * (clean - 0.1)}, 1000)
    effect = effects(g.gap_table(rows, "fp32", 0.1, n_boot=100))
    assert effect[["retention", "matched accuracy", "matched logit"]].to_numpy() == pytest.approx(0, abs=1e-12)


def test_an_identical_config_has_exactly_no_gap():
    rows = rows_with_accuracy({"fp32": [0.9, 0.5], "fp16": [0.9, 0.5]}, 50)
    table = g.gap_table(rows, "fp32", 0.1, n_boot=100)
    assert np.allclose(table[["effect", "low", "high"]], 0, atol=1e-12) and (table["p"] > 0.9).all()


def test_a_config_at_chance_has_no_answer():
    rows = rows_with_accuracy({"fp32": [0.9, 0.5], "broken": [0.05, 0.05]}, 100)
    first = g.gap_table(rows, "fp32", 0.1, n_boot=100).iloc[0]
    assert np.isnan(first["effect"]) and (first["low"], first["high"], first["p"]) == (-np.inf, np.inf, 1.0)


@pytest.mark.parametrize(
    ("reference", "config", "why"),
    [
        (0.0, 0.0, "every answer of both is wrong"),
        (1.0, 1.0, "every answer of both is right"),
        (1.0, 0.0, "one of the two is always right and the other always wrong"),
    ],
    ids=["wrong", "right", "apart"],
)
def test_models_without_a_second_outcome_have_no_gap_and_say_why(reference, config, why):
    rows = rows_with_accuracy({"fp32": [reference] * 3, "w4": [config] * 3}, 40)
    gap = g.robustness_gap(rows, "w4", "fp32", 0.0, n_boot=100)
    assert np.isnan(gap.effect) and gap.interval == (-np.inf, np.inf) and gap.unknown == why
    assert Family({"w4": gap}).verdict("w4") == f"not estimated: {why}"
    table = gap.scales
    assert table.loc["accuracy", "effect"] == 0 and table.loc["accuracy", "unknown"] == ""


def test_what_is_estimated_has_no_reason():
    table = g.gap_table(rows_with_accuracy({"fp32": [0.9, 0.5], "w4": [0.8, 0.4]}, 50), "fp32", 0.0, n_boot=100)
    assert (table["unknown"] == "").all() and table["effect"].notna().all()


def test_perfect_and_hopeless_cells_stay_finite():
    rows = rows_with_accuracy({"fp32": [1.0, 1.0, 0.5], "w4": [0.9, 0.5, 0.0]}, 40)
    assert np.isfinite(g.gap_table(rows, "fp32", 0.0, n_boot=100)[["effect", "low", "high"]].to_numpy()).all()


def test_order_of_rows_and_company_of_configs_do_not_matter():
    rows = simulated(np.random.default_rng(2), 80, 1.0)
    shuffled = rows.sample(frac=1, random_state=0)
    third = pd.concat([rows, rows[rows["config"] == "w4"].assign(config="other", correct=1)])
    one, two, three = (g.robustness_gap(r, "w4", "fp32", 0.1, n_boot=100) for r in (rows, shuffled, third))
    assert [(r.effect, r.interval, r.p) for r in (two, three)] == [(one.effect, one.interval, one.p)] * 2
    joint = g.gap_table(third, "fp32", 0.1, n_boot=100).set_index(["config", "scale"])
    assert joint.loc[("w4", "logit"), "low"] == one.interval[0]


def test_items_of_one_image_are_resampled_together():
    rows = simulated(np.random.default_rng(3), 60, 1.0)
    five = pd.concat([rows.assign(image=rows["item"], item=rows["item"] * 5 + k) for k in range(5)])
    once = g.gap_table(rows, "fp32", 0.1, n_boot=200).set_index("scale")
    clustered = g.gap_table(five, "fp32", 0.1, cluster="image", n_boot=200).set_index("scale")
    apart = g.gap_table(five, "fp32", 0.1, n_boot=200).set_index("scale")
    assert clustered["n_items"]["logit"] == 300
    assert clustered["se"]["accuracy"] == pytest.approx(once["se"]["accuracy"])
    assert apart["se"]["accuracy"] < 0.6 * once["se"]["accuracy"]


def test_cell_table_is_accuracy_with_wilson():
    table = outcomes.cell_table(rows_with_accuracy({"w4": [0.6, 0.2], "fp32": [0.9, 0.5]}, 50))
    assert table["config"].tolist() == ["w4", "w4", "fp32", "fp32"]
    assert table["corruption"].tolist() == ["clean", "fog"] * 2 and table["severity"].tolist() == [0, 1] * 2
    assert table["accuracy"].tolist() == [0.6, 0.2, 0.9, 0.5] and (table["n"] == 50).all()
    assert np.allclose(table[["low", "high"]].iloc[1], wilson(0.2, 50))


def test_clean_rows_may_carry_no_corruption_name():
    rows = simulated(np.random.default_rng(5), 40, 1.0)
    rows["corruption"] = rows["corruption"].astype(object).where(rows["severity"] > 0, None)
    assert outcomes.cell_sums(rows).cells == (("blur", 5), ("fog", 1), ("fog", 3), ("fog", 5))


ROWS = rows_with_accuracy({"fp32": [0.9, 0.5], "w4": [0.6, 0.3]}, 20)
BAD = {
    "missing outcome": (lambda: g.gap_table(ROWS[1:], "fp32", 0.1), "item 0 occurs 0 times"),
    "repeated outcome": (lambda: g.gap_table(pd.concat([ROWS, ROWS[:1]]), "fp32", 0.1), "occurs 2 times"),
    "no clean rows": (lambda: g.gap_table(ROWS[ROWS["severity"] > 0], "fp32", 0.1), "clean"),
    "no corrupted rows": (lambda: g.gap_table(ROWS[ROWS["severity"] == 0], "fp32", 0.1), "corrupted"),
    "no rows": (lambda: g.gap_table(ROWS[:0], "fp32", 0.1), "no outcome rows"),
    "missing column": (lambda: g.gap_table(ROWS.drop(columns="item"), "fp32", 0.1), "lack the column 'item'"),
    "NaN outcome": (lambda: g.gap_table(ROWS.assign(correct=np.nan), "fp32", 0.1), "correct"),
    "missing item": (lambda: g.gap_table(ROWS.assign(item=None), "fp32", 0.1), "missing values"),
    "fractional severity": (lambda: g.gap_table(ROWS.assign(severity=0.5), "fp32", 0.1), "severity"),
    "unknown reference": (lambda: g.gap_table(ROWS, "fp23", 0.1), "did you mean 'fp32'"),
    "unknown config": (lambda: g.robustness_gap(ROWS, "w44", "fp32", 0.1), "did you mean 'w4'"),
    "chance in percent": (lambda: g.gap_table(ROWS, "fp32", 10), "percent"),
    "chance of one": (lambda: g.gap_table(ROWS, "fp32", 1), "below 1"),
    "torn cluster": (lambda: g.gap_table(ROWS.assign(image=range(len(ROWS))), "fp32", 0.1, cluster="image"), "image"),
    "rows without configs": (lambda: g.robustness_gap(ROWS.drop(columns="config"), "w4", "fp32", 0.1), "'config'"),
}


@pytest.mark.parametrize("call", BAD)
def test_bad_input_is_named(call):
    run, words = BAD[call]
    with pytest.raises(EdgelibError, match=words):
        run()


def twin_rows():
    rows = simulated(np.random.default_rng(6), 60, 1.0)
    plain, planted = rows.assign(twin="plain"), rows[rows["config"] != "fp32"].assign(twin="weight:8")
    return pd.concat([plain, planted], ignore_index=True)


def test_twins_are_compared_with_the_plain_reference():
    rows = twin_rows()
    reference, config = "fp32", next(c for c in rows["config"].unique() if c != "fp32")
    severities = sorted(set(rows["severity"]) - {0})
    both = g.dosed(rows, reference, [config], severities)
    assert list(both["config"].unique()) == [reference, f"plain:1|{config}", f"weight:8|{config}"]
    gaps = g.dosed_gaps(both, reference, 0.1, n_boot=100)
    assert list(gaps) == [f"weight:8|{config}"]
    same = rows[rows["twin"] == "plain"]
    assert gaps[f"weight:8|{config}"].effect == g.robustness_gap(same, config, reference, 0.1, n_boot=100).effect


def test_the_name_of_a_dose_is_taken_apart():
    table = pd.DataFrame({"config": ["plain:1|w4", "key-offset:0.5|w8"], "effect": [1, 2]})
    found = g.by_dose(table)
    assert found["config"].tolist() == ["w4", "w8"] and found["dose"].tolist() == [1.0, 0.5]
    assert found["kind"].tolist() == ["plain", "key-offset"] and found["twin"].tolist() == ["plain:1", "key-offset:0.5"]


def test_gaps_of_a_family_are_the_gaps_of_its_configs():
    rows = simulated(np.random.default_rng(6), 60, 1.0)
    others = [c for c in rows["config"].unique() if c != "fp32"]
    family = g.robustness_gaps(rows, others, "fp32", 0.1, n_boot=100)
    single = g.robustness_gap(rows, others[0], "fp32", 0.1, n_boot=100)
    assert list(family) == others and family[others[0]].interval == single.interval


def clean_only(rows, n):
    """The rows of items from n on without their corrupted outcomes."""
    return rows[(rows["item"] < n) | (rows["severity"] == 0)]


def test_images_that_are_clean_only_move_the_clean_side_and_narrow_the_gap():
    rows = simulated(np.random.default_rng(8), 800, 1.5)
    few, more = (
        g.robustness_gap(r, "w4", "fp32", 0.1, n_boot=300) for r in (rows[rows["item"] < 200], clean_only(rows, 200))
    )
    assert (more.n, more.n_clean, more.n_clusters) == (200, 800, 200) and few.n_clean == few.n
    assert np.diff(more.interval) < 0.75 * np.diff(few.interval)
    sums = outcomes.cell_sums(clean_only(rows, 200))
    accuracy, items = outcomes.resampled(sums, 100, 0)
    clean, cells = rows[rows["severity"] == 0], rows[(rows["severity"] > 0) & (rows["item"] < 200)]
    assert accuracy[0, :, 0] == pytest.approx(clean.groupby("config")["correct"].mean()[list(sums.configs)])
    assert accuracy[0, :, 1:].mean(axis=1) == pytest.approx(
        cells.groupby("config")["correct"].mean()[list(sums.configs)]
    )
    assert (items[:, 0] == 800).all() and (items[:, 1:] == 200).all()


def test_intervals_with_images_that_are_clean_only_hold_the_truth():
    rng, runs, hit = np.random.default_rng(9), 30, 0
    for run in range(runs):
        rows = clean_only(simulated(rng, 240, 1.5, planted=0.5), 60)
        row = g.gap_table(rows, "fp32", 0.1, n_boot=200, seed=run).iloc[0]
        hit += row["low"] <= 0.5 <= row["high"]
    assert hit / runs >= 0.95 - 2.6 * np.sqrt(0.05 * 0.95 / runs)


def test_an_item_without_some_of_its_corrupted_outcomes_is_missing_them():
    rows = clean_only(simulated(np.random.default_rng(8), 20, 1.5), 10)
    torn = rows[~((rows["item"] == 3) & (rows["corruption"] == "blur"))]
    with pytest.raises(EdgelibError, match="item 3 occurs 0 times"):
        g.gap_table(torn, "fp32", 0.1)
    one_sided = pd.concat(
        [rows, rows[(rows["item"] == 3) & (rows["severity"] > 0) & (rows["config"] == "w4")].assign(item=15)]
    )
    with pytest.raises(EdgelibError, match="item 15 occurs 0 times for config 'fp32'"):
        g.gap_table(one_sided, "fp32", 0.1)
