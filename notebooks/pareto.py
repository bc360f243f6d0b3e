# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: -all,tags,mystnb
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which configuration do I ship?
#
# {glue:text}`answer`
#
# :::{note}
# Accuracies on this page are *simulated*, bytes are predicted from shapes, latencies are *projected* onto the named device with
# an interval. The page takes about three minutes on two CPU cores; {doc}`efficiency` explains the costs, {doc}`robustness_gap` the
# accuracies.
# :::
#
# ## Why it matters
#
# Every configuration is best at something. A device has a budget of memory and of time, formats that it cannot compute with, and
# a camera that is not always clean. What remains is a choice among configurations none of which beats another everywhere, and
# several of which differ by less than the images can tell. EdgeVLM-Bench draws such frontiers for three tiers from one run. We
# ask how often each configuration would be on the frontier had other images, or another calibration draw, been taken.
#
# Configuration $a$ *dominates* $b$ if it is no worse in clean accuracy, corrupted accuracy, bytes and latency, and better in one. The
# *regret* of $a$ is its largest loss against the best value of a criterion, as a share of the range on the frontier,
#
# $$
# \mathrm{regret}(a) = \max_j \frac{\max_{b \in F} v_j(b) - v_j(a)}{\max_{b \in F} v_j(b) - \min_{b \in F} v_j(b)},
# $$
#
# where $v_j$ are the criteria, higher being better, and $F$ is the frontier. Least regret is where to start when nobody says what a
# point of accuracy is worth in megabytes.

# %% tags=["remove-cell"]

from typing import Optional

from edgelib.chapters.params import begin, validate
from edgelib.chapters.pareto import Pareto

begin(globals())

# %% tags=["parameters"]
model: str = "scenes-clip"  # zero-shot model: embedded name, local folder or hub id
prompts: str = "simple"  # set of prompt templates
dataset: str = "scenes"  # "scenes", a local folder or .npz, or a hub id
split: str = "test"
image_column: Optional[str] = None  # columns of images and labels, where the usual names do not fit
label_column: Optional[str] = None
n_images: int = 64  # quick run; params/pareto.yaml sets the published size
configs: list[str] = ["fp32", "w8a8-minmax", "w8a8-smoothquant", "w4a8-minmax", "w4a8-awq", "w3a8-minmax"]
corruptions: list[str] = ["gaussian_noise", "fog", "jpeg_compression"]
severities: list[int] = [3]
table: Optional[str] = None  # severity constants: "imagenet-c" or "cifar-c"; None chooses by image size
calibration: str = "balanced"
n_calibration: int = 32
seeds: int = 2  # calibration draws of the configurations that need one
cost_of: Optional[str] = (
    "clip-vit-base-patch32"  # architecture whose bytes and latency stand for a deployed model; None: the model itself
)
tiers: dict[str, str] = {"embedded": "jetson-nano", "mobile": "snapdragon-8-gen-3", "edge-server": "orin-nx-16gb"}
budgets: Optional[dict[str, float]] = None  # a tier of your own, such as {"bytes": 2e8, "latency_ms": 5}
devices: Optional[list[str]] = None  # devices of the deployment guide; None: all
device_table: Optional[str] = None  # a YAML file with device rows of your own
mix: list[str] = [
    "w4a8-minmax",
    "w3a8-minmax",
    "w8a8-minmax",
]  # formats that layers choose from; the first is the one to beat
mix_slack: float = 0.0  # share of bytes that the mix may have beyond the first format
n_sensitivity: int = 32  # images that the layers' sensitivity is measured on
seed: int = 0
batch_size: int = 128
device: str = "cpu"
executor: str = "thread"  # or "process", "serial"
workers: int = 2
local_files_only: bool = False
n_bootstrap: int = 1000
level: float = 0.95
results: str = "results"

# %% tags=["remove-cell"]
P = validate(globals(), Pareto)

# %% tags=["hide-input"]

import matplotlib.pyplot as plt
import pandas as pd
from edgelib.report.claims.base import Sentence, bullets
from IPython.display import HTML, Markdown, display
from myst_nb import glue

