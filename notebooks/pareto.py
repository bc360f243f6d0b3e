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
# :::{admonition} Answer
# :class: tip answer
#
# {glue:text}`answer` {glue:text}`number`
#
# **Do this:** {glue:text}`advice`
# :::
#
# {glue:text}`scope`
#
# :::{note}
# Accuracies on this page are *simulated*, bytes are predicted from shapes, times are *projected* onto the named device with an
# interval. The page takes about a minute and a half on two CPU cores; {doc}`efficiency` explains the costs, {doc}`robustness_gap`
# the accuracies.
# :::
#
# ## Why it matters
#
# A device has a budget of memory and of time, runtimes that have kernels for some formats and not for others, and a camera that is
# not always clean. A frontier of everything that is best at something does not choose, and a score that weighs bytes against
# accuracy chooses by its weights: EdgeVLM-Bench {cite:p}`edgevlmbench` draws the first for three tiers from one run. We ask three questions in order.
#
# 1. **Does it fit?** All that must be in memory at once, and the time at the upper end of its interval.
# 2. **Does it keep the margin?** With $\mu_j(a)$ the accuracy of configuration $a$ on clean ($j = 1$) or corrupted ($j = 2$) images and
#    $F$ what fits, $a$ stays if it is shown that
#
# $$
# \mu_j(a) > \max_{b \in F} \mu_j(b) - m \quad \text{for both } j,
# $$
#
# where $m$ is the margin that you can afford. Each pair is tested on the same images; a configuration has to pass against every
# other, so that one which is truly worse by more than $m$ stays in at most one run of twenty, however many there are.
#
# 3. **What do you want of the rest?** Speed, bytes or energy. Those that cannot be told from the first are *tied* with it, and all of
#    them are the answer.

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
corruptions: list[str] = ["gaussian_noise", "fog"]
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
margin: float = 1.0  # points of accuracy that a configuration may lose
order: str = "speed"  # or "bytes", "energy": what decides among those that keep the margin
writer: Optional[str] = "qwen2-vl-2b"  # model that writes whose memory is counted beside; None: none
context: int = 1024  # tokens of text that it keeps in memory
devices: Optional[list[str]] = None  # devices of the deployment guide; None: all
device_table: Optional[str] = None  # a YAML file of a device of your own, or a folder of them
measurements: Optional[str] = None  # a folder of `edgelib measure`: that machine is one more device
mix: list[str] = [
    "w4a8-minmax",
    "w3a8-minmax",
    "w8a8-minmax",
]  # formats that layers choose from; the first is the one to beat
mix_slack: float = 0.0  # share of bytes that the mix may have beyond the first format
n_sensitivity: int = 4  # images that the layers' sensitivity is measured on
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
from IPython.display import HTML

from edgelib.data.calibration import calibration_set
from edgelib.decide.allocation import allocate, total
from edgelib.decide.caveats import read_caveats
from edgelib.decide.frontier import uncertain_frontier
from edgelib.decide.pareto import TIERS
from edgelib.decide.record import write_record
from edgelib.devices.projection import projector, published_points
from edgelib.devices.shapes import decoder, encoder, encoder_of
from edgelib.devices.table import devices as device_rows
from edgelib.devices.table import select
from edgelib.devices.validation import own_spread
from edgelib.files.size import stored_bytes
from edgelib.infer.sensitivity import layer_sensitivity
from edgelib.models.architectures import architecture
from edgelib.quant.scheme import scheme
from edgelib.report import deployment as ship
from edgelib.report.claims import choices as claim

# %% tags=["hide-input"]
from edgelib.report.claims.openings import DRAWN, scope_claim
from edgelib.report.explorer import scatter
from edgelib.report.figures.choices import bits_by_depth, frontier_panels, tier_panels
from edgelib.report.figures.palette import label, labels, looks
from edgelib.report.notebook import conclude, facts, foot, say, setup, show
from edgelib.report.tables import cross, escaped, interval, named, number, projected
from edgelib.stats.family import compare
from edgelib.study import costs as costing
from edgelib.study.draws import criterion_tables, mixed_outcomes, outcome_tables, with_runs
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

