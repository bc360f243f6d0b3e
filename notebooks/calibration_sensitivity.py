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
# # Which calibration images, and does it matter?
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
# Accuracies on this page are *simulated*. The page takes about five minutes on two CPU cores;
# {doc}`robustness_gap` introduces the comparison of configurations that it builds on.
# :::
#
# ## Why it matters
#
# Many quantizers look at a few images before they round: to place a scale, to move outliers, to weigh errors. Papers use 128
# or 512 images of one data set and one draw. An engineer has other images, fewer of them, and draws once. EdgeVLM-Bench {cite:p}`edgevlmbench`
# reports that its AWQ with a fixed strength of one half loses to plain min-max, and supposes that a searched strength recovers.
# This page tests that, and measures how much of the result is the method, the images, their number, or luck.
#
# The accuracy $y$ of a run is modelled with random effects of the mix $m$, the size $s$ and the draw $r$,
#
# $$
# y_{msr} = \mu + a_m + b_s + c_r + e_{msr}, \qquad
# \text{share}(m) = \frac{\sigma_a^2}{\sigma_a^2 + \sigma_b^2 + \sigma_c^2 + \sigma_e^2},
# $$
#
# where $e$ holds interactions and everything else that differs between runs. What differs only because a finite set of images
# is scored is estimated from the paired outcomes and shown as a component of its own.

# %% tags=["remove-cell"]

from typing import Optional

from edgelib.chapters.calibration_sensitivity import CalibrationSensitivity
from edgelib.chapters.params import begin, validate

begin(globals())

# %% tags=["parameters"]
model: str = "scenes-clip"  # zero-shot model: embedded name, local folder or hub id
prompts: str = "simple"  # set of prompt templates
dataset: str = "scenes"  # "scenes", a local folder or .npz, or a hub id
split: str = "test"
image_column: Optional[str] = None  # columns of images and labels, where the usual names do not fit
label_column: Optional[str] = None
n_images: int = 64  # quick run; params/calibration_sensitivity.yaml sets the published size
ladder: list[str] = ["w4a8-minmax", "w4a8-awq-fixed", "w4a8-awq"]  # compared with the first one
configs: list[str] = ["w8a8-minmax-static", "w4a8-awq-fixed"]  # of the crossed experiment
mixes: list[str] = ["balanced", "noise"]  # calibration mixes, the usual one first
sizes: list[int] = [8, 32]  # numbers of calibration images
seeds: int = 2  # calibration draws of the crossed experiment
fraction: int = 1  # run every fraction-th combination of mix, size and seed
ladder_size: int = 32  # calibration images of the ladder; its mix is the first one
ladder_seeds: int = 2  # calibration draws of the ladder
twins: list[str] = ["weight:8"]
deployment: list[str] = ["clean"]  # conditions the models are scored in: "clean" or "fog:3"
table: Optional[str] = None  # severity constants: "imagenet-c" or "cifar-c"; None chooses by image size
margin: float = 0.02  # accuracy one is ready to lose for a cheaper calibration
seed: int = 0  # the only source of randomness beside the calibration draws
batch_size: int = 128
device: str = "cpu"
executor: str = "thread"  # or "process", "serial"
workers: int = 2
local_files_only: bool = False
n_bootstrap: int = 1000
level: float = 0.95  # confidence level of every interval
results: str = "results"

# %% tags=["remove-cell"]
P = validate(globals(), CalibrationSensitivity)

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import pandas as pd
import torch

from edgelib.data.mixes import mix_table
from edgelib.models.twins import PLAIN
from edgelib.observe.distance import DISTANCES
from edgelib.report.claims import runs as say_of
from edgelib.report.claims.differences import difference_claims
from edgelib.report.claims.openings import calibration_opening, scope_claim
from edgelib.report.figures import calibration as draw
from edgelib.report.figures.base import forest, image_grid, panels
from edgelib.report.figures.palette import label, readable
from edgelib.report.notebook import conclude, facts, foot, say, setup, show
from edgelib.report.tables import cross, interval, named, number, verdicts
from edgelib.stats.family import compare
from edgelib.stats.outcomes import accuracy_table
from edgelib.stats.predictor import drop_predictor
from edgelib.stats.ranks import rank_stability, rank_table, run_scores
from edgelib.stats.recommend import recommend
from edgelib.stats.variance import variance_shares
from edgelib.study.calibration_runs import REFERENCE, Draw, distances_of, layer_report
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

