"""Sentences, tables and figures hold where nothing can be learned: at chance, undamaged, one image, no twin."""

from __future__ import annotations

import gc
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from edgelib.decide.allocation import allocate
from edgelib.decide.frontier import uncertain_frontier
from edgelib.models.twins import PLAIN
from edgelib.report import tables
from edgelib.report.claims import answers, caches, choices, gaps, openings, runs
from edgelib.report.claims.differences import difference_claims, difference_summary
from edgelib.report.figures import base, calibration, kv, robustness, vlm
from edgelib.report.figures import choices as choosing
from edgelib.report.figures.palette import label, looks
from edgelib.report.notebook import STYLE
from edgelib.stats.family import Family, against, compare
from edgelib.stats.gap import by_dose, dosed, dosed_gaps, gap_table, robustness_gaps, rs_table
from edgelib.stats.ladder import attribute, attribution_table, recoveries, recovery_table
from edgelib.stats.outcomes import (
    accuracy_table,
    cell_table,
    changed_answers,
    corruption_costs,
    severity_differences,
    severity_table,
)
from edgelib.stats.predictor import drop_predictor
from edgelib.stats.ranks import rank_stability, rank_table, run_scores
from edgelib.stats.recommend import recommend
from edgelib.stats.variance import variance_shares

CONFIGS, CLASSES = ("fp32", "w8a8-minmax", "w4a8-awq"), 8
BOOT = {"n_boot": 100, "level": 0.95, "seed": 0}
PAIRED = {"level": 0.95, "seed": 0}
CASES = [(1, 0.0), (2, 0.0), (2, 0.5), (40, 1 / CLASSES), (40, 0.9), (40, 1.0)]
degenerate = pytest.mark.parametrize(("n", "share"), CASES, ids=lambda value: f"{value:g}")
FIGURES = [(2, 0.0), (40, 0.9)]  # figures take longer than sentences


@pytest.fixture(autouse=True)
def strict():
    """Figures as in a chapter; whatever matplotlib or numpy warns of, such as a missing glyph, is an error."""
    gc.freeze()  # Holm's correction collects garbage at each call (statsmodels), which takes long over many modules
    with plt.style.context(STYLE, after_reset=True), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    gc.unfreeze()
    plt.close("all")


def drawn(figure=None) -> None:
    (figure or plt.gcf()).draw_without_rendering()
    plt.close("all")


def whole(*texts: str) -> None:
    for text in texts:
        assert not re.search(r"\b(nan|inf|None|NaN)\b(?! of)|-0\.0+ (?!to)|(\b\d[\d.]*) to \2 %", text), text


def shown(frame: pd.DataFrame, columns: dict | None = None) -> None:
    frame = frame if columns is None else tables.selected(frame, columns)[0]
    whole(tables.myst_table(frame, "caption", "tab-x"))


def outcomes(n: int, share: float, twins=(PLAIN,)) -> pd.DataFrame:
    """Rows of a sweep in which every configuration answers the same images right, whatever was done to them."""
    cells = [("clean", 0), *((c, s) for c in ("fog", "contrast") for s in (1, 5))]
    keys = pd.MultiIndex.from_product([twins, CONFIGS, cells, range(n)], names=["twin", "config", "cell", "item"])
    rows = keys.to_frame(index=False)
    rows["corruption"], rows["severity"] = rows.cell.str[0], rows.cell.str[1]
    rows = rows[(rows.twin == PLAIN) | (rows.severity != 1)]
    return rows.drop(columns="cell").assign(correct=(rows.item < share * n).astype(float), drift=0.0)


@degenerate
def test_the_chapter_on_the_gap(n, share):
    rows, chance = outcomes(n, share, [PLAIN, "weight:8"]), 1 / CLASSES
    main, others = rows[rows.twin == PLAIN], CONFIGS[1:]
    losses = compare(against(main[main.severity == 0], "fp32", others), **PAIRED)
    tests = robustness_gaps(main, others, "fp32", chance, **BOOT)
    planted = dosed(rows, "fp32", others, [5], PLAIN)
    doses = dosed_gaps(planted, "fp32", chance, PLAIN, **BOOT).named(gaps.twin_name)
    for family in (tests.named(label), doses):
        whole(gaps.gap_summary(family), gaps.matched_claim(family))
        assert "farthest" not in gaps.gap_summary(family)
    whole(*difference_claims(losses, "FP32", "clean accuracy"))
    for family in (losses, tests):
        shown(*tables.verdicts(family, {"Configuration": tables.named()}))
    scores, table = rs_table(main, chance, **BOOT), gap_table(main, "fp32", chance, **BOOT)
    shown(scores, {"RS": tables.interval("rs"), "Retention": tables.interval("retention")})
    costs = corruption_costs(main, **BOOT)
    shown(tables.spread(costs, "severity", "cost"), {"Severity 1": tables.interval("cost_1")})
    opening = openings.gap_opening(tests, costs, "fp32")
    whole(opening.answer, opening.number, opening.advice)
    if (n, share) not in FIGURES:
        return
    base.accuracy_by_severity(severity_table(main, **BOOT), plt.subplots()[1], chance)
    behind = severity_differences(main, "fp32", **BOOT)
    drawn(base.panels(behind.groupby("config"), base.difference_by_severity, styles=looks(CONFIGS)))
    drawn(robustness.accuracy_heat(cell_table(main), chance).figure)
    base.forest(table[table.scale == "logit"], base.long_axis(3), "Gap")
    drawn(robustness.gap_scales(table))
    dosed_scores = by_dose(rs_table(planted[planted.config != "fp32"], chance, **BOOT))
    shown(dosed_scores, {"Clean": tables.interval("clean")})
    drawn(robustness.dose_panels(by_dose(gap_table(planted, "fp32", chance, **BOOT)), "Gap"))
    taken = severity_differences(planted, "fp32", **BOOT).rename(columns={"value": "effect"})
    drawn(robustness.dose_panels(by_dose(taken), "Points", 100))


