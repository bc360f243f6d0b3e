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
# # Does quantization widen the robustness gap?
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
# Accuracies on this page are *simulated*: values are rounded to each format and computed with in floating point.
# The page takes about five minutes on two CPU cores; {doc}`embedded_world` introduces the model and the images.
# :::
#
# ## Why it matters
#
# An edge camera sees noise, blur, fog and JPEG blocks that a clean test set does not hold. If a cheaper number format
# costs three points on clean images, does it cost three on foggy ones, or ten? A benchmark on clean images cannot tell,
# and neither can a score that divides corrupted by clean accuracy, because a model that is broken already has little left
# to lose. {cite:t}`hendrycks2019` introduced the corruptions used here.
#
# The *robustness gap* of a configuration $q$ against the reference $f$ is the interaction of quantization and corruption
# on the scale of log odds above chance,
#
# $$
# \mathrm{gap}(q) = \log\frac{\omega_f(\text{corrupted})}{\omega_q(\text{corrupted})}
#                 - \log\frac{\omega_f(\text{clean})}{\omega_q(\text{clean})},
# \qquad \omega = \frac{p - c}{1 - p},
# $$
#
# where $p$ is accuracy and $c$ the accuracy of guessing; over several corruptions and severities the first ratio is the
# Mantel-Haenszel estimate common to all of them, with half a right and half a wrong answer added to each. Zero means that
# quantization divides the odds of knowing the answer by one factor everywhere; above zero, corruption costs the quantized model
# more than it costs the reference. This scale has no floor, but damage that strikes images at random costs high accuracy more
# odds than low accuracy and makes it negative. A second scale therefore compares with a reference that guesses until its clean
# accuracy is the same, and where the two disagree the verdict stays open.

# %% tags=["remove-cell"]

from typing import Optional

from edgelib.chapters.params import begin, validate
from edgelib.chapters.robustness_gap import RobustnessGap

begin(globals())

# %% tags=["parameters"]
model: str = "scenes-clip"  # zero-shot model: embedded name, local folder or hub id
baseline_model: Optional[str] = "scenes-vit"  # a supervised timm classifier of the same classes, or None
prompts: str = "simple"  # set of prompt templates
dataset: str = "scenes"  # "scenes", a local folder or .npz, or a hub id
split: str = "test"
image_column: Optional[str] = None  # columns of images and labels, where the usual names do not fit
label_column: Optional[str] = None
n_images: int = 64  # quick run; params/robustness_gap.yaml sets the published size
n_clean_images: Optional[int] = None  # images seen clean, the corrupted ones among them; None: as many
configs: list[str] = ["fp32", "w8a8-minmax", "w4a8-minmax", "w3a8-minmax"]  # the first is the reference
corruptions: list[str] = ["gaussian_noise", "fog", "jpeg_compression"]
severities: list[int] = [1, 5]
table: Optional[str] = None  # severity constants: "imagenet-c" or "cifar-c"; None chooses by image size
baseline_configs: Optional[list[str]] = None  # configurations of the supervised baseline; None: all
twins: list[str] = ["weight:4", "weight:16", "activation:32", "activation:512"]
twin_configs: Optional[list[str]] = None  # configurations evaluated on the twins; None: all but the reference
twin_severities: Optional[list[int]] = None  # severities evaluated on the twins; None: the middle one
calibration: str = "balanced"  # calibration mix
n_calibration: int = 64
seed: int = 0  # the only source of randomness
batch_size: int = 128
device: str = "cpu"
executor: str = "thread"  # or "process", "serial"
workers: int = 2
local_files_only: bool = False
n_bootstrap: int = 1000
level: float = 0.95  # confidence level of every interval
results: str = "results"

# %% tags=["remove-cell"]
P = validate(globals(), RobustnessGap)

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import pandas as pd

