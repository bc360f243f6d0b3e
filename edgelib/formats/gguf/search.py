"""Searches for the scale (and offset) of a group, as llama.cpp makes them: a few guesses, a least-squares fit of each.

Every function takes groups as columns, [size, groups]: one step of a search is one operation for all groups, and a sum
over a group adds row after row. That order is part of the format in practice: where two guesses are equally good, the
last bit of a float32 sum decides between them, so the sums here run from the first value to the last, in float32,
without fused multiply-add. Codes are whole numbers in float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

EMPTY = 1e-15  # a group whose values are all smaller counts as zeros
_MAGIC = 12582912.0  # 1.5 * 2**23: adding it leaves the nearest whole number in the low bits


def total(rows: Tensor) -> Tensor:
    """Return the sum of rows [size, ...] over its first axis, added from the first to the last."""
    result = rows[0].clone()
    for row in rows[1:]:
        result += row
    return result


def nearest(x: Tensor) -> Tensor:
    """Return the nearest whole numbers, ties to even; beyond 2^22, and for NaN, what the bits happen to say.

    Such numbers come of divisions by almost nothing, and the reference goes on with the same ones.
    """
    return ((x + _MAGIC).view(torch.int32).bitwise_and_(0x7FFFFF)).sub_(0x400000).to(x.dtype)


def rounded(x: Tensor, low: int, high: int) -> Tensor:
    """Return whole numbers in [low, high] nearest to x."""
    return nearest(x).clamp_(low, high)


def root(x: Tensor) -> Tensor:
    """Return the square root of x, rounded once: torch's own of float32 may be off by a bit."""
    return x.double().sqrt_().to(x.dtype)


def signed_peak(x: Tensor) -> Tensor:
    """Return of each column of x [size, groups] the value of the largest magnitude, with its sign; the first of two."""
    return x.gather(0, x.abs().argmax(0, keepdim=True))[0] + 0.0  # -0 becomes 0


def lowest(x: Tensor) -> Tensor:
    """Return the least value of each column of x [size, groups]; the first of two, which tells 0 from -0."""
    return x.gather(0, x.argmin(0, keepdim=True))[0]


def over(number: float, x: Tensor) -> Tensor:
    """Return number / x, rounded once: torch takes `number / x` for number times the rounded 1 / x."""
    return torch.full_like(x, number) / x


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b where b is above 0, else 0."""
    return torch.where(b > 0, a / b, 0.0)


def inverse(x: Tensor) -> Tensor:
    """Return 1 / x, and 0 for 0."""
    return torch.where(x != 0, over(1, x), 0.0)


def _numbers(first: float, step: float, tries: Iterable[int]) -> Iterable[float]:
    """Yield first + step * i, computed in float32."""
    for i in tries:
        yield float(np.float32(step) * np.float32(i) + np.float32(first))


def symmetric(x: Tensor, weights: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return the scale [groups] and codes [size, groups] in [0, 2 * levels) of x = scale * (code - levels).

    The scale is the weighted least-squares fit to the codes of the best of 19 guesses around peak / -levels; it has the
    sign that lets the peak have the code 0. Groups of zeros get scale 0 and codes 0.
    """
    peak = signed_peak(x)
    weighted = weights * x
    pair = x.new_empty(len(x), 2, x.shape[1])
    scale = best = codes = None
    for guess in (levels, *_numbers(levels, 0.1, [i for i in range(-9, 10) if i])):
        q = (x * over(-guess, peak)).round_().clamp_(-levels, levels - 1)
        torch.mul(weighted, q, out=pair[:, 0])
        torch.mul(weights, q, out=pair[:, 1]).mul_(q)
        along, power = total(pair)
        if codes is None:
            scale, codes = torch.where(power != 0, along / power, 0.0), q
            best = scale * along
        else:
            better = (power > 0) & (along * along > best * power)
            codes = torch.where(better, q, codes)
            scale = torch.where(better, along / power, scale)
            best = torch.where(better, scale * along, best)
    empty = peak.abs() < EMPTY
    return scale.masked_fill(empty, 0.0), codes.add_(levels).masked_fill_(empty, 0.0)