work = setup("pareto", P.results)
boot = {"n_boot": P.n_bootstrap, "level": P.level, "seed": P.seed}
names = labels(P.configs)
asked = {"margin": P.margin / 100, "order": P.order}

# %% [markdown]
# ## Accuracy, clean and corrupted
#
# The sweep of {doc}`robustness_gap` on these configurations; those that look at calibration images are run once per draw. Per image we
# keep whether the clean answer is right, and the share of corrupted copies that are answered right. A configuration that needs no
# calibration images is run once: another draw would change nothing.

# %%
study = P.study()
rows = with_runs(sweep(study, CellStore(work.results), executor=P.executor, workers=P.workers))
outcomes = outcome_tables(rows)
counts = {"images": len(study.data), "configurations": len(P.configs), "conditions": len(study.conditions)}
facts("sweep", counts | {"calibration draws": P.seeds, "outcomes": len(rows)})

# %% [markdown]
# ## Does it fit?
#
# Costs are those of a model one would deploy. If `cost_of` names an architecture, memory and time are that architecture's while
# the accuracy is that of the evaluated model: read what follows as an exercise with real costs, not as its accuracy. With
# `cost_of: null` both belong to the model itself. A machine on which it was timed joins the devices by `measurements`.

# %% tags=["hide-input"]
known = device_rows(P.device_table)
subject = next(iter(study.models.values()))
shipped, what = costing.costed(subject, P.cost_of)
project = projector(published_points(known))
places = select(known, dict.fromkeys([*P.tiers.values(), *(P.devices or known)]))
shape = encoder_of(shipped.config.vision_config)
cost = costing.deployment_costs(shipped, shipped.vision_model, shape, P.configs, places, project)
cost = work.save("costs", cost)
packed = pd.Series({config: stored_bytes(shipped, config) for config in P.configs})
memory = costing.deployment_memory(shipped, P.configs, encoder=shape)
options = costing.device_options(cost, memory, places, own_spread(project.errors, "compute"))

# %% [markdown]
# A file that fits is not a model that fits. {numref}`tab-memory` counts both towers, what joins them, embeddings, activations, the
# libraries of the runtime and what the system keeps. We expect half the bits to save less than half the memory, because
# embeddings, runtime and system stay as they are.

# %% tags=["hide-input", "full-width"]
first = next(iter(P.tiers.values()))
own = {d.name: d.options for d in options if d.key == first}
parts = work.save("memory", ship.memory_rows({d.key: d.options for d in options}, names))
shown = ship.memory_rows(own, names).round(1)
caption = f"Memory of {escaped(what)} on {escaped(known[first].name)} by part, MiB; 'none': no runtime has a kernel; {ship.STAR}."
show(shown, caption, "tab-memory")

# %% [markdown]
# A model that writes keeps a cache and its image's tokens as well, and its vision tower is not small. {numref}`tab-writer` asks the
# same of one. A table that counts its decoder alone lets it into boards in which it cannot start.

# %% tags=["hide-input", "full-width"]
writes = None
if P.writer:
    written = architecture(P.writer)
    read = {"encoder": encoder(P.writer), "decoder": decoder(P.writer), "context": P.context}
    needs = costing.deployment_memory(written, P.configs, **read)
    writes = costing.writer_needs(P.writer, needs, places, P.context)
    lines = ship.memory_rows({known[key].name: n for key, n in writes.devices.items() if key == first}, names)
    work.save("writer", ship.memory_rows(writes.devices, names))
    caption = f"Memory of {escaped(P.writer)} with {P.context:,} tokens of text and one image on {escaped(known[first].name)}, MiB; 'none': no runtime has a kernel; {ship.STAR}."
    show(lines.round(0), caption, "tab-writer")

# %% [markdown]
# Times differ between devices, and *it runs* means that a named runtime has a kernel for the format there, not that the chip has
# a unit for it. A wide interval in {numref}`tab-times` is honest: few devices of a class have been measured by anybody. Two
# configurations within each other's intervals are still ranked on one device: the part of the error that they share cancels.

