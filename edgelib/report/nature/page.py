"""The book's page *Twins against nature*: all of it computed from the tables that `edgelib nature` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from edgelib.kv.scheme import kv_scheme
from edgelib.quant.scheme import scheme
from edgelib.report.claims.text import interval_text, names_text, spread_text
from edgelib.report.nature.chapters import chapters_section
from edgelib.report.nature.sentences import (
    WORDS,
    beside_plain,
    cache_sentences,
    largest_sentence,
    methods_sentence,
    nature_sentences,
    range_sentence,
    ranking_advice,
    ranking_sentence,
)
from edgelib.report.nature.tables import LEVEL, NATURE, Found, mean_interval
from edgelib.report.tables import escaped, myst_table, with_interval
from edgelib.study.nature.states import PARTS, SHAPES, shape_table


def page(folder: Path) -> str:
    """Return the whole page, MyST; a test holds the book's to it."""
    found = Found(folder)
    parts = ["# Twins against nature", _opening(found), _scope(found)]
    parts += [_ranks_section(found), _methods_section(found)] if found.ranks else []
    parts += [_caches_section(found), *([chapters_section(found)] if found.graft else [])]
    parts += [_states_section(found), _rerun(found)]
    return "\n\n".join(parts) + "\n"


def _opening(found: Found) -> str:
    nearest = found.distances.iloc[0]
    if not found.ranks:
        unlike = ", and the next" if len(found.distances) > 1 else ""
        unlike += f", `{found.distances.iloc[1]['twin']}`, {found.distances.iloc[1]['all']:.2f}" if unlike else ""
        said = (
            f"{range_sentence(found)} Of {len(found.distances)} twins, `{nearest['twin']}` has the states nearest to "
            f"a real decoder's: {nearest['all']:.2f} octaves away{unlike}."
        )
        advice = (
            "read the twins for causes and not for sizes: a real decoder carries several kinds of outliers at once. "
            "`edgelib nature ./my-decoder --out nature` makes these tables for yours, and ranks the methods on it."
        )
        return "\n".join(
            [":::{admonition} Answer", ":class: tip answer", "", said, "", f"**Do this:** {advice}", ":::"]
        )
    nearest = nearest["twin"]
    agreement = found.agreements.get(nearest) or next(iter(found.agreements.values()))
    lines = [
        ":::{admonition} Answer",
        ":class: tip answer",
        "",
        f"{ranking_sentence(agreement)} The twin whose states are nearest to the real decoder's, `{nearest}`, ranks "
        f"{len(found.schemes)} schemes with a Spearman correlation of {agreement.rho:.2f} "
        f"({interval_text(agreement.rho_interval, LEVEL, digits=2)}).",
        "",
        f"**Do this:** {ranking_advice(agreement)}: `edgelib nature ./my-decoder --out nature` makes these tables for "
        "yours.",
        ":::",
    ]
    return "\n".join(lines)


def _scope(found: Found) -> str:
    told = found.told
    said = (
        f"Real weights: the decoder is {escaped(told['decoder'])}; its states are those of {told['state_passages']} "
        f"passages of {told['length']} tokens. The twins are those of {escaped(told['model'])}, a small model trained "
        f"on drawn scenes, asked about {told['images']} of them."
    )
    if found.ranks:
        said += (
            f" Methods are *simulated* on {told['passages']} passages, calibrated on {told['calibration']} of other "
            "books; a cost is the divergence of the next token's distribution from the unrounded model's, in nats. "
            "Intervals are bootstrap intervals over passages and scenes: no order within an interval is a finding."
        )
    return said


def _states_section(found: Found) -> str:
    shapes = shape_table(found.states)
    shapes = shapes[shapes.part.isin(PARTS)]
    shown = pd.DataFrame(
        {
            "States of": [_shown(name) for name in shapes.subject],
            "What": [WORDS[part] for part in shapes.part],
            "Peak / median": shapes.peak_ratio.map("{:,.0f}".format).to_numpy(),
            "Kurtosis": shapes["kurtosis"].map("{:,.1f}".format).to_numpy(),
            "Channel": shapes.channel_ratio.map("{:.1f}".format).to_numpy(),
            "Token": shapes.token_ratio.map("{:.1f}".format).to_numpy(),
            "Outlier channels, %": shapes.outlier_channels.mul(100).map("{:.1f}".format).to_numpy(),
            "Massive per 1,000 tokens": shapes.massive.fillna(0).mul(1000).map("{:,.0f}".format).to_numpy(),
        }
    )
    first = shown[shown["States of"] == "plain"].set_index("What")
    same = [
        of not in (_shown(NATURE), "plain") and what in first.index and list(own) == list(first.loc[what].iloc[1:])
        for of, what, *own in shown.itertuples(index=False)
    ]
    shown = shown[[not known for known in same]]
    caption = (
        "Shape of the states: medians over layers, the most massive layer. Channel, token: the largest peak over the "
        "median peak. Outlier channels: those beyond six median peaks. A row of a twin that is plain's is left out."
    )
    table = myst_table(shown, caption, "tab-nature-states", {c: str for c in shown.columns[2:]})
    near = found.distances
    columns = {"Twin": near.twin.map(_shown)} | {WORDS[p].capitalize(): near[p].map("{:.2f}".format) for p in PARTS}
    gaps = pd.DataFrame(columns | {"All": near["all"].map("{:.2f}".format)})
    caption = (
        "How far each twin's states are from the real decoder's: octaves between the layers' "
        f"{names_text([_plain(s) for s in SHAPES], most=9)} (Wasserstein distance), the nearest first."
    )
    text = " ".join(nature_sentences(found))
    distances_table = myst_table(gaps, caption, "tab-nature-distances", {c: str for c in gaps.columns[1:]})
    return f"## What nature's outliers look like\n\n{text}\n\n{distances_table}\n\n{table}"