# %% tags=["hide-input"]
work = setup("calibration_sensitivity", P.results)
boot = {"n_boot": P.n_bootstrap, "level": P.level, "seed": P.seed}
first, everywhere = P.mixes[0], [PLAIN, *P.twins]

# %% [markdown]
# ## What the mixes hold
#
# Every mix starts from the same drawn images and changes them; none of them is ever scored. Some are what a careful engineer would
# take, some what is at hand at night or in a test, and noise is the control: it has the right shape and no content at all. {numref}`fig-mixes` shows the mixes of
# this run, {numref}`tab-mixes` what each mix that there is leaves to the two towers.

# %% mystnb={"figure": {"caption": "The first images of each calibration mix. Read down a column: one drawn image under every mix that keeps it.", "name": "fig-mixes"}, "image": {"classes": "photo", "alt": "Grid of pictures, a row per calibration mix."}}
study = P.study()
drawn = {mix: next(study.draw(Draw(mix, 6, P.seed)).batches(6))[1] for mix in P.mixes}
image_grid(torch.stack([*drawn.values()]).permute(0, 1, 3, 4, 2).numpy(), [readable(m) for m in drawn], [""] * 6)
plt.show()

# %% tags=["hide-input", "full-width"]
caption = (
    "Every mix that the parameter `mixes` takes. Images and texts: the share of the drawn items that each tower sees."
)
show(mix_table().rename(columns=str.capitalize), caption, "tab-mixes")

# %% [markdown]
# ## The runs
#
# Two experiments share the images. The *ladder* adds one idea at a time at one mix and size. The *crossed experiment* varies mix, size
# and draw together, on the plain model and on twins that carry planted outliers ({doc}`embedded_world`). Runs that share a
# calibration set share its one pass through the model.

# %%
rows = sweep(study, CellStore(work.results), executor=P.executor, workers=P.workers)
distances = distances_of(rows)
rows = rows.rename(columns={"item": "image"})
rows["item"] = rows.corruption + ":" + rows.severity.astype(str) + ":" + rows.image.astype(str)
drawn = rows["mix"] != "none"
facts(
    "experiment",
    scored_images=len(study.data),
    conditions=len(P.deployment),
    outcomes=len(rows),
    calibration_sets=len(rows.loc[drawn, ["mix", "size", "seed"]].drop_duplicates()),
    quantized_models=len(study.runs),
)

# %% [markdown]
# ## The ladder
#
# Each method against the first row, on the same images and averaged over the draws, which are held fixed: how far draws differ is
# the question of the crossed experiment below. On the plain model we expect little, if it carries no outliers. On the
# twins each method should recover what its idea addresses.

# %% tags=["hide-input"]
on_ladder = (rows["mix"] == first) & (rows["size"] == P.ladder_size) & (rows["seed"] < P.ladder_seeds)
steps = rows[rows.config.isin(P.ladder) & (~drawn | on_ladder)]
scores = steps.groupby(["twin", "config", "item", "image"]).correct.mean()
paired = {"cluster": scores[PLAIN, P.ladder[0]].index.get_level_values("image"), "level": P.level, "seed": P.seed}
pairs = {(t, c): (scores[t, c], scores[t, P.ladder[0]]) for t in everywhere for c in P.ladder[1:]}
tests = compare(pairs, ("twin", "config"), **paired)