# %% tags=["hide-input", "full-width"]
tiers = cost[cost.device.isin(P.tiers.values())]
shown = cross(tiers, "config", "device", projected(), "Configuration")
shown = shown.rename(columns={key: known[key].name for key in shown.columns[1:]})
shown.insert(1, "Packed, MiB", (packed / ship.MIB).map("{:.1f}".format).to_numpy())
caption = f"Packed size of {escaped(what)}, what is not quantized in 16 bits (FP32: 32), and projected time of one image (ms, {100 * project.level:g} % interval) on the device of each tier; 'no': it does not run, or no rate is published."
show(shown, caption, "tab-times", numeric=shown.columns[1:])

# %% [markdown]
# ## The frontier, and how sure it is
#
# Images and calibration draws are drawn anew together. Bytes are known; they alone are the cost of this first frontier. We expect few
# configurations to be on it for sure: neighbours differ by less than the images can tell, and swap places from one resampling to the
# next. The probability in {numref}`tab-frontier` counts how often.

# %% mystnb={"figure": {"caption": "Simulated accuracy from the smallest configuration to the largest: clean images (left) and the mean over corruptions (right). The line is the best of what is no larger; what moves it is filled. Bars: bootstrap intervals over images and calibration draws. Accuracy axes are cut.", "name": "fig-frontier"}, "image": {"alt": "Two rows of dots with intervals, a row per configuration with its packed size, and the frontier as a line through them."}}
sure = uncertain_frontier(outcomes, packed.to_frame("bytes").astype(float), **boot)
table = work.save("frontier", sure.table.reset_index(names="config"))
frontier_panels(sure.table)
plt.show()

# %% [markdown]
# A point left of the line is beaten by one above it, as far as the means go; a bar that reaches across the line says that it may
# not be. Where the order of the points differs between the two panels, a choice on clean images alone is a choice for good weather.

# %% tags=["hide-input", "full-width"]
columns = {"Configuration": named(), "Clean, %": interval("accuracy"), "Corrupted, %": interval("corrupted")}
columns |= {"Packed, MiB": number("bytes", scale=1 / ship.MIB), "P(on frontier)": number("probability", "{:.2f}")}
caption = f"Probability of being on the frontier of clean accuracy, corrupted accuracy and bytes; {P.n_bootstrap:,} draws of images and calibration sets."
show(table, caption, "tab-frontier", columns)

# %% [markdown]
# ## Three tiers
#
# The tiers of EdgeVLM-Bench, as published, each on a device of its class. Their latencies were taken on a workstation, their memory is
# that of the whole device, and their names do not always fit. Both budgets are hard. A time is only surely within its budget if the
# upper end of its interval is; where no time is, the sentence below says what the middle of the projection would admit, and that a
# time taken on the device has to decide.

# %% tags=["hide-input"]
limits = {name: TIERS[name].budgets for name in P.tiers}
limits = {name: f"{b['bytes'] / ship.GIB:g} GB and {b['latency_ms']:g} ms" for name, b in limits.items()}
say(f"{name} ({TIERS[name].platform}, {limit}): {TIERS[name].note}" for name, limit in limits.items())

# %% [markdown]
# Everything that choosing needs is computed here once: what each configuration takes on each device, how far it may fall behind each other
# one, and what other chapters found of it. The command `edgelib choose`, the page {doc}`../decide`, where you set your own
# limits, and this chapter compare the same numbers.
#
# *Shown* means that the test of each pair excludes a loss of the margin or more; *observed* means that the means say so and the images
# are too few to show it. Beside it stands a probability: how often the configuration stays within the margin of the best when images
# and calibration draws are taken anew. It counts every pair at once, so it is the stricter of the two. Where several are tied, pick by
# what this page cannot know: the runtime that you have, the exporter that works, the format that your team can debug.

