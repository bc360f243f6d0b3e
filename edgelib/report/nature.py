"""The book's page *Twins against nature*: all of it computed from the tables that `edgelib nature` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from edgelib.errors import EdgelibError
from edgelib.kv.scheme import kv_scheme
from edgelib.quant.scheme import scheme
from edgelib.report.claims.text import interval_text, names_text, spread_text
from edgelib.report.tables import escaped, myst_table
from edgelib.stats.paired import percentile_interval, replicates, rng_for
from edgelib.stats.ranks import RankAgreement, rank_agreement
from edgelib.study.nature.caches import CONTROL
from edgelib.study.nature.grid import line_of
from edgelib.study.nature.states import LARGEST_E4M3, PARTS, SHAPES, distances, shape_table

LEVEL = 0.95
NOTICEABLE = 0.05  # octaves
NATURE = "nature"
WORDS = {"activation": "activations", "weight": "weights", "key": "keys", "value": "values", "residual": "residual"}


@dataclass(frozen=True)
class Found:
    """The tables of a folder that `edgelib nature` wrote; raises EdgelibError where one is missing."""

    folder: Path

    def _table(self, name: str) -> pd.DataFrame:
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            raise EdgelibError(f"{path} is not there: run edgelib nature DECODER --out {self.folder}")
        return pd.read_csv(path)

    @cached_property
    def told(self) -> dict:
        """Who made the numbers, of what, how."""
        return yaml.safe_load((self.folder / "provenance.yaml").read_text(encoding="utf-8"))

    @cached_property
    def states(self) -> dict[str, pd.DataFrame]:
        """State tables by subject: "nature", and every twin."""
        table = self._table("states")
        nature = table[(table.subject == NATURE) & (table.twin == "plain")]
        return {NATURE: nature} | {
            twin: own for twin, own in table[table.subject == "twin"].groupby("twin", sort=False)
        }

    @cached_property
    def control(self) -> pd.DataFrame:
        """State table of the decoder with its keys grown."""
        table = self._table("states")
        return table[(table.subject == NATURE) & (table.twin == CONTROL)]

    @property
    def ranks(self) -> bool:
        """Whether methods were compared."""
        return all((self.folder / f"{name}.csv").is_file() for name in ("kl", "nll", "twins"))

    @cached_property
    def kl(self) -> pd.DataFrame:
        return self._table("kl")

    @cached_property
    def nll(self) -> pd.DataFrame:
        return self._table("nll")

    @cached_property
    def twins(self) -> pd.DataFrame:
        return self._table("twins")

    @cached_property
    def caches(self) -> pd.DataFrame:
        return self._table("caches")

    @cached_property
    def schemes(self) -> list[str]:
        """What both the decoder and the twins were asked."""
        return [name for name in self.kl.columns if name in set(self.twins.columns) - {"item"}]

    @cached_property
    def distances(self) -> pd.DataFrame:
        """Distance of every twin's states from nature's, the nearest first."""
        twins = {name: table for name, table in self.states.items() if name != NATURE}
        return distances(self.states[NATURE], twins).sort_values("all", ignore_index=True)

    @cached_property
    def agreements(self) -> dict[str, RankAgreement]:
        """How far each twin ranks the schemes as nature does."""
        groups = [line_of(name) for name in self.schemes]
        own = self.kl[self.schemes].to_numpy(float)
        return {
            twin: rank_agreement(own, rows[self.schemes].to_numpy(float), groups, level=LEVEL)
            for twin, rows in self.twins.groupby("twin", sort=False)
        }


def mean_interval(values: Sequence[float] | pd.Series | np.ndarray, *key: object) -> tuple[float, float, float]:
    """Mean of one value a passage with the bootstrap interval over passages."""
    each = np.asarray(values, dtype=float)
    means, _ = replicates(each[:, None], np.ones(len(each)), 2000, rng_for(0, "nature", *key))
    return (float(each.mean()), *percentile_interval(means[1:, 0], LEVEL, len(each)))


def page(folder: Path) -> str:
    """Return the whole page, MyST; a test holds the book's to it."""
    found = Found(folder)
    parts = ["# Twins against nature", _opening(found), _scope(found), _states_section(found)]
    parts += [_ranks_section(found), _methods_section(found)] if found.ranks else []
    parts += [_caches_section(found), _rerun(found)]
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
        "**Do this:** choose the number of bits on a twin, and the method among those of equal bits on a decoder of "
        "the size that you ship: `edgelib nature ./my-decoder --out nature` makes these tables for yours.",
        ":::",
    ]
    return "\n".join(lines)


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
    caption = (
        "Shape of the states: medians over layers, the most massive layer. Channel, token: the largest peak over the "
        "median peak. Outlier channels: those beyond six median peaks."
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
    return f"## What nature's outliers look like\n\n{text}\n\n{table}\n\n{distances_table}"


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
        f"{100 * sinks.sink_heads.mean():.0f} % of its heads put more than 30 % of their attention on the first token, "
        f"those of the twins' model {100 * _sinks(found, 'plain'):.0f} %.",
    ]
    told = names_text([f"{WORDS[part]} are nearest to `{twin}`" for part, twin in nearest.items()], most=9)
    return [*said, f"Of the twins, {told}."]