# %% mystnb={"figure": {"caption": "Simulated accuracy of each method minus that of the first configuration of the ladder, on the plain model and on twins with planted outliers. Right of zero: better. Bars: paired bootstrap intervals over images, outcomes averaged over calibration draws.", "name": "fig-ladder"}, "image": {"alt": "Forest plots, one per twin: difference in accuracy of each method to min-max with intervals."}}
effects = work.save("ladder", tests.table())
height = 1.3 + 0.35 * len(P.ladder)
versus = f"Accuracy minus that of {label(P.ladder[0])} (points)"
panels(effects.groupby("twin", sort=False), forest, (7.2, height), label=versus, scale=100)
plt.show()

# %% [markdown]
# A bar that touches zero leaves the sign open. The panels share one scale, so that the room a twin leaves for improvement shows too.
# {numref}`tab-ladder` has the accuracies themselves: a method may gain many points and still be far from the unquantized model.

# %% tags=["hide-input", "full-width"]
levels = work.save("ladder_accuracy", accuracy_table(steps, ["twin", "config"], cluster="image", **boot))
caption = f"Simulated accuracy (%) with {100 * P.level:g} % bootstrap intervals over images, averaged over {P.ladder_seeds} calibration draws, which are held fixed."
table = cross(levels, "config", "twin", interval("accuracy"), "Configuration")
show(table, caption, "tab-ladder", numeric=everywhere)

# %% [markdown]
# {numref}`tab-ladder-verdicts` counts the differences as one family of tests. A verdict is open where the sign is not known by Holm's
# adjusted p; the last column then says how large a difference one such test finds four times in five.

# %% tags=["hide-input", "full-width"]
table, columns = verdicts(tests, {"Twin": "twin", "Configuration": named()}, less="worse", more="better")
caption = f"Simulated accuracy minus that of {label(P.ladder[0])} on the same twin, {100 * P.level:g} % paired bootstrap intervals over images."
show(table, caption, "tab-ladder-verdicts", columns)

# %% [markdown]
# ### What the search chose
#
# AWQ scales each input channel by a power of its mean size. The power is searched per layer, over a grid that holds 0, which changes
# nothing. {numref}`fig-layers` shows the power chosen and the error that remains, relative to rounding to nearest. We expect powers
# near 0 where nothing stands out, and errors well below 1 where outliers were planted in the weights.

# %% mystnb={"figure": {"caption": "Per layer, by depth and tower, for the searched configuration on every twin: the power that was chosen (top; layers that nothing can absorb have none) and the layer's output error relative to rounding to nearest (bottom; below 1 is better). One draw of the ladder's mix and size.", "name": "fig-layers"}, "image": {"alt": "Dot plots by depth of the chosen power and of the relative error, one column per twin."}}
searched = next((c for c in P.ladder if "awq" in c and "fixed" not in c), P.ladder[-1])
layers = work.save("layers", layer_report(study, everywhere, searched, Draw(first, P.ladder_size, 0)))
draw.layer_panels(layers)
plt.show()

# %% [markdown]
# The error of a layer is not the error of the model: layers whose output matters little may keep a large one.
#
# ### A published finding, again
#
# EdgeVLM-Bench says {cite:p}`edgevlmbench`: fixed strength loses to min-max, a searched one should recover. Both halves, on every twin, Holm-corrected
# over all of them.

# %% tags=["hide-input"]
pairs = [("w4a8-awq-fixed", "w4a8-minmax"), ("w4a8-awq-noclip", "w4a8-awq-fixed"), ("w4a8-awq", "w4a8-awq-noclip")]
pairs = [(a, b) for a, b in pairs if a in P.ladder and b in P.ladder]
both = {(t, a, b): (scores[t, a], scores[t, b]) for a, b in pairs for t in everywhere}
again = compare(both, ("twin", "config", "other"), **paired)
claims = dict(zip(again, difference_claims(again, "{other}", where="on {twin}, "), strict=True))
table, columns = verdicts(again, {"Twin": "twin", "First": named(), "Second": named("other")})
caption = "Simulated accuracy of the first minus that of the second on the same twin, paired by image."
show(table, caption, "tab-again", columns)