# %% tags=["hide-input"]
tables = criterion_tables(rows)
rounded = [config for config in P.configs if scheme(config).method != "cast"]
caveats, unknown = read_caveats(work.root / "book" / "data", rounded)
commands = {c: costing.pack_command(P.model, c, P.calibration, P.n_calibration) for c in P.configs}
scope = {"model": subject.name, "costs": what, "not_available": unknown, "synthetic": P.dataset in DRAWN}
said = {"writer": writes, "latency_level": project.level}
record = ship.decision_record(tables, options, names, commands, caveats, **boot, **said, **scope)
record = costing.measured_too(record, P.measurements, P.configs)
_ = write_record(record, work.folder / "decision.json")
wanted = ship.wanted_tiers(P.tiers, P.budgets, known)
decisions = ship.tier_decisions(record, wanted, **asked)
say(claim.tier_claim(*found, names, name) for name, found in decisions.items())

# %% mystnb={"figure": {"caption": "Projected time of one image on the device of each tier; the part over the tier's budget is shaded. Rings: shipped; a dotted ring ships only if a time taken on the device is within the budget, because the upper end of its interval is not. Bars: intervals of the projection.", "name": "fig-tiers"}, "image": {"alt": "One panel per tier: projected time of each configuration on a logarithmic axis with its interval, the time over the budget shaded."}}
panels = {}
for name, found in decisions.items():
    chosen = [choice.config for choice in (found[0].tied or found[1].tied)]
    panels[name] = ship.options_table(record, found[0].device, chosen)
within = [table.assign(tier=name) for name, table in panels.items()]
work.save("tiers", pd.concat(within).reset_index(names="config"))
tier_panels(panels, wanted)
plt.show()

# %% [markdown]
# Where no part of a panel is shaded, time is not what limits the choice there. A bar that reaches into the shading is a choice that
# the projection cannot make: only a time taken on the device decides it.
#
# ## Mixed precision at equal bytes
#
# Layers differ in how much they suffer. We quantize each layer alone, without labels, and measure how far the class probabilities move
# on clean and corrupted images; an integer program then gives every layer a format so that the sum is least within the bytes of
# the uniform scheme. The control: the mix is evaluated on images that the choice has not seen.

# %% tags=["hide-input"]
reading = {"offline": P.local_files_only, "label_column": P.label_column, "image_column": P.image_column}
probe = calibration_set(P.calibration, P.n_sensitivity, P.seed, P.dataset, exclude=study.data, **reading)
options = {"conditions": study.conditions, "prompts": P.prompts, "seed": P.seed, "table": P.table}
losses, layer_bytes = layer_sensitivity(subject, P.mix, probe, **options)
uniform = P.mix[0]
budget = total(layer_bytes, uniform) * (1 + P.mix_slack)
chosen = allocate(losses, layer_bytes, budget)
_ = work.save("allocation", losses.assign(format=chosen.formats).reset_index(names="layer"))

# %% tags=["hide-input"]
amounts = {
    "bytes of the uniform scheme": total(layer_bytes, uniform),
    "budget": budget,
    "bytes of the mix": chosen.bytes,
}
sums = {"summed divergence, uniform": total(losses, uniform), "summed divergence, mix": chosen.loss}
sums |= {"least possible": chosen.least_loss}
said = {name: f"{value:,.0f}" for name, value in amounts.items()} | {name: f"{v:.4g}" for name, v in sums.items()}
facts("allocation", {"layers": len(losses)} | said)

# %% [markdown]
# The last line is a bound from the same program without whole numbers: no choice of formats within the budget has a smaller sum.
# {numref}`fig-bits` shows where the bits went.

# %% mystnb={"figure": {"caption": "The format that the integer program gives each Linear layer of the model, in the model's order.", "name": "fig-bits"}, "image": {"alt": "Dots of the chosen format per layer."}}
bits_by_depth(chosen.formats.reset_index(), plt.subplots(figsize=(6.8, 2.2))[1], P.mix)
plt.show()

# %% tags=["hide-input"]
formats = {uniform: dict.fromkeys(losses.index, uniform), "mix": chosen.formats.to_dict()}
clean, corrupted = outcome_tables(mixed_outcomes(study, subject, formats)).values()
pairs = {"clean accuracy": clean, "corrupted accuracy": corrupted}
pairs = {quantity: (t["mix"].iloc[:, 0], t[uniform].iloc[:, 0]) for quantity, t in pairs.items()}
tests = compare(pairs, ["quantity"], level=P.level, seed=P.seed)
mixed = (chosen, label(uniform), total(losses, uniform), tests)
say([claim.allocation_claim(*mixed)])