def _nearest(distance: pd.Series) -> str:
    """The nearest twin of a part; "plain" where no planted outliers bring it nearer by a noticeable distance."""
    best = str(distance.idxmin())
    return "plain" if "plain" in distance and distance["plain"] - distance[best] < NOTICEABLE else best


def _sinks(found: Found, twin: str) -> float:
    table = found.states.get(twin, next(iter(found.states.values())))
    return float(table[table.part == "attention"].sink_heads.mean())


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
                "Scheme": _shown(name),
                "Label": scheme(name).label,
                "Perplexity": f"{np.exp(found.nll[name].mean()):.1f}",
                "Times the unrounded": _triple(*_exponential(moved)),
                "KL, nats": spread_text(*kl),
            }
        )
    caption = (
        f"Simulated: what each scheme costs the real decoder on {len(found.kl)} passages; unrounded, its perplexity is "
        f"{np.exp(found.nll['fp32'].mean()):.1f}."
    )
    numbers: dict = {c: str for c in ("Perplexity", "Times the unrounded", "KL, nats")}
    table = myst_table(pd.DataFrame(rows), caption, "tab-nature-methods", numbers)
    said = [sentence for line in ("W4A16", "W3A16") for sentence in method_sentences(found, line)]
    return "## What methods cost a real decoder\n\n" + " ".join(said) + "\n\n" + table


def method_sentences(found: Found, line: str) -> list[str]:
    """Whether each method of a line is better or worse than min-max on held-out text, from paired differences."""
    names = [n for n in found.nll.columns if n not in ("item", "tokens", "fp32") and line_of(n) == line]
    plain = next((n for n in names if "minmax" in n), None)
    if plain is None or len(names) < 2:
        return []
    verdicts: dict[str, list[str]] = {"below": [], "above": [], "not shown to differ from": []}
    for name in names:
        if name != plain:
            effect, low, high = mean_interval(found.nll[name] - found.nll[plain], name, plain)
            verdict = "below" if high < 0 else "above" if low > 0 else "not shown to differ from"
            verdicts[verdict].append(f"{scheme(name).label.removeprefix(line).strip()} ({np.exp(effect):.2f} times)")
    told = [
        f"{names_text(own, most=9)} {'is' if len(own) == 1 else 'are'} {verdict} min-max"
        for verdict, own in verdicts.items()
        if own
    ]
    return [f"At {line}, in perplexity on held-out text, {'; '.join(told)}."]


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
                "Same token, %": f"{100 * own.same_top.mean():.1f}",
            }
        )
    caption = (
        "Simulated: what each key-value cache costs the real decoder, and the same with all channels of its keys grown."
    )
    numbers: dict = {c: str for c in ("Perplexity", "KL, nats", "Same token, %")}
    table = myst_table(pd.DataFrame(rows), caption, "tab-nature-caches", numbers)
    return f"{title}\n\n{' '.join(cache_sentences(found))}\n\n{table}"


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
        said += f"; with a scale per layer it costs {spread_text(*mean_interval(kl['e4m3-amax'], twin, 'amax'))}"
    return [said + "."]


def _rerun(found: Found) -> str:
    told = found.told
    versions = names_text([f"{name} {number}" for name, number in told["versions"].items()], most=9)
    return "\n".join(
        [
            "## Whose numbers, and yours",
            "",
            f"Made by `{told['command']}` with {versions}; the decoder's tensors have the SHA-256 "
            f"`{told['decoder_sha256'][:16]}`…, the seed is {told['seed']}. Where a decoder was published in 4 bits, "
            "its dequantized weights are the reference; a scheme on that grid would look free, and none of these is.",
            "The text ships with the package: novels of Jane Austen and the Jargon File, both in the public domain.",
            "",
            "```console",
            "edgelib nature ./my-decoder --out nature    # a folder of transformers, a hub id or a GGUF file",
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