# %% [markdown]
# ## How many images, of which kind
#
# The crossed experiment. If calibration did not matter, everything in a panel would lie at one height. The twin shown is the
# one on which the runs of one configuration differ most; the tables behind the figures hold all of them.

# %% tags=["hide-input"]
crossed = rows[rows.config.isin(P.configs)].merge(pd.DataFrame(map(vars, P.design())), on=["mix", "size", "seed"])
runs = crossed.groupby(["twin", "config", "mix", "size", "seed"], sort=False)
runs = runs.agg(accuracy=("correct", "mean"), drift=("drift", "mean")).reset_index()
reference = rows[rows.config == REFERENCE].correct.mean()
runs = work.save("runs", runs.assign(drop=reference - runs.accuracy))
widest, unsteady = runs.groupby(["twin", "config"], sort=False).accuracy.std().idxmax()

# %% tags=["hide-input"]
exact = rows[rows.config == REFERENCE].groupby(["item", "image"]).correct.mean()
places = crossed[crossed.twin == widest].groupby(["config", "mix", "size", "item", "image"]).correct.mean()
means = [(c, m, s) for c in P.configs for s in P.sizes for m in P.mixes]
means = {(c, m, str(s)): (places[c, m, s], exact) for c, m, s in means}
paired = {"cluster": exact.index.get_level_values("image"), "level": P.level, "seed": P.seed}
means = work.save("sizes", compare(means, ["config", "mix", "size"], **paired).table().astype({"size": int}))

# %% mystnb={"figure": {"caption": "Simulated accuracy minus that of the unquantized model on the same images, in points, by calibration mix and number of images, on the twin on which the runs of one configuration differ most. Small dots: one calibration draw each. Marks: their mean with its paired bootstrap interval over images.", "name": "fig-sizes"}, "image": {"alt": "Small charts, one per configuration: differences in accuracy by calibration mix and number of images, with intervals, draws as dots, and a line at zero."}}
draw.size_panels(runs[runs.twin == widest].assign(difference=-runs["drop"]), means)
plt.show()

# %% [markdown]
# Compare three distances: between the dots of one place, which are draws; between the marks of one mix, which are sizes; and between
# mixes. Where the dots of one place lie as far apart as the mixes do, a study with one draw per mix would have reported luck as a
# finding. The next sections put numbers on the three.
#
# ### What a wrong mix costs
#
# The configuration and twin whose runs differ most, mix by mix: the mean over its sizes and draws, and the difference to the
# first mix on the same images. Holm's method corrects over the mixes; that the configuration was picked for differing, it does not.

# %% tags=["hide-input"]
of_mix = crossed[(crossed.twin == widest) & (crossed.config == unsteady)]
of_mix = of_mix.groupby(["mix", "item", "image"]).correct.mean()
others = {mix: (of_mix[mix], of_mix[first]) for mix in P.mixes[1:]}
images = of_mix[first].index.get_level_values("image")
mixes = compare(others, ["mix"], cluster=images, level=P.level, seed=P.seed)
costs = mixes.table().assign(accuracy=lambda t: t["mix"].map(of_mix.groupby("mix").mean()))

# %% tags=["hide-input"]
usual = f"{readable(first)} images, whose mean is {100 * of_mix[first].mean():.1f} %"
caption = f"Simulated accuracy of {label(unsteady)} on {widest} by calibration mix, and the difference to {usual}."
columns = {"Mix": named("mix"), "Accuracy, %": number("accuracy", "{:.1f}", 100), "Difference, points": interval()}
show(work.save("mixes", costs), caption, "tab-mix-costs", columns | {"Holm p": number("p_holm", "{:.3f}")})

# %% [markdown]
# ## Where the variance comes from
#
# Shares near one for the mix say: choose the images well. For the size: take more. For the seed or the rest: the draw decides, and
# a single run of any paper is a sample of one. Accuracy moves by whole images, so on small differences most of its variance
# is the noise of scoring ("images"); the drift of the features from the unquantized model shows the same runs finely. Few sizes and
# few mixes leave most shares wide open: an interval from nothing to everything says that the design cannot tell.