# %% [markdown]
# A smaller sum need not be a higher accuracy: divergences of single layers are added as if layers did not interact. The sentence
# counts what was measured on the whole model.
#
# ## Explore
#
# Choose a device; hover over a point for its numbers, press a name below to keep one configuration. The table behind the chart is
# {numref}`tab-guide`'s.

# %% tags=["hide-input"]
cloud = ship.device_cloud(record)
title = "Corrupted accuracy against projected time, by device and configuration."
axes = {
    "x": "Projected latency (ms)",
    "y": "Corrupted accuracy (%)",
    "colour": "Configuration",
    "choose": "Device",
    "group": "Weights",
}
axes |= {"x_ends": ("latency low", "latency high"), "y_ends": ("corrupted low", "corrupted high")}
told = [column for column in cloud.columns if column not in (*axes["x_ends"], *axes["y_ends"])]
axes["first"] = known[first].name
HTML(scatter(cloud, "pareto-explorer", title, **axes, tooltip=told, looks=looks(P.configs).values()))

# %% [markdown]
# ## Deployment guide
#
# For every device: what to ship within its memory, without a budget of time. *Beware* says what other chapters found of it: a
# configuration that is as good as any here may fail on a model with outliers or with other calibration images. *P(within ...)* is the
# probability of the tiers above, and of several that are tied memory is that of the largest. What the last column calls not shown is a
# question of images, and it says about how many would answer it.

# %% tags=["hide-input", "full-width"]
guide = work.save("guide", ship.deployment_guide(record, [place.key for place in record.devices], **asked))
caption = f"Deployment guide for {escaped(what)} with the simulated accuracies of {escaped(subject.name)}, margin {claim.points_text(P.margin / 100)}, by {P.order}; {ship.STAR}."
show(guide, caption, "tab-guide")
say([f"not available: {line}" for line in unknown])

# %% [markdown]
# ## Sanity
#
# What must hold in every run: every configuration saw every image, the mix keeps its budget, no choice of formats has a smaller sum
# than the bound, and what is shipped fits and is within the margin of all that fits.

# %%
assert rows.groupby(["config", "run", "corruption", "severity"]).item.nunique().eq(len(study.data)).all()
assert chosen.bytes <= budget and chosen.least_loss <= chosen.loss * (1 + 1e-9) <= total(losses, uniform) * (1 + 1e-9)
for found in (ends for both in decisions.values() for ends in both):
    assert {choice.config for choice in found.tied} <= set(found.kept) <= set(found.fits)
    pairs = [(c, k, o) for c in found.criteria for k in found.kept for o in found.fits if k != o]
    assert all(record.effects[c][k][o] > -found.margin for c, k, o in pairs)
facts("checked", decisions=2 * len(decisions), devices=len(record.devices), layers=len(losses))

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input"]
tiers = {name: decisions[name] for name in P.tiers}
points = [claim.tiers_claim(tiers, names), claim.frontier_claim(sure, names, ["bytes"])]
say([*points, claim.allocation_claim(*mixed, brief=True)])
tier = next(iter(P.tiers))
opening = claim.decision_opening(*decisions[tier], record, limits[tier])
conclude(opening, f"{scope_claim(P.model, P.dataset)}. {claim.costs_claim(subject.name, what)}")

# %% [markdown]
# **What this does not show.** Times are projections whose errors {doc}`efficiency` prints; energy is the highest power mode for as long
# as a step takes, and was not measured. A decision needs a run on your own model, and a time taken on your own device.
#
# **Rerun it.**
#
# ```console
# papermill notebooks/pareto.ipynb out.ipynb -f params/pareto.yaml
# papermill notebooks/pareto.ipynb out.ipynb -y "{model: ./my-clip, dataset: ./my-images, cost_of: null, device_table: my-devices.yaml}"
# edgelib choose --memory 4GB --latency 150ms --device jetson-nano
# ```

# %% tags=["remove-input"]
foot(P.provenance())
