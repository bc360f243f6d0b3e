"""Sentences about choices: what to ship within a budget, what is on the frontier, whether a mix of formats pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgelib.decide.allocation import Allocation
from edgelib.decide.decision import Decision
from edgelib.decide.frontier import Frontier
from edgelib.decide.record import Caveat, DecisionRecord
from edgelib.report.claims.differences import difference_claims
from edgelib.report.claims.openings import Opening
from edgelib.report.claims.text import interval_text, names_text, points_text, spread_text
from edgelib.report.figures.palette import label
from edgelib.stats.family import Family

# Columns of budgets in words: how to print a value of it.
_UNITS = {"bytes": (2**20, "MiB"), "latency_ms": (1, "ms"), "energy_mj": (1, "mJ")}


def amount(column: str, value: float) -> str:
    """A value of a cost column with its unit: "225 MiB", "2.56 GiB", "12.5 ms"."""
    scale, unit = _UNITS.get(column, (1, column))
    if column == "bytes" and value >= 2**30:
        return f"{value / 2**30:,.2f} GiB"
    shown = value / scale
    return f"{shown:,.0f} {unit}" if abs(shown) >= 100 else f"{shown:.3g} {unit}"


def costs_claim(model: str, costs: str) -> str:
    """Say whether accuracies and costs are of one model. model: what is scored; costs: what memory and time are of."""
    if model == costs:
        return f"One model: accuracies, memory and time are all those of {model}"
    return (
        f"Not one model: accuracies are those of {model}, memory and time those of {costs}; cost_of: null takes both "
        "from the model that is scored"
    )


def choice_text(found: Decision, labels: Mapping[str, str]) -> str:
    """What a decision recommends, in words: "FP16", or "FP16 or W8A8 (tied in speed)" for what cannot be told apart."""
    names = [labels[choice.config] for choice in found.tied]
    if len(names) < 2:
        return "".join(names) or "nothing"
    return f"{names_text(names, len(names), 'or')} (tied in {found.order})"


def certainty_text(found: Decision) -> str:
    """How sure a recommendation is: the probability that it keeps the margin, and whether a test shows it.

    The best is that of what fits.
    """
    shown = "shown" if found.shown else "observed, not shown"
    return f"within {points_text(found.margin)} of the best with probability {_probability(found)} ({shown})"


def chance_text(found: Decision) -> str:
    """The same for a column whose title names the margin: "0.91, shown" or "at least 0.45, observed"."""
    return f"{_probability(found)}, {'shown' if found.shown else 'observed'}"


def _probability(found: Decision) -> str:
    least = min(choice.p_within for choice in found.tied)
    return f"{'at least ' if len(found.tied) > 1 else ''}{least:.2f}"


def open_text(images: int) -> str:
    """Why what is observed within the margin is not shipped: "not shown to keep the margin; about 900 images would"."""
    digits = len(str(images)) - 2
    return f"not shown to keep the margin; about {round(images, -max(0, digits)):,} images would show it"


def caveat_text(caveat: Caveat) -> str:
    """What another chapter found: "51.0 instead of 89.5 % with planted outliers (activation:128) (chapter ...)"."""
    chapter = f"chapter {caveat.chapter.replace('_', ' ')}"
    where = f"with planted outliers ({caveat.where})" if caveat.kind == "twin" else f"calibrated on {caveat.where}"
    if caveat.value is None or caveat.instead_of is None:
        return f"{100 * caveat.drop:.1f} points lost {where} ({chapter})"
    return f"{100 * caveat.value:.1f} instead of {100 * caveat.instead_of:.1f} % {where} ({chapter})"


def tier_claim(sure: Decision, middle: Decision, labels: Mapping[str, str], tier: str) -> str:
    """Say what to ship within a tier: by the upper end of the interval of a time, else by its middle, else why nothing.

    sure, middle: decisions of the same budgets by the two ends.
    """
    where = f"{tier} ({sure.name})"
    found = sure if sure.tied else middle
    if found.tied:
        first = found.tied[0]
        time = spread_text(first.latency_ms, first.low, first.high)
        largest = max(choice.memory for choice in found.tied)
        text = (
            f"{where}: ship {choice_text(found, labels)}; {certainty_text(found)}, "
            f"{amount('bytes', largest)} of memory in all, {first.source} {time} ms"
        )
        if not sure.tied:
            return f"{text}; the upper end of no time is within the budget, so time it on the device first"
        lost = [f"{labels[c.config]} is {middle.out[c.config]}" for c in sure.tied if c.config in middle.out]
        more = [labels[c.config] for c in middle.tied if c.config not in {choice.config for choice in sure.tied}]
        text += f"; by the middle of the projection {names_text(more, len(more))} would do" if more else ""
        return text + (f", and then {'; '.join(lost)}" if lost else "")
    if found.fits:
        return (
            f"{where}: {len(found.fits)} configurations fit, and none is within {points_text(found.margin)} of the "
            "others on clean and on corrupted images alike; allow more, or take more images"
        )
    reasons = dict.fromkeys(found.out.values())
    shown = list(reasons)[:3]
    rest = f" and {len(reasons) - 3} more reasons" if len(reasons) > 3 else ""
    return f"{where}: nothing fits ({'; '.join(shown)}{rest})"


def tiers_claim(decisions: Mapping[str, tuple[Decision, Decision]], labels: Mapping[str, str]) -> str:
    """Name what to ship in each tier in one sentence, and where only a time taken on the device decides.

    decisions: tier -> (decision by the upper end of the time, decision by its middle).
    """
    said, late = [], []
    for sure, middle in decisions.values():
        said.append(f"{choice_text(sure if sure.tied else middle, labels)} on {sure.name}")
        if middle.tied and not sure.tied:
            late.append(sure.name)
    first = f"; on {names_text(dict.fromkeys(late), len(late))} only once a time taken there is within the budget"
    return f"ship {'; '.join(said)}{first if late else ''}"


def decision_opening(sure: Decision, middle: Decision, record: DecisionRecord, limits: str) -> Opening:
    """Open the chapter on choosing: what to ship on one device, what it scores there, and what to do first.

    limits: the budgets in words, such as "4 GB and 150 ms".
    """
    labels = {config.key: config.label for config in record.configs}
    found = sure if sure.tied else middle
    where = f"on {found.name} with {limits}"
    if not found.tied:
        reason = next(iter(found.out.values()), "nothing runs there")
        number = f"{len(found.fits)} of {len(record.configs)} configurations fit"
        return Opening(
            f"ship none of {len(record.configs)} configurations {where}", number, f"start with this: {reason}"
        )
    first = found.tied[0]
    scores = {config.key: config for config in record.configs}[first.config]
    clean, corrupted = scores.accuracy["clean"], scores.accuracy[found.criteria[1]]
    spans = [interval_text((seen.low, seen.high), record.level, 100) for seen in (clean, corrupted)]
    number = (
        f"{labels[first.config]} answers {100 * clean.value:.1f} % of clean images ({spans[0]}) and "
        f"{100 * corrupted.value:.1f} % of corrupted ones ({spans[1]}), and is {certainty_text(found)}"
    )
    beware = [
        f"beware of {labels[c.key]}: {caveat_text(c.caveats[0])}"
        for c in record.configs
        if c.caveats and c.key in {t.config for t in found.tied}
    ]
    time = spread_text(first.latency_ms, first.low, first.high)
    first_do = (
        f"run it with {first.runtime}, {first.source} {time} ms"
        if sure.tied
        else f"time it on the device before you decide: {first.source} {time} ms, whose upper end is over the budget"
    )
    late = "" if sure.tied else f", once you have timed it there: it may take up to {first.high:,.0f} ms"
    return Opening(f"ship {choice_text(found, labels)} {where}{late}", number, "; ".join([first_do, *beware[:1]]))


def frontier_claim(frontier: Frontier, labels: Mapping[str, str], costs: Sequence[str]) -> str:
    """Say which configurations are on the frontier for sure, and how many may be.

    costs: columns of the frontier; a configuration that alone has the least of one is on it whatever its accuracy, so
    it is named apart.
    """
    table = frontier.table
    cheapest = {c: table.index[table[c] == table[c].min()] for c in costs}
    given = list(dict.fromkeys(configs[0] for configs in cheapest.values() if len(configs) == 1))
    apart = f"{names_text([labels[c] for c in given])}, which nothing undercuts, is on the frontier; " if given else ""
    table = table.drop(index=given)
    sure = [labels[c] for c in table.index[table["probability"] >= 0.95]]
    open_ = int(((table["probability"] > 0.05) & (table["probability"] < 0.95)).sum())
    known = f"{names_text(sure, len(sure))} {'is' if len(sure) == 1 else 'are'}" if sure else "none is shown to be"
    runs = f" and {frontier.n_runs} calibration draws" if frontier.n_runs > 1 else ""
    return (
        f"{apart}of {len(table)} {'others' if given else 'configurations'}, {known} on the frontier in at least "
        f"95 % of resamplings, and {open_} may or may not be (n = {frontier.n_items:,} images{runs})"
    )


def allocation_claim(
    allocation: Allocation, uniform: str, uniform_loss: float, tests: Family, brief: bool = False
) -> str:
    """Say whether a mix of formats beats the uniform scheme of the same bytes, on its own loss and in accuracy.

    tests: by quantity, mixed minus uniform. brief: only the verdict, for where the tests have been told before.
    """
    least = f"summed divergence {100 * allocation.loss / uniform_loss:.0f} % of it" if uniform_loss > 0 else ""
    parts = difference_claims(tests, uniform, "{quantity}", first="the mix")
    known = [tests[key].effect for key in tests.settled()]
    loses, wins = any(effect < 0 for effect in known), any(effect > 0 for effect in known)
    verdict = "is beaten by" if loses else "beats" if wins else "is not shown to beat"
    n = allocation.formats.nunique()
    kind = f"a mix of {n} formats" if n > 1 else f"the best choice, {label(allocation.formats.iloc[0])} everywhere,"
    mix = f"at no more than {amount('bytes', allocation.budget)} of weights, {kind}"
    if brief:
        return f"{mix} {verdict} {uniform} in accuracy"
    return f"{mix} {verdict} {uniform} ({least or 'which moves no probability'}): {'; '.join(parts)}"