# %% tags=["hide-input"]
options = {"by": ["twin", "config"], "cluster": "image", "level": P.level, "seed": P.seed, "n_draws": P.n_bootstrap}
by_accuracy = work.save("shares_correct", variance_shares(crossed, "correct", **options))
by_drift = work.save("shares_drift", variance_shares(crossed, "drift", **options))
by_drift = by_drift[by_drift.twin == widest]

# %% mystnb={"figure": {"caption": "Shares of the variance between runs, by configuration, on the twin on which the runs of one configuration differ most: of simulated accuracy (left) and of feature drift (right). 'rest' holds interactions, 'images' the noise of scoring on finitely many. Bars: generalized pivotal intervals.", "name": "fig-shares"}, "image": {"alt": "Two panels of dots with intervals: share of variance for mix, size, seed, rest and images per configuration, for accuracy and for drift."}}
share = "Share of the variance between runs (%)"
shown = {"accuracy": by_accuracy[by_accuracy.twin == widest], "feature drift": by_drift}
panels(shown, draw.variance_dots, (7.2, 4.4), label=share, legend=True)
plt.show()

# %% tags=["hide-input", "full-width"]
caption = f"Shares of the variance of feature drift between {by_drift.n_runs.iloc[0]} runs on {widest}, %, with {100 * P.level:g} % intervals."
table = cross(by_drift, "config", "component", interval("share", digits=0), "Configuration")
show(table, caption, "tab-shares", numeric=list(by_drift.component.unique()))
say([f"{label(unsteady)}: {say_of.variance_claim(by_drift[by_drift.config == unsteady], 'feature drift')}"])

# %% [markdown]
# ## Does the ranking survive another draw?
#
# A paper that compares methods on one calibration set hopes that another set would rank them alike. A rank correlation of one says
# that it would, zero that the order is luck. {numref}`tab-ranks` asks how often each configuration comes first when images and
# draws are drawn anew: in a study as large as this one, and in a single run.

# %% tags=["hide-input"]
on_twins = list(crossed.groupby("twin", sort=False))
say(f"on {t}, {say_of.rank_claim(rank_stability(run_scores(part), **boot))}" for t, part in on_twins)

# %% tags=["hide-input"]
ranks = [rank_table(part, cluster="image", **boot).assign(twin=t) for t, part in on_twins]
ranks = work.save("ranks", pd.concat(ranks, ignore_index=True))
columns = {"Twin": "twin", "Configuration": named(), "Mean simulated accuracy, %": interval("mean")}
columns["First in a new study, %"] = number("p_first", "{:.0f}", 100)
columns["First for one draw, %"] = number("p_first_once", "{:.0f}", 100)
caption = (
    "How often each configuration comes first when images and draws are drawn anew: over all runs, and for one run."
)
show(ranks, caption, "tab-ranks", columns)

# %% [markdown]
# ## A warning without labels
#
# Activation statistics need no labels. We compare those of the calibration images with those of deployment images by several
# distances, and ask whether they rank the accuracy drops of runs. Each pair of twin and configuration is predicted from the other
# pairs, which may share its twin or its configuration. Most of what can be ranked lies between the pairs; the correlation within
# one pair says how well a predictor tells good calibration sets from bad ones.

# %% tags=["hide-input"]
known = runs.merge(distances, on=["twin", "mix", "size", "seed"])
known["pair"] = known.twin + ", " + known.config
features = [c for c in (*DISTANCES, "drift") if known[c].nunique() > 1]
chosen = {"distances": [c for c in DISTANCES if c in features], "distances and drift": features}
options = {"n_permutations": P.n_bootstrap - 1, **boot}
prediction = {name: drop_predictor(known, columns, "drop", "pair", **options) for name, columns in chosen.items()}
for name, fitted in prediction.items():
    work.save(f"predictor_{name.split()[-1]}", fitted.features)