from edgelib.models.twins import PLAIN
from edgelib.report.claims.differences import difference_claims
from edgelib.report.claims.gaps import gap_summary, matched_claim, twin_name
from edgelib.report.claims.openings import gap_opening, scope_claim
from edgelib.report.figures.base import accuracy_by_severity, difference_by_severity, forest, long_axis, panels
from edgelib.report.figures.palette import label, looks, readable
from edgelib.report.figures.robustness import accuracy_heat, corrupted_picture, dose_panels, gap_scales
from edgelib.report.notebook import conclude, facts, foot, say, setup, show
from edgelib.report.tables import escaped, interval, moved_answers, named, spread, verdicts
from edgelib.stats.family import against, compare
from edgelib.stats.gap import by_dose, dosed, dosed_gaps, gap_table, robustness_gaps, rs_table
from edgelib.stats.outcomes import cell_table, corruption_costs, severity_differences, severity_table
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

work = setup("robustness_gap", P.results)
boot = {"n_boot": P.n_bootstrap, "level": P.level, "seed": P.seed}
reference, others = P.configs[0], P.configs[1:]

# %% [markdown]
# ## What severity means
#
# One image of the data set under every corruption. Corruptions act on the pixels at the data set's own size, before the model's
# preprocessing, with the severity constants of {cite:t}`hendrycks2019`. Look whether you could still name the object in the right
# column of {numref}`fig-severity`: where you cannot, no format can be blamed for a wrong answer.

# %% mystnb={"figure": {"caption": "One image under every corruption, by severity. Read along a row: severity 5 is harsh, and harsh in different ways. The table of the next section names the severity constants.", "name": "fig-severity"}, "image": {"classes": "photo", "alt": "Grid of pictures of one scene: a row per corruption, a column per severity, the left column clean."}}
study = P.study()
_, image = next(study.data.batches(1))
corrupted_picture(image, P.corruptions, P.severities, seed=P.seed, table=P.table)
plt.show()

# %% [markdown]
# ## The grid
#
# Every configuration sees the same images, each corrupted once. One row per image, configuration and condition is kept;
# everything below is computed from these rows. A gap subtracts one clean cell from many corrupted ones, so the clean side has most
# of its noise and is the cheap one: the plain models see more images clean than corrupted. The twins of {doc}`embedded_world` compute the same function as the plain
# model and carry planted outliers of a known size.

# %%
how = {"executor": P.executor, "workers": P.workers}
rows = sweep(study, CellStore(work.results), **how)
more = P.clean_study(study)
if more is not None:
    rows = pd.concat([rows, sweep(more, CellStore(work.results), **how)], ignore_index=True)
chance = 1 / len(study.data.class_names)
subject = study.variants[0].model
main = rows[(rows.model == subject) & (rows.twin == PLAIN)]
both = main[main.item.isin(study.data.rows.item)]  # images that are seen corrupted as well
facts(
    "grid",
    images_clean=P.n_clean_images,
    images_corrupted=len(study.data),
    classes=len(study.data.class_names),
    severity_constants=study.severity_table,
    conditions=len(study.conditions),
    model_variants=len(study.variants),
    outcomes=len(rows),
)

# %% [markdown]
# ## Clean images first
#
# What a configuration costs without any corruption. We expect eight bits to cost little and three bits much; everything after this
# table asks what comes on top. Each interval in {numref}`tab-clean` is that of one accuracy, over images: two of them may overlap
# although the difference is known, because both configurations saw the same images.

# %% tags=["hide-input"]
clean = work.save("clean", cell_table(main[main.severity == 0], P.level))
caption = f"Clean zero-shot accuracy of {escaped(subject)} with {100 * P.level:g} % Wilson intervals."
columns = {"Configuration": named(), "Simulated accuracy, % (interval)": interval("accuracy"), "Images": "n"}
show(clean, caption, "tab-clean", columns)

# %% [markdown]
# The differences themselves are paired, image by image. A verdict is open where the sign is not known once all tests are counted, by
# Holm's adjusted p; the last column of {numref}`tab-losses` then says how large a difference one test on this many images finds
# four times in five. *Answers that differ* are those that carry an effect: all others are the same. Intervals are not corrected.

# %% tags=["hide-input", "full-width"]
pairs = against(main[main.severity == 0], reference, others)
losses = compare(pairs, level=P.level, seed=P.seed)
caption = f"Clean simulated accuracy minus that of {label(reference)}, paired by image, {100 * P.level:g} % intervals."
table, columns = verdicts(losses, {"Configuration": named()}, pairs=pairs)
show(table, caption, "tab-losses", columns)

