"""Metrics against the peers' numbers, closed forms, and the mistakes people make with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import REFERENCE

from edgelib.errors import EdgelibError
from edgelib.stats import metrics

PEERS = json.loads((REFERENCE / "metrics" / "imagenet_c_mce.json").read_text())
MODELS = PEERS["models"]
# EdgeVLM-Bench: clean accuracy, RS, the column it calls mCE.
EDGEVLM = {
    "FP16": (0.901, 0.516, 0.436),
    "W8A8-minmax": (0.903, 0.515, 0.438),
    "W8A8-SQ": (0.896, 0.523, 0.428),
    "W4A8-minmax": (0.677, 0.419, 0.393),
    "W4A8-AWQ": (0.417, 0.460, 0.225),
}


def errors_of(model):
    return {name: [1 - a for a in accuracy] for name, accuracy in MODELS[model]["accuracy"].items()}


def three_decimals():
    return {name: [error] * 5 for name, error in PEERS["alexnet_error_3dp_paper"].items()}


def test_alexnet_errors_are_the_official_six_decimals_by_name():
    assert metrics.ALEXNET == PEERS["alexnet_error_6dp"]
    assert metrics.ALEXNET_CLEAN == PEERS["alexnet_clean_error"]


@pytest.mark.parametrize("model", MODELS)
def test_mce_equals_augmix(model):
    assert 100 * metrics.mce(errors_of(model)) == pytest.approx(MODELS[model]["augmix_mCE_percent"], abs=1e-10)


@pytest.mark.parametrize("model", MODELS)
def test_relative_mce_equals_the_formula(model):
    value = metrics.relative_mce(errors_of(model), 1 - MODELS[model]["clean_accuracy"])
    assert value == pytest.approx(MODELS[model]["formula_check"]["relative_mCE_with_alexnet_clean_0.4348"], abs=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_named_baseline_equals_robustness_metrics(model):
    peer, clean = MODELS[model]["robustness_metrics"], 1 - MODELS[model]["clean_accuracy"]
    assert metrics.ce(errors_of(model), three_decimals()) == pytest.approx(peer["ce"], abs=1e-12)
    relative = metrics.relative_ce(errors_of(model), clean, three_decimals(), baseline_clean=0.4348)
    assert relative == pytest.approx(peer["relative_ce"], abs=1e-12)
    assert metrics.mce(errors_of(model), three_decimals()) == pytest.approx(peer["mce"], abs=1e-12)


def test_ce_pairs_by_name_not_by_order():
    errors = errors_of("resnet50_like")
    shuffled = dict(reversed(errors.items()))
    assert metrics.ce(shuffled) == metrics.ce(errors)
    assert metrics.ce(errors, dict(reversed(three_decimals().items()))) == metrics.ce(errors, three_decimals())


def test_the_baseline_against_itself_scores_one():
    errors = errors_of("resnet50_like")
    assert metrics.mce(errors, errors) == 1.0
    assert metrics.relative_mce(errors, 0.2385, errors, baseline_clean=0.2385) == pytest.approx(1.0)


def test_a_subset_is_the_mean_of_its_ces():
    errors = errors_of("resnet50_like")
    subset = {name: errors[name] for name in ("fog", "contrast")}
    full = metrics.ce(errors)
    assert metrics.mce(subset) == pytest.approx((full["fog"] + full["contrast"]) / 2)


def test_a_named_baseline_may_have_other_severities():
    assert metrics.mce({"fog": [0.2, 0.4, 0.6]}, {"fog": [0.1, 0.2, 0.3]}) == pytest.approx(2.0)


@pytest.mark.parametrize("config", EDGEVLM)
def test_edgevlm_bench_columns_are_these_two_functions(config):
    clean, rs, drop = EDGEVLM[config]
    corrupted = [clean * rs - 0.1, clean * rs + 0.1]
    assert metrics.robustness_score(clean, corrupted) == pytest.approx(rs)
    assert metrics.accuracy_drop(clean, corrupted) == pytest.approx(drop, abs=1e-3)
    assert metrics.accuracy_drop(clean, corrupted) == pytest.approx(clean * (1 - rs))


@pytest.mark.parametrize(
    ("config", "retention"), [("FP16", 0.456), ("W4A8-minmax", 0.318), ("W4A8-AWQ", 0.290)], ids=lambda v: str(v)
)
def test_chance_corrected_retention_of_edgevlm_bench(config, retention):
    clean, rs, _ = EDGEVLM[config]
    assert metrics.chance_corrected_retention(clean, clean * rs, 0.1) == pytest.approx(retention, abs=5e-4)


def test_retention_is_robustness_score_without_chance():
    assert metrics.chance_corrected_retention(0.8, [0.3, 0.5], 0) == metrics.robustness_score(0.8, [0.3, 0.5])


def test_accuracy_is_the_mean_of_outcomes():
    assert metrics.accuracy([True, False, True, True]) == 0.75
    assert metrics.accuracy(np.array([0.3, 0.9])) == pytest.approx(0.6)


GOOD = {"fog": [0.1, 0.2, 0.3, 0.4, 0.5]}
BAD = {
    "percent": (lambda: metrics.mce({"fog": [10, 20, 30, 40, 50]}), "percent"),
    "NaN": (lambda: metrics.mce({"fog": [0.1, np.nan, 0.3, 0.4, 0.5]}), "nan"),
    "negative": (lambda: metrics.mce({"fog": [-0.1, 0.2, 0.3, 0.4, 0.5]}), "-0.1"),
    "four severities": (lambda: metrics.mce({"fog": [0.1] * 4}), "must hold 5"),
    "not a dict": (lambda: metrics.mce([0.1] * 5), "dict"),
    "no corruption": (lambda: metrics.mce({}), "non-empty"),
    "text": (lambda: metrics.mce({"fog": ["a"] * 5}), "numbers"),
    "misspelt corruption": (lambda: metrics.mce({"jpeg_compresion": [0.1] * 5}), "did you mean 'jpeg_compression'"),
    "corruption beyond the fifteen": (lambda: metrics.mce({"speckle_noise": [0.1] * 5}), "speckle_noise"),
    "misspelt baseline": (lambda: metrics.mce(GOOD, "alexnett"), "did you mean 'alexnet'"),
    "baseline lacks a corruption": (lambda: metrics.mce(GOOD, {"contrast": [0.1] * 5}), "fog"),
    "baseline with other severities": (lambda: metrics.mce(GOOD, {"fog": [0.1] * 3}), "must hold 5"),
    "perfect baseline": (lambda: metrics.mce(GOOD, {"fog": [0.0] * 5}), "no error"),
    "baseline clean missing": (lambda: metrics.relative_mce(GOOD, 0.1, GOOD), "baseline_clean"),
    "baseline not hurt": (lambda: metrics.relative_mce(GOOD, 0.1, GOOD, 0.3), "does not raise"),
    "clean error in percent": (lambda: metrics.relative_mce(GOOD, 23.9), "percent"),
    "several clean errors": (lambda: metrics.relative_mce(GOOD, [0.1, 0.2]), "one number"),
    "zero clean accuracy": (lambda: metrics.robustness_score(0, [0.1]), "clean accuracy is 0"),
    "accuracy in percent": (lambda: metrics.accuracy_drop(90.1, [0.5]), "percent"),
    "no corrupted cell": (lambda: metrics.robustness_score(0.9, []), "empty"),
    "clean at chance": (lambda: metrics.chance_corrected_retention(0.1, 0.1, 0.1), "not above chance"),
    "no outcomes": (lambda: metrics.accuracy([]), "empty"),
}


@pytest.mark.parametrize("call", BAD)
def test_bad_input_is_named(call):
    run, words = BAD[call]
    with pytest.raises(EdgelibError, match=words):
        run()