# %% mystnb={"figure": {"caption": "Drop in simulated accuracy of each run against the drop predicted from label-free activation distances and feature drift; each pair of a twin (marker) and a configuration (colour) was predicted by the others. On the dotted line, the prediction is right.", "name": "fig-predictor"}, "image": {"alt": "Scatter plot of observed against predicted accuracy drop, a colour per configuration and a marker per twin."}}
draw.predicted_and_observed(prediction["distances and drift"].runs, plt.subplots()[1])
plt.show()

# %% [markdown]
# Points in rising order matter here, not points on the line: a warning has to rank, and may be wrong about the size of a drop.

# %% tags=["hide-input"]
say(f"from {name}: {say_of.prediction_claim(fitted)}" for name, fitted in prediction.items())

# %% [markdown]
# ## Sanity
#
# What must hold in every run: the reference does not drift from itself, every run saw every image, and a calibration set drawn
# twice is the same set. The table counts the runs of each twin and describes their accuracies.

# %%
assert (rows[(rows.config == REFERENCE) & (rows.twin == PLAIN)].drift < 1e-6).all()
scored = rows.groupby(["twin", "config", "mix", "size", "seed"]).item.nunique()
assert scored.eq(len(study.data) * len(P.deployment)).all()
some = Draw(first, P.sizes[0], 0)
assert study.draw(some).fingerprint == study.draw(some).fingerprint
runs.groupby("twin", sort=False).accuracy.describe()[["count", "mean", "std", "min", "max"]].round(3)

# %% [markdown]
# ## What to do
#
# The cheapest setting (fewest images, then the earliest configuration of the list) that is shown to lose at most the chosen margin
# against every other setting, on average over mixes and draws, which count as repeated runs; no mix is tested alone.

# %% tags=["hide-input"]
draws = crossed.groupby(["twin", "config", "mix", "size", "item"]).cumcount()
repeated = crossed.assign(run=crossed["mix"] + draws.astype(str)).groupby("twin", sort=False)
order = {"size": None, "config": P.configs}
choices = {t: recommend(part, order, margin=P.margin, run="run", cluster="image") for t, part in repeated}
work.save("settings", pd.concat([c.table.assign(twin=t) for t, c in choices.items()], ignore_index=True))
advice = {t: say_of.recommendation_claim(choice, say_of.setting_name) for t, choice in choices.items()}
say(f"on {t}, {text}" for t, text in advice.items())

# %% [markdown]
# Where no setting is shown to be good enough, the sentence names the one with the highest mean instead. Score more images then, or
# allow a larger margin: not shown is not the same as worse.
#
# ## Takeaways

# %% tags=["remove-input"]
settled = set(again.settled())
points = [text for (t, *pair), text in claims.items() if tuple(pair) == pairs[0] or (t, *pair) in settled]
best = prediction["distances and drift"]
say([*points, *([say_of.prediction_claim(best)] if say_of.ranks_runs(best) else [])], otherwise="Nothing is settled")
widely = runs[(runs.twin == widest) & (runs.config == unsteady)].accuracy
spread = say_of.spread_claim(widely, f"{label(unsteady)} on {widest}")
largest = say_of.largest_share_claim(by_drift[by_drift.config == unsteady])
say([spread, largest])
setting = choices[PLAIN].choice or choices[PLAIN].best
conclude(calibration_opening(choices[PLAIN], setting, mixes, widest, unsteady, first), scope_claim(P.model, P.dataset))

# %% [markdown]
# **What this does not show.** The twins' outliers are planted. A fractional
# design tells main effects of mix, size and draw from the rest, not single interactions. Mixes are a handful of kinds: the share of
# the mix speaks of kinds like these.
#
# **Rerun it.**
#
# ```console
# papermill notebooks/calibration_sensitivity.ipynb out.ipynb -f params/calibration_sensitivity.yaml
# papermill notebooks/calibration_sensitivity.ipynb out.ipynb -y "{model: ./my-clip, dataset: ./my-images}"
# ```

# %% tags=["remove-input"]
foot(P.provenance())