from edgelib.data.calibration import calibration_set
from edgelib.decide.allocation import allocate, total
from edgelib.decide.choice import choose_for_tier
from edgelib.decide.frontier import uncertain_frontier
from edgelib.decide.pareto import TIERS, pareto_frontier
from edgelib.devices.projection import projector, published_points
from edgelib.devices.shapes import encoder_of
from edgelib.devices.table import devices as device_rows
from edgelib.devices.table import select
from edgelib.devices.validation import own_spread
from edgelib.files.size import stored_bytes
from edgelib.infer.sensitivity import layer_sensitivity
from edgelib.models.architectures import architecture
from edgelib.report.claims.devices import allocation_claim, frontier_claim, spread_text, tier_claim
from edgelib.report.explorer import scatter
from edgelib.report.figures.base import look
from edgelib.report.figures.devices import bits_by_depth, frontier
from edgelib.report.notebook import setup
from edgelib.report.tables import escaped, myst_table, with_interval
from edgelib.stats.paired import paired_difference
from edgelib.study.costs import deployment_costs
from edgelib.study.draws import mixed_outcomes, outcome_tables, with_runs
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

work = setup("pareto", P.results)
MIB = 2**20
labels = {config: look(config).label for config in P.configs}
criteria, costs = ("accuracy", "corrupted"), ("bytes", "latency_ms")

# %% [markdown]
# ## Accuracy, clean and corrupted
#
# The sweep of {doc}`robustness_gap` on these configurations; those that look at calibration images are run once per draw. Per image we
# keep whether the clean answer is right, and the share of corrupted copies that are answered right.

# %%
grid = P.study()
rows = with_runs(sweep(grid, CellStore(work.results), executor=P.executor, workers=P.workers))
outcomes = outcome_tables(rows)
pd.Series(
    {
        "images": len(grid.data),
        "configurations": len(P.configs),
        "conditions": len(grid.conditions),
        "calibration draws": P.seeds,
        "outcomes": len(rows),
    }
).to_frame("sweep")

# %% [markdown]
# ## Bytes and projected latency
#
# Costs are those of a model one would deploy. If `cost_of` names an architecture, bytes and latency are that architecture's while
# the accuracy is that of the evaluated model: read the frontier below as an exercise with real costs, not as its accuracy. With
# `cost_of: null` both belong to the model itself.

# %% tags=["hide-input", "full-width"]
known = device_rows(P.device_table)
if P.cost_of is None:
    shipped = next(iter(grid.models.values())).module
else:
    shipped = architecture(P.cost_of)
project = projector(published_points(known))
places = select(known, dict.fromkeys([*P.tiers.values(), *(P.devices or known)]))
cost = deployment_costs(
    shipped, shipped.vision_model, encoder_of(shipped.config.vision_config), P.configs, places, project
)
work.save_table("costs", cost)
shown = pd.DataFrame({"Configuration": list(labels.values())})
shown["Packed, MiB"] = [f"{stored_bytes(shipped, c) / MIB:.1f}" for c in P.configs]
for key in dict.fromkeys(P.tiers.values()):
    own = cost[cost.device == key].set_index("config").loc[P.configs]
    shown[known[key].name] = ["no" if r.reason else spread_text(r.latency_ms, r.low, r.high) for r in own.itertuples()]
what = P.cost_of or next(iter(grid.models))
caption = f"Packed size of {escaped(what)}, what is not quantized in 16 bits (FP32: 32), and projected latency of one image (ms, {100 * project.level:g} % interval) on the device of each tier; 'no': it does not run, or no rate is published."
display(Markdown(myst_table(shown, caption, "tab-costs", dict.fromkeys(shown.columns[1:], str))))

# %% [markdown]
# ## The frontier, and how sure it is
#
# Images and calibration draws are drawn anew together. Bytes are known; they alone are the cost of this first frontier.

