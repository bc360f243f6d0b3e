"""The section on chapters that ran on a model with a real decoder, from the tables that they saved."""

from __future__ import annotations

import pandas as pd

from edgelib.kv.scheme import kv_scheme
from edgelib.quant.scheme import scheme
from edgelib.report.claims.text import interval_text, names_text
from edgelib.report.nature.tables import LEVEL, Found
from edgelib.report.tables import escaped, myst_table, with_interval


def chapters_section(found: Found) -> str:
    """What the configurations and the caches cost a model with this decoder, MyST."""
    told = found.graft or {}
    scores, differences = found.chapter("vlm_accuracy", "scores"), found.chapter("vlm_accuracy", "differences")
    changed, caches = found.chapter("vlm_accuracy", "changed"), found.chapter("fp8_kv_ablation", "recovery")
    right = scores[(scores.task == "vqa") & (scores.score == "accuracy")].set_index("config")
    first = right.iloc[0]
    intro = (
        f"The chapters `vlm_accuracy` and `fp8_kv_ablation` ran on a graft: the tower {escaped(told['tower'])}, this "
        f"decoder, and a connector refined for {told['steps']:,} steps on {told['scenes']:,} drawn scenes. As it is, "
        f"it earns {100 * first.value:.0f} % of VQA accuracy "
        f"({interval_text((first.low, first.high), LEVEL, scale=100)}) on {first.n:,.0f} "
        f"questions about {first.n_clusters:,.0f} held-out scenes. *Simulated*, with intervals over images."
    )
    apart = (
        "The cards of the front page tell what these chapters say of a small model. Where this page says otherwise of "
        "a number of bits, believe the real decoder."
    )
    said = " ".join([_sight_sentence(scores), _configs_sentence(differences), _caches_sentence(caches)])
    return "\n\n".join(
        [
            "## Two chapters on a model with this decoder",
            intro,
            said,
            apart,
            _configs_table(right, differences, changed),
            _caches_table(caches),
        ]
    )


def _sight_sentence(scores: pd.DataFrame) -> str:
    """Whether it is shown to see: the questions of POPE have as many answers "yes" as "no"."""
    asked = scores[(scores.task == "pope") & (scores.score == "accuracy")]
    if asked.empty:
        return ""
    row = asked.iloc[0]
    earned = f"of POPE's questions, half of them true, it answers {with_interval(row.value, row.low, row.high)} % right"
    if row.low > 0.5:
        return f"It sees: {earned}."
    return (
        f"It is not shown to see: {earned}. What follows is what rounding does to its answers, whatever they rest on."
    )


def _configs_sentence(differences: pd.DataFrame) -> str:
    own = differences[differences.task == "vqa"]
    worse = own[(own.p_holm < 1 - LEVEL) & (own.effect < 0)].sort_values("effect")
    most = 100 * own.mde.max()
    if worse.empty:
        return f"No configuration is shown to lose answers; a loss of {most:.1f} points would have been seen."
    told = [f"{scheme(row.config).label} ({-100 * row.effect:.1f} points)" for row in worse.itertuples()]
    return f"{names_text(told, most=9)} {'is' if len(told) == 1 else 'are'} shown to lose answers."


def _caches_sentence(caches: pd.DataFrame) -> str:
    own = caches[caches.twin == "plain"]
    safe = own[own.non_inferior]
    harmed = own[own.high < 0]
    shown = "no cache is" if safe.empty else f"{len(safe)} of {len(own)} caches are"
    widest = 100 * (own.high - own.low).max()
    said = [
        f"{shown[0].upper()}{shown[1:]} shown to stay within the margin of the unrounded one (the widest interval "
        f"spans {widest:.0f} points)"
    ]
    if len(harmed):
        told = [f"{kv_scheme(row.cache).label} ({-100 * row.effect:.1f} points)" for row in harmed.itertuples()]
        said.append(f"the interval of {names_text(told, most=9)} lies below 0")
    return "; ".join(said) + "."


def _configs_table(right: pd.DataFrame, differences: pd.DataFrame, changed: pd.DataFrame) -> str:
    lost = differences[differences.task == "vqa"].set_index("config")
    moved = changed.set_index("config")
    shown = pd.DataFrame(
        {
            "Configuration": [scheme(name).label for name in right.index],
            "VQA accuracy, %": [with_interval(row.value, row.low, row.high) for row in right.itertuples()],
            "Change, points": [
                with_interval(*lost.loc[name, ["effect", "low", "high"]]) if name in lost.index else ""
                for name in right.index
            ],
            "Answers changed, %": [
                with_interval(*moved.loc[name, ["accuracy", "low", "high"]]) if name in moved.index else ""
                for name in right.index
            ],
        }
    )
    caption = f"What each configuration costs the graft, with {100 * LEVEL:g} % intervals; the first is the reference."
    return myst_table(shown, caption, "tab-nature-graft", {c: str for c in shown.columns[1:]})


def _caches_table(caches: pd.DataFrame) -> str:
    own = caches[caches.twin == "plain"]
    shown = pd.DataFrame(
        {
            "Cache": [kv_scheme(name).label for name in own.cache],
            "Change, points": [with_interval(row.effect, row.low, row.high) for row in own.itertuples()],
            "Within the margin": ["shown" if safe else "not shown" for safe in own.non_inferior],
            "Bytes a token": own.bytes_per_token.map("{:,.0f}".format).to_numpy(),
        }
    )
    caption = (
        f"What each key-value cache costs the graft's answers, with {100 * (2 * LEVEL - 1):g} % intervals over images, "
        "those of a one-sided test."
    )
    numbers: dict = {c: str for c in ("Change, points", "Bytes a token")}
    return myst_table(shown, caption, "tab-nature-graft-caches", numbers)