# %% [markdown]
# ## Accuracy under corruption
#
# We expect accuracy to fall with severity in every format. The question is whether low-bit configurations fall *faster* than the
# reference, whose own way down is the first figure; {numref}`fig-behind` shows how far each other one lies behind it.

# %% mystnb={"figure": {"caption": "Simulated accuracy of the reference by severity, mean over the corruptions; severity 0 is clean. Bars: bootstrap intervals over images.", "name": "fig-by-severity"}, "image": {"alt": "Line chart of the reference's accuracy against severity, with intervals and the level of guessing."}}
by_severity = work.save("by_severity", severity_table(both, **boot))
own = by_severity[by_severity.config == reference]
accuracy_by_severity(own, plt.subplots(figsize=(6.4, 2.6))[1], chance)
plt.show()

# %% mystnb={"figure": {"caption": "Simulated accuracy of each configuration minus that of the reference, by severity, paired by image. A line that falls to the right loses more the worse the image. Bars: paired bootstrap intervals.", "name": "fig-behind"}, "image": {"alt": "Small line charts, one per configuration: accuracy minus that of the reference against severity, with intervals and a line at zero."}}
behind = work.save("behind", severity_differences(main, reference, **boot))
axes = {"label": "Severity (0: clean)", "y_label": "Points", "columns": 4, "sharex": True, "styles": looks(P.configs)}
panels(behind.groupby(behind.config.map(label), sort=False), difference_by_severity, (7.2, 4.0), **axes)
plt.show()

# %% [markdown]
# Lines that rise to the right are not yet a sign of robustness: all configurations are on their way to the dotted
# line, where nothing is left to lose. The mean also hides which corruption does the damage. {numref}`fig-heat` splits it.

# %% mystnb={"figure": {"caption": "Simulated accuracy (%) by corruption and configuration, mean over severities. Compare along a row: equal cells mean that the configuration costs nothing there.", "name": "fig-heat"}, "image": {"alt": "Heat map of accuracy: a row per corruption and one for clean images, a column per configuration."}}
cells = work.save("cells", cell_table(main, P.level))
accuracy_heat(cells, chance)
plt.show()

# %% [markdown]
# ### What fog costs, and every other corruption
#
# Points of accuracy that each corruption takes from a configuration's own clean accuracy, by severity. {numref}`tab-costs` answers what
# to be ready for: type the name of a corruption or of a configuration into the field above it. Clean and corrupted accuracy are
# those of the same images here, because an image that is read clean is likelier read in fog. Compare rows of one corruption: if
# their intervals hardly differ, the weather costs what it costs in every format.

# %% tags=["hide-input", "full-width"]
costs = work.save("costs", corruption_costs(both, **boot))
caption = f"Points of simulated accuracy that a corruption costs, by configuration and severity, on the {len(study.data):,} images seen in both states, with {100 * P.level:g} % bootstrap intervals over them."
wide = spread(costs.assign(corruption=costs.corruption.map(readable)), "severity", "cost")
columns = {"Corruption": "corruption", "Configuration": named()}
show(wide, caption, "tab-costs", columns | {f"Severity {s}": interval(f"cost_{s}") for s in P.severities})

# %% [markdown]
# ## The gap
#
# Zero in {numref}`fig-gap` means that quantization and corruption act independently on the log-odds scale. To the right,
# quantization makes corruption cost more. A configuration close to guessing has a wide bar, or one without an end: it has too few
# right answers left to tell.

# %% mystnb={"figure": {"caption": "Robustness gap of each configuration against the reference, in log odds above chance. Right of zero: quantization makes corruption cost more. Bars: paired bootstrap intervals over images.", "name": "fig-gap"}, "image": {"alt": "Forest plot of the robustness gap by configuration with intervals and a line at zero."}}
gaps = work.save("gaps", gap_table(main, reference, chance, **boot))
logit = gaps[gaps.scale == "logit"]
ax = forest(logit, long_axis(len(P.configs)), "Robustness gap (log odds; right: corruption costs more)")
work.save_figure("gap", ax.figure)
plt.show()

# %% [markdown]
# {numref}`tab-gaps` counts the tests together. Only answers that differ from the reference's carry an effect, and the table counts
# them among all: a gap of a configuration that changes a handful of clean answers rests on that handful. The sentences below it count
# the verdicts, and hold each configuration against a reference that guesses until its clean accuracy is the same.

