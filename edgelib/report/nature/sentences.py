"""Sentences about a real decoder beside the twins, each from tests or from the tables themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from edgelib.quant.scheme import scheme
from edgelib.report.claims.text import names_text, spread_text
from edgelib.report.nature.tables import NATURE, Found, mean_interval
from edgelib.report.tables import with_interval
from edgelib.stats.ranks import RankAgreement
from edgelib.study.nature.caches import CONTROL
from edgelib.study.nature.grid import line_of
from edgelib.study.nature.states import LARGEST_E4M3, PARTS

NOTICEABLE = 0.05  # octaves
WORDS = {"activation": "activations", "weight": "weights", "key": "keys", "value": "values", "residual": "residual"}


def ranking_sentence(agreement: RankAgreement) -> str:
    """What a twin's ranking is good for, from its agreement with nature's."""
    bits = agreement.rho_interval[0] > 0
    methods = agreement.within_interval[0] > 0.5
    if bits and methods:
        return "A twin ranks formats and methods as a real decoder does."
    if bits:
        return (
            "A twin ranks formats as a real decoder does, and is not shown to tell which method is better where two "
            "leave the same bits."
        )
    if methods:
        return "A twin orders methods of the same bits as a real decoder does, and is not shown to rank formats."
    return "No ranking of a twin is shown to carry over to a real decoder."


def ranking_advice(agreement: RankAgreement) -> str:
    """What to choose on a twin and what on the decoder that is shipped: only what the twin is shown to rank."""
    ships = "on a decoder of the size that you ship"
    if agreement.rho_interval[0] <= 0:
        return f"read the twins for causes, and choose bits and method {ships}"
    if agreement.within_interval[0] <= 0.5:
        return f"choose the number of bits on a twin, and the method among those of equal bits {ships}"
    return f"choose bits and method on a twin, and measure the choice {ships}"


def nature_sentences(found: Found) -> list[str]:
    """What stands out in the real decoder, and which twin is nearest in each part."""
    own = found.states[NATURE]
    residual, activation = own[own.part == "residual"], own[own.part == "activation"]
    sinks = own[own.part == "attention"]
    token = activation.loc[activation.token_ratio.idxmax()]
    near = found.distances
    nearest = {part: _nearest(near.set_index("twin")[part]) for part in PARTS}
    said = [
        f"In the real decoder, {int((residual.massive > 0).sum())} of {len(residual)} layers hand on massive values, "
        f"the largest {residual.peak.max():,.0f}.",
        f"Its inputs stand out by token as well as by channel: most in {token.place} of layer {int(token.layer)}, "
        f"where one token's peak is {token.token_ratio:,.0f} times the median token's.",
        f"More than 30 % of the attention goes to the first token in {100 * sinks.sink_heads.mean():.0f} % of its "
        f"heads; in the twins' model, in {100 * _sinks(found, 'plain'):.0f} %.",
    ]
    parts: dict[str, list[str]] = {}
    for part, twin in nearest.items():
        parts.setdefault(twin, []).append(WORDS[part])
    told = [f"`{twin}` is nearest in {names_text(own, most=9)}" for twin, own in parts.items()]
    return [*said, f"Of the twins, {'; '.join(told)}."]


def _nearest(distance: pd.Series) -> str:
    """The nearest twin of a part; "plain" where no planted outliers bring it nearer by a noticeable distance."""
    best = str(distance.idxmin())
    return "plain" if "plain" in distance and distance["plain"] - distance[best] < NOTICEABLE else best


def _sinks(found: Found, twin: str) -> float:
    table = found.states.get(twin, next(iter(found.states.values())))
    return float(table[table.part == "attention"].sink_heads.mean())


@dataclass(frozen=True)
class Beside:
    """A scheme against min-max of the same bits: mean difference of the log-likelihood with interval, the verdict."""

    spread: tuple[float, float, float]
    verdict: str


def beside_plain(found: Found, name: str) -> Beside | None:
    """A scheme against min-max of its line on held-out text, paired by passage; None where it has no such neighbour."""
    line = line_of(name)
    names = [n for n in found.nll.columns if n not in ("item", "tokens", "fp32") and line_of(n) == line]
    plain = next((n for n in names if "minmax" in n), None)
    if plain is None or plain == name:
        return None
    effect, low, high = mean_interval(found.nll[name] - found.nll[plain], name, plain)
    return Beside((effect, low, high), "better" if high < 0 else "worse" if low > 0 else "open")


def _ratio(beside: Beside) -> str:
    value, low, high = np.exp(beside.spread)
    return with_interval(value, low, high, scale=1, digits=2)


def methods_sentence(found: Found) -> str:
    """How many methods do better than min-max of the same bits, and the best of each line that has one."""
    found_beside = {n: beside_plain(found, n) for n in found.nll.columns if n not in ("item", "tokens", "fp32")}
    beside = {name: own for name, own in found_beside.items() if own is not None}
    if not beside:
        return "No scheme stands beside min-max of the same bits."
    counts = {v: sum(own.verdict == v for own in beside.values()) for v in ("better", "worse", "open")}
    said = (
        f"Of {len(beside)} schemes that can be held against min-max of the same bits, shown to be better: "
        f"{counts['better']}; worse: {counts['worse']}; open: {counts['open']}."
    )
    lines: dict[str, list[str]] = {}
    for name, own in beside.items():
        if own.verdict == "better":
            lines.setdefault(line_of(name), []).append(name)
    best = {line: min(names, key=lambda name: beside[name].spread[0]) for line, names in lines.items()}
    told = [
        f"at {line} {scheme(name).label.removeprefix(line).strip()}, with "
        f"{_ratio(beside[name])} times the perplexity of min-max"
        for line, name in best.items()
    ]
    return f"{said} The best means: {'; '.join(told)}." if told else said


def range_sentence(found: Found) -> str:
    """Whether keys or values of the real decoder leave what E4M3 holds without a scale."""
    own = found.states[NATURE]
    states = own[own.part.isin(["key", "value"])]
    share = states.beyond448.max()
    if states.peak.max() <= LARGEST_E4M3:
        return "No key or value that a real decoder made of text leaves the range of E4M3, even without a scale."
    return f"In the worst layer, {100 * share:.2g} % of the real decoder's keys or values leave the range of E4M3."


def largest_sentence(found: Found) -> str:
    """How far the largest key and value are from the largest number of E4M3."""
    own = found.states[NATURE]
    keys, values = (own.loc[own.part == part, "peak"].max() for part in ("key", "value"))
    return (
        f"The largest key that it read is {keys:,.1f} and the largest value {values:,.1f}; the largest number of E4M3 "
        f"is {LARGEST_E4M3:.0f}, so states would have to grow {LARGEST_E4M3 / max(keys, values):,.0f} times to "
        "saturate. Whatever E4M3 without a scale costs this decoder is the doing of its steps."
        if max(keys, values) <= LARGEST_E4M3
        else f"The largest key that it read is {keys:,.1f} and the largest value {values:,.1f}."
    )


def cache_sentences(found: Found) -> list[str]:
    """The verdict on the claim that keys and values saturate at 448, with the control that really does."""
    control = found.control
    grown = control[control.part == "key"]
    said = [range_sentence(found), largest_sentence(found)]
    said += _causes(found, "plain", "On the states as they are")
    if len(grown):
        said.append(
            f"The control, `{CONTROL}`, has keys up to {grown.peak.max():,.0f}, of which "
            f"{100 * grown.beyond448.mean():.0f} % exceed 448."
        )
        said += _causes(found, CONTROL, "There")
    return said


def _causes(found: Found, twin: str, where: str) -> list[str]:
    kl = {cache: own.kl.to_numpy() for cache, own in found.caches[found.caches.twin == twin].groupby("cache")}
    if not {"e4m3-one", "e4m3-one-rangeonly", "e4m3-one-resolutiononly"} <= set(kl):
        return []
    whole, reach, steps = (
        spread_text(*mean_interval(kl[name], twin, name))
        for name in ("e4m3-one", "e4m3-one-rangeonly", "e4m3-one-resolutiononly")
    )
    said = f"{where}, E4M3 without a scale costs {whole} nats; saturation alone {reach}, coarse steps alone {steps}"
    gap = mean_interval(kl["e4m3-one-rangeonly"] - kl["e4m3-one-resolutiononly"], twin, "cause")
    cause = "range" if gap[1] > 0 else "resolution" if gap[2] < 0 else "neither shown to weigh more"
    said += f" ({'the cause is ' + cause if gap[1] > 0 or gap[2] < 0 else cause})"
    if "e4m3-amax" in kl:
        said += f"; with a scale per layer it costs {spread_text(*mean_interval(kl['e4m3-amax'], twin, 'e4m3-amax'))}"
    return [said + "."]
