"""Robustness metrics as plain functions of accuracies and errors, all of them fractions in [0, 1].

Two different quantities go by "mean corruption error" in the field. Here `mce` is the one of Hendrycks and Dietterich
(2019, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"): errors divided by those of a
baseline model. The mean absolute loss of accuracy, which EdgeVLM-Bench prints as mCE, is `accuracy_drop`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgelib.errors import EdgelibError, choose

# AlexNet's error on ImageNet-C, mean over the five severities, 50,000 images: the denominators of the published
# leaderboard (hendrycks/robustness spreadsheet, six decimals as in google-research/augmix `imagenet.py`). Keyed by
# name because a list of numbers silently pairs with the wrong corruption.
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
ALEXNET_CLEAN = 0.4348  # its error on the clean ImageNet validation set
SEVERITIES = 5


def fractions(values, what: str) -> np.ndarray:
    """Return `values` (a number, sequence or array) as a non-empty float64 array after checking it lies in [0, 1].

    Raises EdgelibError naming `what` for empty, non-numeric, NaN or out-of-range input, with a hint for percent.
    """
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise EdgelibError(f"{what} must be numbers in [0, 1], got {values!r}") from error
    if array.size == 0:
        raise EdgelibError(f"{what} is empty; give at least one number in [0, 1]")
    bad = array[~((array >= 0) & (array <= 1))]
    if bad.size:
        percent = np.isfinite(bad).all() and 1 < array.max() <= 100 and array.min() >= 0
        hint = "; this looks like percent: divide by 100" if percent else ""
        raise EdgelibError(f"{what} must lie in [0, 1], got {float(bad.flat[0])!r}{hint}")
    return array


def one_fraction(value, what: str) -> float:
    """Return `value` as a float after checking it is a single number in [0, 1]; raises EdgelibError otherwise."""
    array = fractions(value, what)
    if array.ndim:
        raise EdgelibError(f"{what} must be one number in [0, 1], got {array.size} of them")
    return float(array)


def accuracy(correct) -> float:
    """Return the mean of per-item outcomes (0/1, or graded in [0, 1]), higher is better. EdgelibError if empty."""
    return float(fractions(correct, "outcomes").mean())


def robustness_score(clean, corrupted) -> float:
    """Return the share of clean accuracy that survives, RS = mean(corrupted) / clean; higher is better, 1 is no loss.

    The score of EdgeVLM-Bench. A model at chance scores 1, so read it beside `chance_corrected_retention`.
    clean: accuracy in (0, 1]. corrupted: accuracies of the corrupted cells (any shape).
    Raises EdgelibError for a clean accuracy of zero and for values outside [0, 1].
    """
    clean = one_fraction(clean, "clean accuracy")
    if clean == 0:
        raise EdgelibError("clean accuracy is 0, so no share of it can survive; RS needs a clean accuracy above 0")
    return float(fractions(corrupted, "corrupted accuracy").mean() / clean)


def accuracy_drop(clean, corrupted) -> float:
    """Return the accuracy lost on average, clean - mean(corrupted), in [-1, 1]; lower is better.

    EdgeVLM-Bench prints this number as mCE. It equals clean * (1 - RS), so a model that starts low has little to lose.
    Raises EdgelibError for values outside [0, 1].
    """
    return float(one_fraction(clean, "clean accuracy") - fractions(corrupted, "corrupted accuracy").mean())


def chance_corrected_retention(clean, corrupted, chance) -> float:
    """Return the share of above-chance accuracy that survives, (mean(corrupted) - chance) / (clean - chance).

    Higher is better, 1 is no loss, 0 is chance; negative below chance. chance: accuracy of guessing, 1 / classes.
    Raises EdgelibError when clean is not above chance (there is nothing to retain) and for values outside [0, 1].
    """
    clean, chance = one_fraction(clean, "clean accuracy"), one_fraction(chance, "chance")
    if clean <= chance:
        raise EdgelibError(f"clean accuracy {clean:g} is not above chance {chance:g}: there is no accuracy to retain")
    return float((fractions(corrupted, "corrupted accuracy").mean() - chance) / (clean - chance))


def _mean_errors(errors, what: str, severities: int | None = None) -> dict[str, float]:
    """{corruption: mean error over severities}, checked; `severities` fixes how many errors each must have."""
    if not isinstance(errors, Mapping) or not errors:
        raise EdgelibError(f"{what} must be a non-empty dict {{corruption: [error per severity]}}, got {errors!r}")
    means = {}
    for name, values in errors.items():
        values = np.atleast_1d(fractions(values, f"{what}[{name!r}]"))
        if severities is not None and values.shape != (severities,):
            raise EdgelibError(f"{what}[{name!r}] must hold {severities} errors, one per severity, got {values.size}")
        means[name] = float(values.mean())
    return means


def _baseline_errors(errors: Mapping, baseline) -> dict[str, float]:
    """{corruption: baseline mean error} for the corruptions of `errors`, over as many severities as `errors` has."""
    if isinstance(baseline, str):
        choose({"alexnet": ALEXNET}, baseline, "mCE baseline")
        _mean_errors(errors, "errors", SEVERITIES)
        return {name: choose(ALEXNET, name, "corruption with an AlexNet error") for name in errors}
    _mean_errors(baseline, "baseline")
    lengths = {name: np.size(values) for name, values in errors.items()}
    chosen = {name: choose(baseline, name, "corruption of the baseline") for name in errors}
    return {name: _mean_errors({name: chosen[name]}, "baseline", lengths[name])[name] for name in errors}


def ce(errors, baseline="alexnet") -> dict[str, float]:
    """Return {corruption: CE}, CE = sum of errors over severities / the same sum of the baseline; lower is better.

    A fraction: 1.0 means as many errors as the baseline (papers print 100 * CE).
    errors: {corruption: [error in [0, 1] per severity]}. baseline: "alexnet" (ImageNet-C only: its fifteen corruptions,
    five severities), or a dict of the same shape for a named baseline model. The corruptions may be a subset.
    Raises EdgelibError for percent, NaN, wrong lengths, a corruption the baseline lacks, and a baseline without errors.
    """
    means, base = _mean_errors(errors, "errors"), _baseline_errors(errors, baseline)
    for name, value in base.items():
        if value == 0:
            raise EdgelibError(f"the baseline makes no error on {name!r}, so its CE is undefined; leave {name!r} out")
    return {name: means[name] / base[name] for name in means}


def relative_ce(errors, clean_error, baseline="alexnet", baseline_clean=None) -> dict[str, float]:
    """Return {corruption: relative CE}, (mean error - clean error) / the same of the baseline; lower is better.

    A fraction, negative where corruption helps. Arguments as `ce`; clean_error in [0, 1]; baseline_clean: clean error
    of the baseline, 0.4348 for "alexnet", needed for any other. Raises EdgelibError as `ce`, and where the corruption
    does not raise the baseline's error (the ratio would change its sign).
    """
    means, base = _mean_errors(errors, "errors"), _baseline_errors(errors, baseline)
    clean_error = one_fraction(clean_error, "clean_error")
    if baseline_clean is None:
        if not isinstance(baseline, str):
            raise EdgelibError("relative mCE against a named baseline needs baseline_clean, its clean error in [0, 1]")
        baseline_clean = ALEXNET_CLEAN
    baseline_clean = one_fraction(baseline_clean, "baseline_clean")
    for name, value in base.items():
        if value <= baseline_clean:
            raise EdgelibError(
                f"{name!r} does not raise the baseline's error ({value:g}, clean {baseline_clean:g}), so its relative "
                f"CE is undefined; leave {name!r} out or use mce"
            )
    return {name: (means[name] - clean_error) / (base[name] - baseline_clean) for name in means}


def mce(errors, baseline="alexnet") -> float:
    """Return the mean of `ce` over the given corruptions, a fraction (1.0 = the baseline); lower is better.

    Only the full fifteen against "alexnet" compare with the ImageNet-C leaderboard (which prints 100 * mCE): a subset
    is allowed and is the mean over that subset. Arguments and errors as `ce`.
    """
    return float(np.mean(list(ce(errors, baseline).values())))


def relative_mce(errors, clean_error, baseline="alexnet", baseline_clean=None) -> float:
    """Return the mean of `relative_ce` over the given corruptions, a fraction, lower is better; arguments as there."""
    return float(np.mean(list(relative_ce(errors, clean_error, baseline, baseline_clean).values())))