def calibrated(n: int, share: float) -> pd.DataFrame:
    keys = [[PLAIN], CONFIGS[1:], ["balanced", "dark"], [8, 64], range(2), range(n)]
    rows = pd.MultiIndex.from_product(keys, names=["twin", "config", "mix", "size", "seed", "item"])
    rows = rows.to_frame(index=False)
    return rows.assign(image=rows.item, correct=(rows.item < share * n).astype(float), drift=0.0)


@pytest.mark.parametrize(("n", "share"), [case for case in CASES if case[0] > 1], ids=lambda value: f"{value:g}")
def test_the_chapter_on_calibration(n, share):
    rows = calibrated(n, share)
    for quantity in ("correct", "drift"):
        shares = variance_shares(rows, quantity, by=["twin", "config"], cluster="image", n_draws=100, **PAIRED)
        for _, part in shares.groupby("config"):
            whole(runs.variance_claim(part, quantity), runs.largest_share_claim(part))
    one = rows[rows.config == CONFIGS[1]].groupby(["mix", "size", "seed"]).correct.mean()
    spread = runs.spread_claim(one, "W8A8")
    whole(spread)
    assert "matter most" not in spread
    whole(runs.rank_claim(rank_stability(run_scores(rows), **BOOT)))
    shown(rank_table(rows, cluster="image", **BOOT), {"Mean": tables.interval("mean")})
    table = rows.groupby(["config", "mix", "size", "seed"]).correct.mean().rename("accuracy").reset_index()
    known = table.assign(drop=0.0, drift=np.arange(len(table)) % 3, group=table.config + table["mix"])
    fitted = drop_predictor(known, ["drift"], "drop", "group", n_boot=100, n_permutations=100, **PAIRED)
    whole(runs.prediction_claim(fitted))
    draws = rows.assign(run=rows["mix"] + rows.seed.astype(str))
    choice = recommend(draws, {"size": None, "config": CONFIGS[1:]}, margin=0.02, run="run", cluster="image")
    whole(runs.recommendation_claim(choice, runs.setting_name))
    of_mix = rows[rows.config == CONFIGS[1]].groupby(["mix", "item"]).correct.mean()
    mixes = compare({"dark": (of_mix["dark"], of_mix["balanced"])}, ["mix"], **PAIRED)
    opening = openings.calibration_opening(
        choice, choice.choice or choice.best, mixes, PLAIN, "w8a8-minmax", "balanced"
    )
    whole(opening.answer, opening.number, opening.advice)
    if (n, share) not in FIGURES:
        return
    drawn(base.panels({"accuracy": shares}, calibration.variance_dots, label="Share", legend=True))
    means = table.assign(effect=0.0, low=-0.01, high=0.01).drop_duplicates(["config", "mix", "size"])
    drawn(calibration.size_panels(table.assign(difference=table.accuracy - share), means))
    calibration.predicted_and_observed(fitted.runs, plt.subplots()[1])
    drawn()


