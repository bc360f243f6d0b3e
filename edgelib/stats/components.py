"""Variance components of a crossed design: y = mean + one random effect per term and level + rest.

Arrays in, arrays out. The design may be unbalanced or fractional. A term is an incidence matrix Z [N, q] of zeros and
ones, one column per level; V = Z Z' is one where two runs share a level. An interaction is a term whose levels are
the combinations of those of its factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import linalg, optimize

_ZERO = 1e-10  # singular values and sums of squares below this share of the largest are rounding
_LARGEST = 25.0  # logarithm of the largest F ratio, for runs that the terms explain fully


def incidence(codes: np.ndarray) -> np.ndarray:
    """Level numbers [N] -> incidence matrix [N, q]."""
    return np.eye(codes.max() + 1)[codes]


def _basis(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis [N, r] of the space that `columns` span, r their rank."""
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return u[:, s > max(s.max(initial=0), 1.0) * _ZERO]


def _beside(terms: Sequence[np.ndarray], n: int) -> np.ndarray:
    return np.hstack([np.ones((n, 1)), *terms])


def own_space(term: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Return the basis [N, r] of what `term` explains beyond the mean and the `others`; r = 0 if it is confounded."""
    span = _basis(_beside(others, len(term)))
    return _basis(term - span @ (span.T @ term))


def rest_space(terms: Sequence[np.ndarray]) -> np.ndarray:
    """Return the basis [N, r] of what no term explains; r = 0 if no run is left for the rest."""
    return linalg.null_space(_basis(_beside(terms, len(terms[0]))).T)


def reml(y: np.ndarray, terms: Sequence[np.ndarray]) -> np.ndarray:
    """Return the variances [k + 1] of the terms and the rest that maximise the restricted likelihood; at least 0.

    Patterson and Thompson (1971). As in lme4 (Bates et al., 2015) the variance of the rest is profiled out and the
    search is over the ratios to it: with c = N - 1 contrasts, A = Z'MZ, b = Z'My (M removes the mean) and L diagonal
    with the square roots of the ratios, minus twice the log likelihood is, up to a constant, log|I + LAL| + c log q
    with q = y'My - b'L (I + LAL)^-1 L b, and the rest has variance q / c. In a balanced design it is the analysis of
    variance in which mean squares below that of the rest are pooled with it.
    """
    centred = np.hstack(terms) - np.hstack(terms).mean(axis=0)
    block = np.repeat(np.arange(len(terms)), [term.shape[1] for term in terms])
    scale = np.sqrt(((y - y.mean()) ** 2).sum() / (len(y) - 1))
    y = (y - y.mean()) / scale
    gram, cross, contrasts = centred.T @ centred, centred.T @ y, len(y) - 1
    # The search runs over x = log(1 + runs per level * ratio), the logarithm of an expected F ratio: large ratios stay
    # in reach, and at 0 the slope still says whether to leave 0, which it does not for standard deviations.
    per_level = np.array([len(y) / term.shape[1] for term in terms])

    def solved(x):
        """log|K|, q, and what the gradient needs: A - A B A and b - A B b, with K = I + LAL and B = L K^-1 L."""
        weight = np.sqrt(np.expm1(x) / per_level)[block]
        factor = np.linalg.cholesky(np.eye(len(block)) + weight[:, None] * gram * weight)
        half = linalg.solve_triangular(factor, weight[:, None] * np.column_stack([gram, cross]), lower=True)
        left, right = half[:, :-1], half[:, -1]
        q = max(y @ y - right @ right, _ZERO)
        return 2 * np.log(np.diag(factor)).sum(), q, gram - left.T @ left, cross - left.T @ right

    def deviance(x):
        log_det, q, inner, outer = solved(x)
        slope = np.bincount(block, np.diag(inner) - contrasts / q * outer**2)
        return log_det + contrasts * np.log(q), slope * np.exp(x) / per_level

    bounds = [(0, _LARGEST)] * len(terms)
    options = dict(maxiter=1000, ftol=1e-14, gtol=1e-8)
    x = optimize.minimize(deviance, np.ones(len(terms)), jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    rest = solved(x)[1] / contrasts
    return scale**2 * rest * np.append(np.expm1(x) / per_level, 1.0)


def sampling_variances(noise: np.ndarray, terms: Sequence[np.ndarray]) -> np.ndarray:
    """Return the variances [k + 1] >= 0 of terms and rest whose covariance is closest to that of sampled columns.

    noise [N, G]: independent deviations whose sum over G is the sampling error of the N runs, so that its covariance is
    noise noise'. Least squares over all entries after removing what all runs share, non-negative (Lawson and Hanson).
    """
    n = noise.shape[0]
    parts = [part - part.mean(axis=0) for part in [*terms, np.eye(n)]]
    noise = noise - noise.mean(axis=0)
    normal = np.array([[((a.T @ b) ** 2).sum() for b in parts] for a in parts])
    target = np.array([((part.T @ noise) ** 2).sum() for part in parts])
    root = linalg.cholesky(normal)
    return optimize.nnls(root, linalg.solve_triangular(root, target, trans="T"))[0]


def _root(s: np.ndarray, eigenvalues: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The t >= 0 [B] with sum_j s_j / (1 + eigenvalue_j t) = u, 0 where the sum is below u already at t = 0.

    Newton on 1 / sum, which is concave and increasing, climbs to the root from below without overshooting.
    """
    t = np.zeros(len(u))
    for _ in range(100):
        ratio = s / (1 + eigenvalues * t[:, None])
        total = ratio.sum(axis=1)
        slope = (ratio * eigenvalues / (1 + eigenvalues * t[:, None])).sum(axis=1)
        # a term that explains nothing at all has no slope, and 0 is its root
        step = np.maximum(np.divide((total / u - 1) * total, slope, out=np.zeros_like(u), where=slope > 0), 0)
        t += step
        if (step <= 1e-9 * t).all():
            break
    return t


def pivotal_draws(
    y: np.ndarray, terms: Sequence[np.ndarray], inside: Sequence[Sequence[int]], n_draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Return draws [n_draws, k + 1] of the variances of terms and rest given y, whose quantiles are intervals.

    inside[f]: numbers of the terms that contain term f (the interactions of its factor).
    Generalized pivots (Weerahandi, 1993; Khuri, Mathew and Sinha, 1998). The residual sum of squares is the rest's
    variance times chi-square, so one draw of the rest is that sum over a drawn chi-square. What a term alone explains,
    w = U'y, is normal with a covariance that grows with the term's variance t and holds besides only the rest and the
    terms that contain it; w' covariance(t)^-1 w is chi-square (Wald, 1947), and a draw of t makes it equal a drawn
    chi-square, or is 0 where no t does. Each pivot is exact; that the terms of an unbalanced design are not quite
    independent is ignored. Unlike percentiles of a bootstrap these limits hold for factors with five levels.
    """
    rest = rest_space(terms)
    squares = max(((rest.T @ y) ** 2).sum(), _ZERO * ((y - y.mean()) ** 2).sum())
    draws = np.zeros((n_draws, len(terms) + 1))
    draws[:, -1] = squares / rng.chisquare(rest.shape[1], n_draws)
    for f in sorted(range(len(terms)), key=lambda f: len(inside[f])):
        space = own_space(terms[f], [terms[g] for g in range(len(terms)) if g != f and g not in inside[f]])
        w, design = space.T @ y, space.T @ terms[f]
        if inside[f]:
            noise = draws[:, -1, None, None] * np.eye(len(w))
            for g in inside[f]:
                shared = space.T @ terms[g]
                noise = noise + draws[:, g, None, None] * (shared @ shared.T)
            factor = np.linalg.inv(np.linalg.cholesky(noise))
            design, w = factor @ design, factor @ w
            eigenvalues, vectors = np.linalg.eigh(design @ design.swapaxes(1, 2))
            s = np.einsum("bij,bi->bj", vectors, w) ** 2
        else:
            eigenvalues, vectors = np.linalg.eigh(design @ design.T)
            s = (vectors.T @ w) ** 2 / draws[:, -1:]
            eigenvalues = eigenvalues / draws[:, -1:]
        draws[:, f] = _root(s, eigenvalues, rng.chisquare(space.shape[1], n_draws))
    return draws