def _ranks_section(found: Found) -> str:
    rows = []
    for twin, own in sorted(found.agreements.items(), key=lambda item: -item[1].rho):
        rows.append(
            {
                "Twin": _shown(twin),
                "Spearman": _triple(own.rho, own.rho_interval),
                "Kendall": _triple(own.tau, own.tau_interval),
                "Same bits, same order": _triple(own.within, own.within_interval),
            }
        )
    pairs = next(iter(found.agreements.values())).n_pairs
    caption = (
        f"How far each twin ranks {len(found.schemes)} schemes as the real decoder does, with "
        f"{100 * LEVEL:g} % intervals over passages, scenes and lines of schemes. Last column: share of the {pairs} "
        "pairs of methods that leave the same bits which both order alike; a coin gets 0.5."
    )
    table = myst_table(
        pd.DataFrame(rows),
        caption,
        "tab-nature-ranks",
        {c: str for c in ("Spearman", "Kendall", "Same bits, same order")},
    )
    best = max(found.agreements, key=lambda twin: found.agreements[twin].rho)
    text = (
        f"The twin that ranks most as the real decoder does is `{best}`; it was found by looking, so its interval is "
        "too kind, which that of the nearest by states is not."
    )
    return f"## Do the twins rank methods as nature does?\n\n{text}\n\n{table}"


def _methods_section(found: Found) -> str:
    rows = []
    for name in [c for c in found.kl.columns if c not in ("item", "tokens")]:
        kl = mean_interval(found.kl[name], name)
        moved = mean_interval(found.nll[name] - found.nll["fp32"], name, "nll")
        rows.append(
            {
                "Scheme": scheme(name).label,
                "Perplexity": f"{np.exp(found.nll[name].mean()):.1f}",
                "Times the unrounded": _triple(*_exponential(moved)),
                "Times min-max": _triple(*_exponential(against.spread))
                if (against := beside_plain(found, name))
                else "",
                "Verdict": against.verdict if against else "",
                "KL, nats": spread_text(*kl),
            }
        )
    caption = (
        f"Simulated: what each scheme costs the real decoder on {len(found.kl)} passages, in perplexity on held-out "
        f"text; unrounded it is {np.exp(found.nll['fp32'].mean()):.1f}. Times min-max: against min-max of the same "
        f"bits, paired by passage, with {100 * LEVEL:g} % intervals, not corrected for their number."
    )
    numbers: dict = {c: str for c in ("Perplexity", "Times the unrounded", "Times min-max", "KL, nats")}
    table = myst_table(pd.DataFrame(rows), caption, "tab-nature-methods", numbers)
    return f"## What methods cost a real decoder\n\n{methods_sentence(found)}\n\n{table}"


def _caches_section(found: Found) -> str:
    title = "## Is range what FP8 caches lack?"
    if not (found.folder / "caches.csv").is_file():
        return f"{title}\n\n{range_sentence(found)} {largest_sentence(found)}"
    rows = []
    for (twin, cache), own in found.caches.groupby(["twin", "cache"], sort=False):
        rows.append(
            {
                "Keys": "as they are" if twin == "plain" else _shown(twin),
                "Cache": kv_scheme(cache).label,
                "Perplexity": f"{np.exp(own.nll.mean()):.1f}",
                "KL, nats": spread_text(*mean_interval(own.kl, twin, cache)),
                "Same token, %": with_interval(*mean_interval(own.same_top, twin, cache)),
            }
        )
    caption = (
        "Simulated: what each key-value cache costs the real decoder, and the same with all channels of its keys grown."
    )
    numbers: dict = {c: str for c in ("Perplexity", "KL, nats", "Same token, %")}
    table = myst_table(pd.DataFrame(rows), caption, "tab-nature-caches", numbers)
    return f"{title}\n\n{' '.join(cache_sentences(found))}\n\n{table}"


def _rerun(found: Found) -> str:
    told = found.told
    versions = names_text([f"{name} {number}" for name, number in told["versions"].items()], most=9)
    return "\n".join(
        [
            "## Whose numbers, and yours",
            "",
            f"Made by `{told['command']}` with {versions}; the decoder's tensors have the SHA-256 "
            f"`{told['decoder_sha256'][:16]}`…, the seed is {told['seed']}. Where a decoder was published in 4 bits, "
            "its dequantized weights are the reference, and a scheme on that very grid looks free.",
            "The text ships with the package: novels of Jane Austen and the Jargon File, both in the public domain.",
            "",
            "```console",
            "edgelib nature ./my-decoder --out nature    # a folder of transformers, a hub id or a GGUF file",
            *(
                [
                    "edgelib graft my-vlm --decoder ./my-decoder --minutes 60",
                    "papermill notebooks/vlm_accuracy.ipynb out.ipynb -p model my-vlm -p results my-results",
                    "papermill notebooks/fp8_kv_ablation.ipynb out.ipynb -p model my-vlm -p results my-results",
                    "edgelib nature ./my-decoder --out nature --graft my-vlm --chapters my-results",
                ]
                if found.graft
                else []
            ),
            "```",
            "",
            "The run goes on where it was stopped. Its tables are the rows behind every number here.",
        ]
    )


def _shown(name: str) -> str:
    return "the real decoder" if name == NATURE else name


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _triple(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def _exponential(moved: tuple[float, float, float]) -> tuple[float, tuple[float, float]]:
    return float(np.exp(moved[0])), (float(np.exp(moved[1])), float(np.exp(moved[2])))