# %% tags=["hide-input", "full-width"]
tests = robustness_gaps(main, others, reference, chance, **boot)
caption = f"Robustness gap against {label(reference)}, {100 * P.level:g} % intervals; a gap that widens costs more under corruption."
ways = {"unit": "log odds", "scale": 1, "digits": 2, "less": "narrows", "more": "widens"}
table, columns = verdicts(tests, {"Configuration": named()}, counts=moved_answers(main, reference), **ways)
show(table, caption, "tab-gaps", columns)
say([gap_summary(tests.named(label)), matched_claim(tests)])

# %% [markdown]
# ## The floor effect, made visible
#
# EdgeVLM-Bench {cite:p}`edgevlmbench` scores robustness as RS, mean corrupted over clean accuracy, and calls the mean drop in accuracy mCE. Both reward a
# model that guesses: its corrupted accuracy cannot fall below chance. {numref}`tab-scores` puts them beside chance-corrected
# retention, $(\bar p_\text{corrupted} - c) / (p_\text{clean} - c)$, and the gap.

# %% tags=["hide-input", "full-width"]
scores = work.save("scores", rs_table(both, chance, **boot))
shares = {"Clean, %": interval("clean"), "Corrupted, %": interval("corrupted"), "RS, %": interval("rs")}
columns = {"Configuration": named()} | shares
columns |= {"Drop, points": interval("accuracy_drop"), "Retention, %": interval("retention")}
columns["Gap, log odds"] = interval("effect", scale=1, digits=2, missing="reference")
caption = f"Simulated scores on the {len(study.data):,} images seen in both states, with bootstrap intervals over them. RS and drop are EdgeVLM-Bench's; retention and gap account for guessing."
show(scores.merge(logit[["config", "effect", "low", "high"]], "left"), caption, "tab-scores", columns)

# %% [markdown]
# Read down the columns of RS and drop, then down the column of the gap: if they order the configurations differently, the order is
# made by the floor. {numref}`fig-scales` asks the same question on six scales.

# %% mystnb={"figure": {"caption": "The same question on six scales: raw accuracy, retention, log odds with and without the floor, and two against a calculated reference of equal clean accuracy. Where signs differ between panels, the verdict depends on the scale. Bars: paired bootstrap intervals.", "name": "fig-scales"}, "image": {"alt": "Six small forest plots, one per scale, each with an effect and interval per configuration."}}
gap_scales(gaps)
plt.show()

# %% [markdown]
# The *matched* panels compare each configuration with a calculated model: the reference with a share of its answers replaced by
# guesses, so that its clean accuracy is the same. At zero, the damage of quantization strikes images at random, whatever
# their difficulty. It is one way of being a weaker model, not the only one.
#
# ## A cause with a dose: outlier twins
#
# Large networks carry outlier channels {cite:p}`xiao2023`, which small ones may lack. The twins compute the same function with outliers of a chosen
# strength in the weights or in the activations. If outliers drive the damage, it grows with the dose, and only in
# the configurations whose format they hit. The sentences below the figure count over all twins.

# %% tags=["hide-input"]
planted = dosed(
    rows[(rows.model == subject) & rows.item.isin(study.data.rows.item)],
    reference,
    P.twin_configs,
    P.twin_severities,
    PLAIN,
)
twin_gaps = work.save("twin_gaps", by_dose(gap_table(planted, reference, chance, **boot)))
twin_scores = work.save("twin_scores", by_dose(rs_table(planted[planted.config != reference], chance, **boot)))
columns = {"Twin": "twin", "Configuration": named()} | shares
caption = f"Simulated scores of the plain model (plain:1) and its twins, kind:strength, on the {len(study.data):,} images seen in both states, with bootstrap intervals over them."
show(twin_scores, caption, "tab-twin-scores", columns)

# %% [markdown]
# {numref}`fig-dose` draws what the outliers take, paired with the reference image by image. A line that stays at zero says that the
# format does not mind these outliers; a line that falls says where it starts to.