# %% mystnb={"figure": {"caption": "Simulated accuracy against packed size: clean images (left) and the mean over corruptions (right). The step joins what no smaller configuration reaches. Bars: bootstrap intervals over images and calibration draws. Accuracy axes are cut.", "name": "fig-frontier"}, "image": {"alt": "Two scatter plots of accuracy against packed size with a step frontier, every configuration named."}}
bytes_only = pd.DataFrame({"bytes": [stored_bytes(shipped, c) for c in P.configs]}, index=P.configs)
sure = uncertain_frontier(outcomes, bytes_only.astype(float), n_boot=P.n_bootstrap, level=P.level, seed=P.seed)
work.save_table("frontier", sure.table.reset_index(names="config"))
crowded = len(P.configs) > 5
_, axes = plt.subplots(1, 2, figsize=(7.4, 3.6))
for ax, criterion, title in zip(axes, criteria, ("clean", "corrupted"), strict=True):
    frontier(sure.table, ax, "bytes", criterion, scale=MIB, log=True, names=not crowded)
    ax.set(title=title, xlabel="Packed size (MiB)")
axes[0].set_ylabel("Simulated accuracy (%)")
if crowded:
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% tags=["hide-input", "full-width"]
shown = pd.DataFrame({"Configuration": [labels[c] for c in sure.table.index]})
for title, name in (("Clean, %", "accuracy"), ("Corrupted, %", "corrupted")):
    shown[title] = [
        with_interval(*v) for v in sure.table[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False)
    ]
shown["Packed, MiB"] = (sure.table.bytes / MIB).map("{:.1f}".format).to_numpy()
shown["P(on frontier)"] = sure.table.probability.map("{:.2f}".format).to_numpy()
shown["Regret"] = sure.table.regret.map("{:.2f}".format).to_numpy()
shown["P(least regret)"] = sure.table.knee.map("{:.2f}".format).to_numpy()
caption = f"Probability of being on the frontier of clean accuracy, corrupted accuracy and bytes, and of having the least regret; {P.n_bootstrap:,} draws of images and calibration sets."
display(Markdown(myst_table(shown, caption, "tab-frontier", dict.fromkeys(shown.columns[1:], str))))
display(Markdown(bullets([frontier_claim(sure, labels, ["bytes"])])))

# %% [markdown]
# ## Three tiers
#
# The tiers of EdgeVLM-Bench, as published, each on a device of its class. Their latencies were taken on a workstation, their memory is
# that of the whole device, and their names do not always fit. A configuration counts as within a budget of time by its projected
# latency; the interval may pass it.

# %% tags=["hide-input"]
display(
    Markdown(
        bullets(
            f"{name} ({TIERS[name].platform}, {TIERS[name].budgets['bytes'] / 2**30:g} GB, {TIERS[name].budgets['latency_ms']:g} ms): {TIERS[name].note}"
            for name in P.tiers
        )
    )
)

# %% tags=["hide-input"]
tables, choices = {}, {}
spread = {"latency_ms": own_spread(project.errors, "compute")}  # what projections onto one device do not share
wanted = {name: (known[key], name) for name, key in P.tiers.items()}
if P.budgets:
    wanted |= {f"your budgets on {known[key].name}": (known[key], P.budgets) for key in dict.fromkeys(P.tiers.values())}
for name, (place, tier) in wanted.items():
    own = cost[cost.device == place.key].set_index("config").loc[P.configs]
    reasons = {c: r for c, r in own.reason.items() if r}
    runs = own[own.reason == ""][list(costs)].astype(float)
    part = {k: t[[c for c in t.columns if c[0] in runs.index]] for k, t in outcomes.items()}
    if len(runs):
        found = uncertain_frontier(part, runs, cost_spread=spread, n_boot=P.n_bootstrap, level=P.level, seed=P.seed)
        tables[name] = found.table.join(own[["low", "high"]].add_prefix("latency_ms_"))
    full = tables.get(name, runs).reindex(P.configs)
    budgets_of = TIERS[tier].budgets if isinstance(tier, str) else tier
    choices[name] = choose_for_tier(
        full, budgets_of, place.name, maximize=criteria, minimize=costs, illegal=reasons, name=name
    )
display(
    Markdown(bullets(tier_claim(c, tables.get(name, bytes_only), labels, list(costs)) for name, c in choices.items()))
)