def descended(x: Tensor, weights: Tensor, codes: Tensor, low: int, high: int, was_positive: bool) -> Tensor:
    """Improve codes [size, groups] one row at a time, up to five rounds, and return the least-squares scale [groups].

    codes change in place. A row takes the code that fits the scale of all others, if the fit gets better. was_positive:
    whether the weight of the other codes must be above 0 before the row joins them, or only after.
    """
    weighted = weights * x
    along, power = total(weighted * codes), total(weights * codes * codes)
    for _ in range(5):
        changed = False
        for w, wx, value, code in zip(weights, weighted, x, codes, strict=True):
            others, rest = along - wx * code, power - w * code * code
            new = rounded(value * rest / others, low, high)
            now, now_power = others + wx * new, rest + w * new * new
            positive = rest if was_positive else now_power
            better = (others > 0) & (positive > 0) & (new != code)
            better &= now * now * power > along * along * now_power
            along, power = torch.where(better, now, along), torch.where(better, now_power, power)
            code.copy_(torch.where(better, new, code))
            changed = changed or bool(better.any())
        if not changed:
            break
    return ratio(along, power)


def descended_symmetric(x: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return what `symmetric` does for weights x^2, found by descent over codes from the one guess peak / -levels."""
    peak = signed_peak(x)
    codes = rounded(x * over(-levels, peak), -levels, levels - 1)
    scale = descended(x, x * x, codes, -levels, levels - 1, was_positive=False)
    empty = peak.abs() < EMPTY
    return scale.masked_fill(empty, 0.0), codes.add_(levels).masked_fill_(empty, 0.0)


def positive(x: Tensor, weights: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return scale [groups] and codes [size, groups] in [0, levels] of x = scale * code, x being at least 0."""
    peak = x.amax(0)
    step, best = over(levels, peak), None
    for guess in (levels, *_numbers(levels, 0.1, [i for i in range(-4, 5) if i])):
        trial = over(guess, peak)
        away = x - over(1, trial) * nearest(trial * x).clamp_(max=levels)
        error = total(weights * away * away)
        if best is None:
            best = error
        else:
            better = error < best
            step, best = torch.where(better, trial, step), torch.where(better, error, best)
    codes = nearest(step * x).clamp_(0, levels)
    scale = descended(x, weights, codes, 0, levels, was_positive=True)
    empty = peak < EMPTY
    return scale.masked_fill(empty, 0.0), codes.masked_fill_(empty, 0.0)


def affine(
    x: Tensor, weights: Tensor, levels: int, first: float, step: float, tries: int, absolute: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scale and offset [groups] and codes [size, groups] in [0, levels] of x = scale * code - offset.

    The offset is at least 0, so that 0 can be told exactly or from above. Guesses divide the range by levels + first +
    step * i for i up to `tries`; each is fitted by weighted least squares, and the least error wins: weighted squares,
    or weighted magnitudes if `absolute`. A group of one value that is not above 0 has scale 0 and that offset.
    """
    low, high = lowest(x), x.amax(0)
    low = torch.where(low > 0, 0.0, low)
    flat = high == low
    sum_w, sum_x = total(torch.stack([weights, weights * x], 1))

    def error(scale: Tensor, low: Tensor, codes: Tensor) -> Tensor:
        away = (scale * codes).add_(low).sub_(x)
        away = away.abs_() if absolute else away.mul_(away)
        return total(away.mul_(weights))

    per_step = over(levels, high - low)
    scale, codes = over(1, per_step), rounded((x - low) * per_step, 0, levels)
    best = error(scale, low, codes)
    terms = x.new_empty(len(x), 3, x.shape[1])
    for i in range(tries + 1):
        guess = float(np.float32(step) * np.float32(i) + np.float32(first) + np.float32(levels))
        q = ((x - low) * over(guess, high - low)).round_().clamp_(0, levels)  # low is that of the best fit so far
        wq = torch.mul(weights, q, out=terms[:, 0])
        torch.mul(wq, q, out=terms[:, 1])
        torch.mul(wq, x, out=terms[:, 2])
        sum_q, power, along = total(terms)
        spread = sum_w * power - sum_q * sum_q
        fitted = (sum_w * along - sum_x * sum_q) / spread
        offset = (power * sum_x - sum_q * along) / spread
        above = offset > 0
        fitted, offset = torch.where(above, along / power, fitted), torch.where(above, 0.0, offset)
        now = error(fitted, offset, q)
        better = (spread > 0) & (now < best)
        best, scale, low = (torch.where(better, a, b) for a, b in ((now, best), (fitted, scale), (offset, low)))
        codes = torch.where(better, q, codes)
    return scale.masked_fill(flat, 0.0), -low, codes.masked_fill_(flat, 0.0)