# %% mystnb={"figure": {"caption": "Dose and damage: simulated clean accuracy of each configuration minus that of the reference, in points, against the strength of planted outliers. Strength 1 is the plain model. Bars: paired bootstrap intervals over images.", "name": "fig-dose"}, "image": {"alt": "Small line charts, one per configuration: difference in clean accuracy against outlier strength, a line for weights and one for activations."}}
taken = severity_differences(planted, reference, **boot).query("severity == 0").rename(columns={"value": "effect"})
dose_panels(work.save("twin_losses", by_dose(taken)), "Points", 100)
plt.show()

# %% [markdown]
# What corruption adds to that is the gap, in {numref}`fig-dose-gap`. A model that guesses has nothing left to lose, so its gap cannot
# be estimated and its line ends where it starts to guess.

# %% mystnb={"figure": {"caption": "Robustness gap of each configuration against the plain reference, in log odds, by the strength of planted outliers. Above zero: corruption costs more. A gap that cannot be estimated is left out. Bars: paired bootstrap intervals over images.", "name": "fig-dose-gap"}, "image": {"alt": "Small line charts, one per configuration: robustness gap against outlier strength, a line for weights and one for activations."}}
dose_panels(twin_gaps[twin_gaps.scale == "logit"], "Gap (log odds)")
plt.show()

# %% [markdown]
# ### What the twins say
#
# One family of tests over all twins and configurations, so the correction is stricter than above.

# %% tags=["hide-input"]
doses = dosed_gaps(planted, reference, chance, PLAIN, **boot).named(twin_name)
nothing = "The parameter `twins` is empty, so there is no dose to show."
say([gap_summary(doses), matched_claim(doses)] if len(doses) else nothing)

# %% [markdown]
# ## A supervised baseline
#
# Is this about zero-shot models? The same grid on a supervised image classifier of the same classes, each model against its own
# reference. If both show the same signs in {numref}`fig-supervised`, the text tower is not to blame.

# %% mystnb={"figure": {"caption": "Robustness gap of the zero-shot model and of the supervised baseline, each against its own reference. Bars: paired bootstrap intervals over images.", "name": "fig-supervised"}, "image": {"alt": "Forest plot of robustness gaps for the zero-shot model and the supervised baseline."}}
models = {model: part for model, part in rows[rows.twin == PLAIN].groupby("model", sort=False)}
both = pd.concat([gap_table(part, reference, chance, **boot).assign(model=model) for model, part in models.items()])
work.save("supervised", both)
both = both[both.scale == "logit"].assign(name=lambda t: t.model + ": " + t.config.map(label))
forest(both, long_axis(len(both)), "Robustness gap (log odds)")
plt.show()

# %% [markdown]
# ## Sanity
#
# What must hold in every run: the reference does not drift from itself, and every configuration saw every image in every
# condition. The table is the drift of the features, one minus the cosine to the reference, over all conditions.

# %%
assert (main[main.config == reference].drift < 1e-6).all()
seen = rows.groupby(["model", "twin", "config", "severity", "corruption"]).item.agg(["nunique", "size"])
clean_plain = (seen.index.get_level_values("severity") == 0) & (seen.index.get_level_values("twin") == PLAIN)
assert seen[clean_plain].eq(P.n_clean_images).all(axis=None) and seen[~clean_plain].eq(len(study.data)).all(axis=None)
drift = main.groupby("config", sort=False).drift.describe()[["mean", "max"]]
drift.rename(index=label).map("{:.2g}".format)

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input"]
known = tests.named(label)
lowest = scores.set_index("config").clean.idxmin()
points = [gap_summary(known), *([f"on the twins, {gap_summary(doses)}"] if len(doses) else [])]
points += difference_claims(losses, label(reference), "clean accuracy", keys=[lowest]) if lowest in others else []
say(points)
opening = gap_opening(tests, costs, reference, twin_scores)
conclude(opening, scope_claim(P.model, P.dataset))

# %% [markdown]
# **What this does not show.** The verdict is about this model, these images and one calibration draw; others need their own run.
# Simulated accuracy says nothing about speed.
#
# **Rerun it.**
#
# ```console
# papermill notebooks/robustness_gap.ipynb out.ipynb -f params/robustness_gap.yaml
# papermill notebooks/robustness_gap.ipynb out.ipynb -y "{model: ./my-clip, dataset: ./my-images, baseline_model: null}"
# ```

# %% tags=["remove-input"]
foot(P.provenance())