@degenerate
def test_the_chapter_on_answers(n, share):
    right = (np.arange(n) < share * n).astype(float)
    tests = {(task, c): (right, right) for task in ("vqa", "pope") for c in CONFIGS[1:]}
    tests = compare(tests, ("task", "config"), **PAIRED)
    summary = difference_summary(tests.named(lambda task, config: f"{label(config)} on {task}"))
    whole(summary, *difference_claims(tests, "FP32", "{task}"), answers.nothing_settled_claim(tests))
    assert "clearest" not in summary
    for doses in (Family({}, ("twin", "config")), tests):
        shown(*tables.verdicts(doses, {"Configuration": tables.named()}))
        opening = openings.answers_opening(tests, doses, {"vqa": "VQA", "pope": "POPE"}, "fp32")
        whole(opening.answer, opening.number, opening.advice)
    items = [{"task": "vqa", "config": c, "item": str(i), "image_id": str(i)} for c in CONFIGS for i in range(n)]
    rows = pd.DataFrame(items).assign(prediction="yes", score=np.tile(right, len(CONFIGS)), margin=0.1)
    flips = changed_answers(rows, "fp32")
    whole(answers.margin_claim(flips, "fp32"), answers.condition_claim(rows.assign(corruption="clean", severity=0)))
    changed = accuracy_table(flips, ["config"], cluster="image_id", **BOOT)
    shown(changed, {"Changed": tables.interval("accuracy")})
    if (n, share) not in FIGURES:
        return
    base.forest(tests.table(), base.long_axis(len(tests)), "Points", scale=100)
    drawn()
    sub_tasks = tests.table("images", "effect", "low", "high").rename(columns={"images": "n"})
    drawn(vlm.sub_task_panels(sub_tasks))
    leaning = changed.rename(columns={"accuracy": "value"})
    vlm.share_dots(leaning, base.long_axis(3), "Share of yes answers (%)", 0.5, "yes is right")
    drawn()


@degenerate
def test_the_chapter_on_caches(n, share):
    right = (np.arange(n) < share * n).astype(float)
    cells = {(): right, ("range",): right, ("resolution",): right, ("range", "resolution"): right}
    found = {(twin, "cause"): attribute(cells, ["range", "resolution"], **BOOT) for twin in (PLAIN, "key:8")}
    said = caches.largest_loss_claim(found)
    whole(said, *map(caches.attribution_claim, found.values()))
    assert "the largest loss" not in said and "mostly" not in said
    recovered = {(t, c): r for t in (PLAIN, "key:8") for c, r in recoveries({"e4m3-amax": right}, right, 0.01).items()}
    shown(recovery_table(recovered), {"Difference": tables.marked(tables.interval(), "non_inferior")})
    own = {twin: test for (twin, _), test in recovered.items()}
    opening = openings.cache_opening(own, "FP8", PLAIN, [], 0.0)
    whole(*(caches.recovery_claim(r, "FP8", "the exact cache") for r in own.values()))
    whole(opening.answer, opening.number, opening.advice)
    bytes_of = pd.Series({"exact": 64, "e4m3-amax": 32})
    whole(caches.cheapest_claim(recovered, bytes_of, "exact", {"e4m3-amax": "FP8"}))
    if (n, share) not in FIGURES:
        return
    drawn(base.panels(attribution_table(found).groupby("twin"), kv.parts_of_loss, label="Points lost", sharex=True))
    curves = compare({("key:8", "e4m3-amax"): (right, right)}, ("twin", "cache"), **PAIRED).table()
    drawn(base.panels({"key": curves.assign(amplitude=1.0)}, kv.loss_by_amplitude, largest=448.0, legend=True))
    steps = pd.DataFrame({"cache": "e4m3-amax", "step": [0, 1], "kl": 0.0, "low": 0.0, "high": 0.0})
    kv.drift_by_step(steps, plt.subplots()[1])
    drawn()
    states = pd.DataFrame({"layer": 0, "modality": ["text", "image"], "amplitude": 1.0, "spread": [1.0, 0.0]})
    kv.state_ranges(states, plt.subplots()[1], 448.0, "largest number")
    drawn()


@degenerate
@pytest.mark.parametrize("bytes_", [(4.0, 2.0, 1.0), (1.0, 1.0, 1.0)], ids=["sizes", "one size"])
def test_the_chapter_on_choices(n, share, bytes_):
    right = (np.arange(n) < share * n).astype(float)
    table = pd.DataFrame(dict.fromkeys([(c, 0) for c in CONFIGS], right))
    sure = uncertain_frontier(
        {"accuracy": table, "corrupted": table}, pd.DataFrame({"bytes": bytes_}, index=CONFIGS), **BOOT
    )
    whole(choices.frontier_claim(sure, {c: label(c) for c in CONFIGS}, ["bytes"]))
    shown(sure.table, {"Clean": tables.interval("accuracy"), "Corrupted": tables.interval("corrupted")})
    losses = pd.DataFrame({"w4a8-minmax": [0.0, 0.0], "w8a8-minmax": [0.0, 0.0]}, index=["a", "b"])
    sizes = pd.DataFrame({"w4a8-minmax": [1.0, 1.0], "w8a8-minmax": [2.0, 2.0]}, index=["a", "b"])
    mix = allocate(losses, sizes, 2.0)
    tests = compare({"clean accuracy": (right, right)}, ["quantity"], **PAIRED)
    said = choices.allocation_claim(mix, "W4A8", 0.0, tests)
    whole(said)
    assert "a mix of 1 formats" not in said
    if (n, share) not in FIGURES:
        return
    drawn(choosing.frontier_panels(sure.table))
