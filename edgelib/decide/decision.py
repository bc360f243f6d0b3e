"""Which configuration to ship: what fits, what keeps the margin, and which of those cannot be told apart.

    1. Budgets are hard: all that is in memory at once, and the time at the upper end of its interval (or its middle).
    2. Of what fits, those stay whose clean and corrupted accuracy is shown to be less than a margin below that of every
       other that fits: an intersection-union test, so each stays wrongly with probability alpha at most, however many
       there are and however the best was picked (Berger, 1982; Hsu, 1996).
    3. They are ordered by what was asked for. Whatever the first cannot be told from is tied with it.

More budget never removes an option from what fits. It may remove one from the answer, but only where one that newly
fits beats it. A record holds all numbers; this module compares them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from edgelib.decide.record import CLEAN, CORRUPTED, DecisionRecord, DeviceOptions, Option
from edgelib.devices.device import GIB
from edgelib.errors import EdgelibError, choose

ORDERS = ("speed", "bytes", "energy")
ENDS = ("upper", "middle")
_DIGITS = 1e4  # draws are kept in hundredths of a point
_TIED = float(stats.norm.isf(0.05))  # two costs are told apart where their ratio is beyond this many deviations


@dataclass(frozen=True)
class Choice:
    """One recommended configuration.

    cost: what the order counts (ms, bytes or mJ). p_within: share of resamplings of images and calibration draws in
    which it stays within the margin of the best that fits; all pairs and criteria count together, where a test takes
    them one by one, so it may lie below 1 - alpha for what is shown. p_as_good: probability that its cost is no more
    than the first one's. shown: whether the margin is shown, or only observed.
    """

    config: str
    memory: float
    latency_ms: float
    low: float
    high: float
    source: str
    runtime: str
    command: str
    cost: float
    p_within: float
    p_as_good: float
    shown: bool


@dataclass(frozen=True)
class Decision:
    """The answer for one device.

    fits: what is within the budgets. kept: of these, what keeps the margin. tied: the recommended ones, those of `kept`
    whose cost cannot be told from the least. open: {config: images that would show it} of what fits and is observed
    within the margin, but is not shown to be: as many as make its bounds narrow enough, if nothing else changes.
    out: {config: why not}. shown: whether `kept` is shown; where nothing is, it is what is observed within the margin.
    end: "upper" or "middle" of the interval of the time that counted.
    """

    device: str
    name: str
    end: str
    margin: float
    order: str
    criteria: tuple[str, ...]
    fits: tuple[str, ...]
    kept: tuple[str, ...]
    tied: tuple[Choice, ...]
    open: dict[str, int]
    out: dict[str, str]
    shown: bool


def decide(
    record: DecisionRecord,
    device: str,
    *,
    memory: float | None = None,
    latency_ms: float | None = None,
    margin: float = 0.01,
    order: Literal["speed", "bytes", "energy"] = "speed",
    corruption: str | None = None,
    end: Literal["upper", "middle"] = "upper",
) -> Decision:
    """Return what to ship on a device of a record.

    memory: bytes of the board, of which the system takes its share; None: those of the device. latency_ms: most that
    one image may take; None: no limit. margin: in accuracy, 0.01 is one point. corruption: what to be ready for, None:
    the mean over all. end: which end of the interval of a time has to be within the budget.
    Raises EdgelibError for a device, order, end or corruption that the record lacks and for numbers not above 0.
    """
    choose(dict.fromkeys(ORDERS), order, "order")
    choose(dict.fromkeys(ENDS), end, "end")
    place = choose({d.key: d for d in record.devices}, device, "device")
    for what, value in (("memory", memory), ("latency_ms", latency_ms), ("margin", margin)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise EdgelibError(f"{what} must be a number above 0, got {value!r}")
    criteria = _criteria(record, corruption)
    out, fits = _within(place, memory, latency_ms, end)
    names = [option.config for option in fits]
    shown = [c for c in names if _keeps(record.bounds, criteria, c, names, margin)]
    observed = [c for c in names if _keeps(record.effects, criteria, c, names, margin)]
    kept = shown or observed
    for config in names:
        if config not in observed:
            out[config] = _worse(record, criteria, config, names)
    options = {option.config: option for option in fits}
    ranked = sorted(kept, key=lambda c: (_cost(place, options[c], order), c))
    tied = [c for c in ranked if _are_tied(options[ranked[0]], options[c], order)]
    p_within = _stays(record, criteria, names, margin)
    return Decision(
        device=place.key,
        name=place.name,
        end=end,
        margin=margin,
        order=order,
        criteria=criteria,
        fits=tuple(names),
        kept=tuple(ranked),
        tied=tuple(
            _choice(options[c], options[ranked[0]], place, order, p_within=p_within[c], shown=c in shown) for c in tied
        ),
        open={c: _images(record, criteria, c, names, margin) for c in observed if c not in shown},
        out=out,
        shown=bool(shown),
    )


def _criteria(record: DecisionRecord, corruption: str | None) -> tuple[str, str]:
    if corruption is None:
        return CLEAN, CORRUPTED
    choose({c: c for c in record.criteria if c not in (CLEAN, CORRUPTED)}, corruption, "corruption of the record")
    return CLEAN, corruption


def _choice(option: Option, first: Option, place: DeviceOptions, order: str, *, p_within: float, shown: bool) -> Choice:
    """An option as it is recommended; first: the one of least cost."""
    return Choice(
        config=option.config,
        memory=option.total,
        latency_ms=float(option.latency_ms or 0),
        low=float(option.low or 0),
        high=float(option.high or 0),
        source=option.source,
        runtime=option.runtime,
        command=option.command,
        cost=_cost(place, option, order),
        p_within=p_within,
        p_as_good=_at_most(option, first, order),
        shown=shown,
    )


def _within(
    place: DeviceOptions, memory: float | None, latency_ms: float | None, end: str
) -> tuple[dict[str, str], list[Option]]:
    """({config: why it is out}, options within every budget)."""
    board = min([b for b in (memory, place.memory_bytes) if b is not None], default=math.inf)
    out, fits = {}, []
    for option in place.options:
        time = option.high if end == "upper" else option.latency_ms
        if option.reason:
            out[option.config] = option.reason
        elif option.total > board:
            out[option.config] = f"needs {option.total / GIB:.2f} GiB in all of {board / GIB:.2f} GiB"
        elif latency_ms is not None and time is not None and time > latency_ms:
            part = "the upper end of its interval" if end == "upper" else "its time"
            out[option.config] = f"{part}, {time:,.3g} ms, is above {latency_ms:g} ms"
        else:
            fits.append(option)
    return out, fits


def _keeps(table, criteria: Sequence[str], config: str, fits: Sequence[str], margin: float) -> bool:
    """Whether config is above every other that fits by more than -margin, in every criterion."""
    return all(table[c][config][other] > -margin for c in criteria for other in fits if other != config)


def _images(record: DecisionRecord, criteria: Sequence[str], config: str, fits: Sequence[str], margin: float) -> int:
    """How many images would show a configuration to keep the margin: widths of bounds fall with the root of images."""
    shares = [
        (record.effects[c][config][o] - record.bounds[c][config][o]) / (margin + record.effects[c][config][o])
        for c in criteria
        for o in fits
        if o != config
    ]
    return math.ceil(record.n_images * max(shares) ** 2)


def _worse(record: DecisionRecord, criteria: Sequence[str], config: str, fits: Sequence[str]) -> str:
    """Why a configuration that fits is out: against which other, in what, and by how much."""
    effect, low, high, criterion, other = min(
        (
            record.effects[c][config][o],
            record.bounds[c][config][o],
            -record.bounds[c][o][config],
            c,
            o,
        )
        for c in criteria
        for o in fits
        if o != config
    )
    label = {c.key: c.label for c in record.configs}[other]
    span = f"{100 * (1 - 2 * record.alpha):g} % interval {100 * low:+.1f} to {100 * high:+.1f}"
    images = f"{criterion} images" if criterion in (CLEAN, CORRUPTED) else f"images with {criterion}"
    return f"{100 * effect:+.1f} points against {label} on {images} ({span})"


def _stays(record: DecisionRecord, criteria: Sequence[str], fits: Sequence[str], margin: float) -> dict[str, float]:
    """{config: share of draws in which it is within the margin of the best that fits, in every criterion}."""
    if not fits:
        return {}
    inside = np.ones((len(fits), record.n_draws), dtype=bool)
    for criterion in criteria:
        means = np.array([record.draws[criterion][config] for config in fits])
        inside &= means > means.max(axis=0) - margin * _DIGITS
    return dict(zip(fits, inside.mean(axis=1).tolist(), strict=True))


def _cost(place: DeviceOptions, option: Option, order: str) -> float:
    """What an order counts: ms, bytes, or at most so many mJ: the highest power mode for as long as it takes."""
    if order == "bytes":
        return option.total
    time = float(option.latency_ms or 0)
    if order == "speed":
        return time
    if place.power_w is None:
        raise EdgelibError(f"{place.name} has no power_w, so energy is not known there; order by speed or bytes")
    return time * place.power_w


def _are_tied(a: Option, b: Option, order: str) -> bool:
    """Whether two costs cannot be told apart; bytes are exact, so only equal ones."""
    if order == "bytes":
        return a.total == b.total
    return abs(_deviations(a, b)) <= _TIED


def _at_most(a: Option, b: Option, order: str) -> float:
    """The probability that a costs no more than b."""
    if a.config == b.config:
        return 1.0
    if order == "bytes":
        return float(a.total <= b.total)
    return float(stats.norm.cdf(-_deviations(a, b)))


def _deviations(a: Option, b: Option) -> float:
    """log(a / b) of two times in standard deviations of what they do not share; 0 for equal times."""
    ratio = math.log(float(a.latency_ms or 1) / float(b.latency_ms or 1))
    own = math.hypot(a.spread, b.spread)
    return ratio / own if own else math.copysign(math.inf, ratio) if ratio else 0.0
