"""A doctor for quantized caches: what is wrong, where, and which policy mends it, without a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from edgelib.errors import EdgelibError
from edgelib.kv.cache import KVPlan, kv_cache
from edgelib.kv.calibrate import KVStatistics
from edgelib.kv.drift import Prepared, kv_drift, prompt_batches
from edgelib.kv.health import KVHealth, kv_health
from edgelib.kv.scheme import KVScheme, kv_scheme

CAUSES = ("healthy", "delivery", "range", "resolution")
DELIVERED = 0.2  # a gain that differs from 1 by more is no rounding error
SATURATED = 1e-3  # share of a channel's states beyond the grid that counts as a cause
REMEDIES = ("amax", "head", "channel", "amax-mean", "channel-mean", "amax-bias", "channel-bias", "token", "kivi")


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found.

    line: one sentence. cause: one of CAUSES. layer, part, modality: where it is worst, None for a healthy cache.
    remedy: name of the scheme that mends it, None if nothing is wrong or nothing tried does. trials: one row per scheme
    tried, the one examined first: scheme, kl (mean over tokens, in nats), flips (share of tokens), bytes_per_token.
    """

    line: str
    cause: str
    layer: int | None
    part: str | None
    modality: str | None
    remedy: str | None
    trials: pd.DataFrame


def doctor(
    model,
    scheme: str | dict | KVScheme,
    data,
    statistics: KVStatistics | None = None,
    *,
    remedies: Sequence[str | KVScheme] | None = None,
    flips: float = 0.01,
    kl: float = 0.01,
    steps: int = 8,
    batch_size: int = 64,
) -> Diagnosis:
    """Examine a cache on prompts, and if it changes what the model says, look for the cheapest policy that does not.

    A cache is healthy if at most `flips` of the tokens change and the divergence is at most `kl` nats on average.
    Otherwise the instruments name the cause: scales that are not delivered if rounded states are not of the size of
    exact ones, else the range if states saturate, else the resolution. remedies: schemes to try, by default the scale
    policies of the same format; the one with the fewest bytes per token that is healthy is named, the earlier one at
    equal bytes.
    Raises EdgelibError as `kv_cache` does for the scheme examined; a remedy that does not fit the model is left out.
    """
    scheme = kv_scheme(scheme)
    plan, prompts = kv_cache(model, scheme, statistics), prompt_batches(model, data, batch_size)
    trials = [_trial(model, plan, prompts, steps)]
    if _healthy(trials[0], flips, kl):
        line = f"{scheme.name} is healthy: {_numbers(trials[0])}"
        return Diagnosis(line, "healthy", None, None, None, None, pd.DataFrame(trials))
    cause, where, what = _cause(kv_health(model, plan, prompts), scheme)
    candidates = sorted(_plans(model, scheme, remedies, statistics), key=lambda p: p.bytes_per_token)
    remedy = None
    for candidate in candidates:
        trials.append(_trial(model, candidate, prompts, steps))
        if _healthy(trials[-1], flips, kl):
            remedy = candidate.scheme.name
            break
    mended = f"{remedy} mends it: {_numbers(trials[-1])}" if remedy else f"none of {len(candidates)} remedies mends it"
    line = f"{scheme.name} changes what the model says ({_numbers(trials[0])}): {what}; {mended}"
    return Diagnosis(line, cause, *where, remedy, pd.DataFrame(trials))


def _trial(model, plan: KVPlan, prompts: Prepared, steps: int) -> dict:
    drift = kv_drift(model, plan, prompts, steps)
    return {
        "scheme": plan.scheme.name,
        "kl": float(drift.kl.mean()),
        "flips": float(drift.flip.mean()),
        "bytes_per_token": plan.bytes_per_token,
    }


def _healthy(trial: dict, flips: float, kl: float) -> bool:
    return trial["flips"] <= flips and trial["kl"] <= kl


def _numbers(trial: dict) -> str:
    return f"{100 * trial['flips']:.1f} % of tokens flip, KL {trial['kl']:.2g} nats"


def _plans(model, scheme: KVScheme, remedies, statistics) -> list[KVPlan]:
    short = scheme.name.split("-")[0]
    names = [f"{short}-{policy}" for policy in REMEDIES] if remedies is None else remedies
    plans = []
    for name in names:
        try:
            plans.append(kv_cache(model, name, statistics))
        except EdgelibError:
            if remedies is not None:
                raise
    return [plan for plan in plans if plan.scheme != scheme]


def _cause(health: KVHealth, scheme: KVScheme) -> tuple[str, tuple[int, str, str | None], str]:
    """(cause, (layer, part, modality), words) of the worst place."""
    away = health.layers.loc[(health.layers.gain - 1).abs().idxmax()]
    named = {"k": "keys", "v": "values"}
    if scheme.needs_calibration and not 1 - DELIVERED < away.gain < 1 / (1 - DELIVERED):
        words = f"{named[away.part]} of layer {away.layer} come back {away.gain:.2g} times as large, as if a scale were"
        return "delivery", (int(away.layer), away.part, None), f"{words} not delivered"
    worst = health.channels.loc[health.channels.saturation.idxmax()]
    if worst.saturation > SATURATED:
        words = (
            f"{named[worst.part]} of {worst.modality} tokens saturate, in layer {worst.layer} "
            f"{100 * worst.saturation:.0f} % of head {worst['head']}, channel {worst.channel}, which reaches "
            f"{worst.amplitude:.3g}"
        )
        return "range", (int(worst.layer), worst.part, worst.modality), words
    worst = health.channels.loc[health.channels.resolution.idxmax()]
    words = (
        f"{named[worst.part]} of {worst.modality} tokens are resolved too coarsely, in layer {worst.layer} by steps of "
        f"{worst.step:.2g} where head {worst['head']}, channel {worst.channel} spreads over {worst.spread:.2g}"
    )
    return "resolution", (int(worst.layer), worst.part, worst.modality), words
