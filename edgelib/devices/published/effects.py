"""Crossed random effects: what values share that have a label in common, and what a new combination is expected to be.

    value = sum over factors of effect[factor, its label] + residual

Effects and residuals are normal with mean 0; their spreads maximise the posterior density under log-normal priors, so
that few values leave a spread where the prior has it. Predictions are those of a Gaussian process whose covariance is
the sum of the shared labels (best linear unbiased prediction; Henderson 1975, Rasmussen and Williams 2006, ch. 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import linalg, optimize

from edgelib.errors import EdgelibError

_PRIOR_WIDTH = 0.7  # of the logarithm of a spread: within a factor of two


@dataclass(frozen=True)
class Effects:
    """Fitted effects: labels [n, factors] and values [n] that they rest on, `spreads` {factor: sd}, residual sd."""

    labels: pd.DataFrame
    values: np.ndarray
    spreads: Mapping[str, float]
    residual: float

    def predict(self, labels: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return (mean [m], standard deviation [m]) of new values with these labels, residual included.

        labels: a column per factor; a label that no value has is a new one, with the spread of its factor.
        """
        prior = sum(spread**2 for spread in self.spreads.values()) + self.residual**2
        if not len(self.values):
            return np.zeros(len(labels)), np.full(len(labels), np.sqrt(prior))
        known = _covariance(self.labels, self.labels, self.spreads) + self.residual**2 * np.eye(len(self.values))
        shared = _covariance(labels, self.labels, self.spreads)
        factor = linalg.cho_factor(known, lower=True)
        gained = np.einsum("ij,ji->i", shared, linalg.cho_solve(factor, shared.T))
        return shared @ linalg.cho_solve(factor, self.values), np.sqrt(prior - gained)

    def with_values(self, labels: pd.DataFrame, values) -> Effects:
        """Return the same spreads with further values: what is learned of one label moves no spread."""
        joined = pd.concat([self.labels, labels[list(self.spreads)]], ignore_index=True)
        return Effects(joined, np.concatenate([self.values, np.asarray(values, float)]), self.spreads, self.residual)


def _same(a: pd.DataFrame, b: pd.DataFrame, factor: str) -> np.ndarray:
    return (a[factor].to_numpy()[:, None] == b[factor].to_numpy()[None, :]).astype(float)


def _covariance(a: pd.DataFrame, b: pd.DataFrame, spreads: Mapping[str, float]) -> np.ndarray:
    return np.sum([spread**2 * _same(a, b, factor) for factor, spread in spreads.items()], axis=0)


def fit_effects(labels: pd.DataFrame, values, spreads: Mapping[str, float], residual: float) -> Effects:
    """Return the effects of the factors named by `spreads`, from values [n] with labels [n, factors].

    spreads, residual: medians of the priors, standard deviations above 0 in the unit of the values.
    Raises EdgelibError for values that are not finite, factors without a column and spreads that are not above 0.
    """
    values = np.asarray(values, float)
    missing = [factor for factor in spreads if factor not in labels.columns]
    if missing:
        raise EdgelibError(f"no column {missing[0]!r} among the labels; there is {', '.join(map(str, labels.columns))}")
    if not np.isfinite(values).all() or len(values) != len(labels):
        raise EdgelibError(f"effects need a finite value per row of labels, got {len(values)} for {len(labels)} rows")
    center = np.log([*spreads.values(), residual]) if min([*spreads.values(), residual]) > 0 else None
    if center is None:
        raise EdgelibError(f"spreads must be above 0, got {min([*spreads.values(), residual]):g}")
    kept = labels[list(spreads)].reset_index(drop=True)
    if not len(values):
        return Effects(kept, values, dict(spreads), residual)
    parts = np.stack([*(_same(kept, kept, factor) for factor in spreads), np.eye(len(values))])

    def negative_log_posterior(x):
        variances = np.exp(2 * x)
        inverse = linalg.inv(np.tensordot(variances, parts, 1))
        logdet = np.linalg.slogdet(inverse)[1]
        weights = inverse @ values
        slope = np.tensordot(parts, inverse, 2) - parts @ weights @ weights
        shift = (x - center) / _PRIOR_WIDTH
        return (values @ weights - logdet + shift @ shift) / 2, variances * slope + shift / _PRIOR_WIDTH

    found = optimize.minimize(negative_log_posterior, center, jac=True, method="L-BFGS-B")
    *each, rest = np.exp(found.x).tolist()
    return Effects(kept, values, dict(zip(spreads, each, strict=True)), rest)