# %% mystnb={"figure": {"caption": "Simulated corrupted accuracy against projected latency on the device of each tier. The step is the frontier of what runs there; the shaded part is over the tier's budget of time. Configurations that do not run on a device are missing from its panel. Bars: bootstrap intervals over images and calibration draws. Accuracy axes are cut.", "name": "fig-tiers"}, "image": {"alt": "One scatter plot per tier: corrupted accuracy against projected latency on a logarithmic axis, budget shaded."}}
drawn = [name for name in wanted if name in tables]
_, axes = plt.subplots(1, max(1, len(drawn)), figsize=(7.4, 3.5), sharey=True, squeeze=False)
for ax, name in zip(axes.flat, drawn, strict=False):
    place, tier = wanted[name]
    most = (TIERS[tier].budgets if isinstance(tier, str) else tier).get("latency_ms")
    frontier(tables[name], ax, "latency_ms", "corrupted", budget=most, log=True, names=not crowded)
    ax.set_title(f"{name}\n{place.name}", fontsize=9)
    ax.set_xlabel("Projected latency (ms)", fontsize=9)
axes.flat[0].set_ylabel("Simulated corrupted accuracy (%)")
if crowded and drawn:
    entries = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    axes.flat[-1].legend(entries.values(), entries, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
work.save_table("tiers", pd.concat([t.assign(tier=name) for name, t in tables.items()]).reset_index(names="config"))
plt.show()

# %% [markdown]
# ## Mixed precision at equal bytes
#
# Layers differ in how much they suffer. We quantize each layer alone, without labels, and measure how far the class probabilities move
# on clean and corrupted images; an integer program then gives every layer a format so that the sum is least within the bytes of
# the uniform scheme. The control: the mix is evaluated on images that the choice has not seen.

# %% tags=["hide-input"]
subject = next(iter(grid.models.values()))
reading = {"offline": P.local_files_only, "label_column": P.label_column, "image_column": P.image_column}
seen = calibration_set(P.calibration, P.n_sensitivity, P.seed, P.dataset, exclude=grid.data, **reading)
losses, layer_bytes = layer_sensitivity(
    subject, P.mix, seen, conditions=grid.conditions, prompts=P.prompts, seed=P.seed, table=P.table
)
uniform = P.mix[0]
budget = total(layer_bytes, uniform) * (1 + P.mix_slack)
chosen = allocate(losses, layer_bytes, budget)
work.save_table("allocation", losses.assign(format=chosen.formats).reset_index(names="layer"))
pd.Series(
    {
        "layers": len(losses),
        "bytes of the uniform scheme": f"{total(layer_bytes, uniform):,.0f}",
        "budget": f"{budget:,.0f}",
        "bytes of the mix": f"{chosen.bytes:,.0f}",
        "summed divergence, uniform": f"{total(losses, uniform):.4g}",
        "summed divergence, mix": f"{chosen.loss:.4g}",
        "least possible": f"{chosen.least_loss:.4g}",
    }
).to_frame("allocation")

# %% mystnb={"figure": {"caption": "The format that the integer program gives each Linear layer of the model, in the model's order.", "name": "fig-bits"}, "image": {"alt": "Dots of the chosen format per layer."}}
_, ax = plt.subplots(figsize=(6.8, 2.2))
bits_by_depth(chosen.formats.reset_index(), ax, P.mix)
plt.show()

# %% tags=["hide-input"]
formats = {uniform: dict.fromkeys(losses.index, uniform), "mix": chosen.formats.to_dict()}
compared = outcome_tables(mixed_outcomes(grid, subject, formats))
tests = {
    f"{name} accuracy": paired_difference(t["mix"].iloc[:, 0], t[uniform].iloc[:, 0], level=P.level, seed=P.seed)
    for name, t in zip(("clean", "corrupted"), compared.values(), strict=True)
}
verdict = allocation_claim(chosen, look(uniform).label, total(losses, uniform), tests)
display(Markdown(bullets([verdict])))

# %% [markdown]
# ## Explore
#
# Choose a device; hover over a point for its numbers, click a name below to keep one configuration. The table behind the chart is
# {numref}`tab-guide`'s.

# %% tags=["hide-input"]
merged = cost[cost.reason == ""].merge(sure.table[[*criteria, "probability"]].reset_index(names="config"), on="config")
cloud = pd.DataFrame(
    {
        "Device": [known[k].name for k in merged.device],
        "Configuration": [labels[c] for c in merged.config],
        "Projected latency (ms)": merged.latency_ms.map("{:.3g}".format).astype(float),
        "Packed size (MiB)": (merged.bytes / MIB).round(1),
        "Clean accuracy (%)": (100 * merged.accuracy).round(1),
        "Corrupted accuracy (%)": (100 * merged.corrupted).round(1),
        "P(on frontier)": merged.probability.round(2),
    }
)
display(
    HTML(
        scatter(
            cloud,
            "pareto-explorer",
            "Corrupted accuracy against projected latency, by device and configuration.",
            x="Projected latency (ms)",
            y="Corrupted accuracy (%)",
            colour="Configuration",
            choose="Device",
            tooltip=list(cloud.columns),
        )
    )
)

# %% [markdown]
# ## Deployment guide
#
# For every device: the configuration of least regret among those that run there, without a budget of time.

# %% tags=["hide-input", "full-width"]
guide = []
for place in places:
    own = cost[cost.device == place.key].set_index("config").loc[P.configs]
    runs = own[own.reason == ""]
    full = runs[list(costs)].join(sure.table[list(criteria)]).astype(float)
    room = {"bytes": place.usable_gib * 2**30} if place.usable_gib else {"bytes": float("inf")}
    if not len(full):
        guide.append(
            {"Device": place.name, "Least regret": "nothing can be projected", "Why not the others": own.reason.iloc[0]}
        )
        continue
    pick = choose_for_tier(full, room, place.name, maximize=criteria, minimize=costs)
    if pick.choice is None:
        short = tier_claim(pick, full, labels, list(costs))
        guide.append({"Device": place.name, "Least regret": "nothing fits", "Why not the others": short})
        continue
    row = runs.loc[pick.choice]
    barred = [
        f"{', '.join(labels[c] for c in found.index)}: {reason}"
        for reason, found in own[own.reason != ""].groupby("reason", sort=False)
    ]
    front = pareto_frontier(full, maximize=criteria, minimize=costs).index
    guide.append(
        {
            "Device": place.name,
            "Least regret": labels[pick.choice],
            "Packed, MiB": f"{row.bytes / MIB:.0f}",
            "Projected, ms": spread_text(row.latency_ms, row.low, row.high),
            "Bound by": row.binds,
            "Also on the frontier": ", ".join(labels[c] for c in front if c != pick.choice),
            "Why not the others": "; ".join(barred),
        }
    )
guide = pd.DataFrame(guide).fillna("")
work.save_table("guide", guide)
display(
    Markdown(
        myst_table(
            guide,
            f"Deployment guide for {escaped(what)} with the simulated accuracies of {escaped(subject.name)}.",
            "tab-guide",
        )
    )
)

# %% [markdown]
# ## Sanity
#
# What must hold in every run: the reference is not beaten in size by itself, every configuration saw every image, the mix keeps its
# budget and no choice of formats has a smaller sum than the bound.

# %%
assert rows.groupby(["config", "run", "corruption", "severity"]).item.nunique().eq(len(grid.data)).all()
assert chosen.bytes <= budget and chosen.least_loss <= chosen.loss * (1 + 1e-9) <= total(losses, uniform) * (1 + 1e-9)
assert sure.table.probability.between(0, 1).all() and sure.table.on_frontier.any()
sure.table[["probability", "knee"]].rename(index=labels, columns={"knee": "least regret"}).map("{:.2f}".format)

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input"]
first = next(iter(choices))
points = [
    tier_claim(choices[first], tables.get(first, bytes_only), labels, list(costs)),
    frontier_claim(sure, labels, ["bytes"]),
    verdict,
]
display(Markdown(bullets(points)))
of = f"With the costs of {what} and the simulated accuracies of {subject.name}: " if P.cost_of else ""
glue("answer", Sentence(f"{of}{points[0][0].upper()}{points[0][1:]}."), display=False)

# %% [markdown]
# **What this does not show.** Latencies are projections whose errors {doc}`efficiency` prints. Energy was not measured. The accuracies are
# those of a small embedded model; a decision needs a run of your own.
#
# **Rerun it.**
#
# ```console
# papermill notebooks/pareto.ipynb out.ipynb -f params/pareto.yaml
# papermill notebooks/pareto.ipynb out.ipynb -y "{model: ./my-clip, dataset: ./my-images, cost_of: null, device_table: my-devices.yaml}"
# ```
