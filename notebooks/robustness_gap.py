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
# {glue:text}`answer`
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

from edgelib.chapters.params import RobustnessGap, begin, validate

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
configs: list[str] = ["fp32", "w8a8-minmax", "w4a8-minmax", "w3a8-minmax"]  # the first is the reference
corruptions: list[str] = ["gaussian_noise", "defocus_blur", "fog", "jpeg_compression"]
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
import torch
from IPython.display import Markdown, display
from myst_nb import glue

from edgelib.chapters.plan import grid_of
from edgelib.corruptions import corrupt
from edgelib.models.twins import PLAIN
from edgelib.report.claims.base import Sentence, bullets, difference_claim, gap_claim, gap_summary, matched_claim
from edgelib.report.figures.base import (
    accuracy_by_severity,
    dose_response,
    forest,
    heat_map,
    image_grid,
    look,
    readable,
)
from edgelib.report.notebook import setup
from edgelib.report.tables import escaped, myst_table, with_interval
from edgelib.stats.gap import gap_table, robustness_gap, rs_table
from edgelib.stats.outcomes import cell_table, severity_table
from edgelib.stats.paired import holm, paired_difference
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

work = setup("robustness_gap", P.results)
boot = {"n_boot": P.n_bootstrap, "level": P.level, "seed": P.seed}
reference = P.configs[0]

# %% [markdown]
# ## What severity means
#
# One image of the data set under every corruption. Corruptions act on the pixels at the data set's own size, before the model's
# preprocessing, with the severity constants of {cite:t}`hendrycks2019`.

# %% mystnb={"figure": {"caption": "One image under every corruption, by severity. Read along a row: severity 5 is harsh, and harsh in different ways. The table of the next section names the severity constants.", "name": "fig-severity"}, "image": {"alt": "Grid of pictures of one scene: a row per corruption, a column per severity, the left column clean."}}
grid = grid_of(P)
_, image = next(grid.data.batches(1))
shown = [0, *P.severities]
tiles = [torch.cat([corrupt(image, c, s, seed=P.seed, table=P.table) for s in shown]) for c in P.corruptions]
image_grid(
    torch.stack(tiles).permute(0, 1, 3, 4, 2).numpy(),
    [readable(c) for c in P.corruptions],
    ["clean", *(f"severity {s}" for s in P.severities)],
)
plt.show()

# %% [markdown]
# ## The grid
#
# Every configuration sees the same images, each corrupted once. One row per image, configuration and condition is kept;
# everything below is computed from these rows. The twins of {doc}`embedded_world` compute the same function as the plain
# model and carry planted outliers of a known size.

# %%
rows = sweep(grid, CellStore(work.results), executor=P.executor, workers=P.workers)
chance = 1 / len(grid.data.class_names)
subject = grid.variants[0].model
main = rows[(rows.model == subject) & (rows.twin == PLAIN)]
constants = grid.severity_table
pd.Series(
    {
        "images": len(grid.data),
        "classes": len(grid.data.class_names),
        "severity constants": constants,
        "conditions": len(grid.conditions),
        "model variants": len(grid.variants),
        "outcomes": len(rows),
    }
).to_frame("grid")

# %% [markdown]
# ## Clean images first
#
# What a configuration costs without any corruption. Where a difference to the reference stays open, the sentence under the table
# says how large a one a single test on this many images finds. Intervals are not corrected for the number of tests; the
# verdict is, by Holm's adjusted p.

# %% tags=["hide-input"]
clean = cell_table(main[main.severity == 0], P.level)
work.save_table("clean", clean)
shown = pd.DataFrame(
    {
        "Configuration": [look(c).label for c in clean.config],
        "Simulated accuracy, % (interval)": [
            with_interval(*v) for v in clean[["accuracy", "low", "high"]].itertuples(index=False)
        ],
        "Images": clean.n,
    }
)
caption = f"Clean zero-shot accuracy of {escaped(subject)} with {100 * P.level:g} % Wilson intervals."
display(Markdown(myst_table(shown, caption, "tab-clean", {"Simulated accuracy, % (interval)": str})))


# %% tags=["hide-input"]
def correct(config, frame=None):
    frame = main[main.severity == 0] if frame is None else frame
    return frame[frame.config == config].sort_values("item").correct.to_numpy()


differences = {c: paired_difference(correct(c), correct(reference), level=P.level, seed=P.seed) for c in P.configs[1:]}
adjusted = dict(zip(differences, holm([d.p for d in differences.values()]), strict=True))
claims = {
    c: difference_claim(d, look(c).label, look(reference).label, "clean accuracy", adjusted[c])
    for c, d in differences.items()
}
display(Markdown(bullets(claims.values())))

# %% [markdown]
# ## Accuracy under corruption
#
# We expect every line to fall with severity. The question is whether the lines of the low-bit configurations fall *faster*,
# and on which scale.

# %% mystnb={"figure": {"caption": "Simulated accuracy by severity, mean over the corruptions; severity 0 is clean. Lines that fall in parallel lose equally many points. Bars: bootstrap intervals over images.", "name": "fig-by-severity"}, "image": {"alt": "Line chart of accuracy against severity, one line per configuration, with intervals and the level of guessing."}}
by_severity = severity_table(main, **boot)
work.save_table("by_severity", by_severity)
_, ax = plt.subplots()
accuracy_by_severity(by_severity, ax, chance)
plt.show()

# %% [markdown]
# The mean hides which corruption does the damage. {numref}`fig-heat` splits it.

# %% mystnb={"figure": {"caption": "Simulated accuracy (%) by corruption and configuration, mean over severities. Compare along a row: equal cells mean that the configuration costs nothing there.", "name": "fig-heat"}, "image": {"alt": "Heat map of accuracy: a row per corruption and one for clean images, a column per configuration."}}
cells = cell_table(main, P.level)
work.save_table("cells", cells)
heat = 100 * cells.pivot_table("accuracy", "corruption", "config", sort=False).reindex(["clean", *P.corruptions])
heat = heat[P.configs].rename(index=readable, columns=lambda c: look(c).label)
_, ax = plt.subplots(figsize=(6.4, 0.9 + 0.32 * len(heat)))
heat_map(heat, ax, "Simulated accuracy (%)", low=100 * chance, high=100)
plt.show()

# %% [markdown]
# ## The gap
#
# Zero in {numref}`fig-gap` means that quantization and corruption act independently on the log-odds scale. To the right,
# quantization makes corruption cost more.

# %% mystnb={"figure": {"caption": "Robustness gap of each configuration against the reference, in log odds above chance. Right of zero: quantization makes corruption cost more. Bars: paired bootstrap intervals over images.", "name": "fig-gap"}, "image": {"alt": "Forest plot of the robustness gap by configuration with intervals and a line at zero."}}
gaps = gap_table(main, reference, chance, **boot)
work.save_table("gaps", gaps)
figure, ax = plt.subplots(figsize=(6.4, 0.9 + 0.4 * len(P.configs)))
forest(gaps[gaps.scale == "logit"], ax, "Robustness gap (log odds; right: corruption costs more)")
work.save_figure("gap", figure)
plt.show()

# %% tags=["hide-input"]
tests = {c: robustness_gap(main, c, reference, chance, **boot) for c in P.configs[1:]}
gap_p = holm([gap.p for gap in tests.values()])
said = [gap_claim(gap, look(c).label, p) for (c, gap), p in zip(tests.items(), gap_p, strict=True)]
display(Markdown(bullets([*said, matched_claim(tests)])))

# %% [markdown]
# ## The floor effect, made visible
#
# EdgeVLM-Bench scores robustness as RS, mean corrupted over clean accuracy, and calls the mean drop in accuracy mCE. Both reward a
# model that guesses: its corrupted accuracy cannot fall below chance. {numref}`tab-scores` puts them beside chance-corrected
# retention, $(\bar p_\text{corrupted} - c) / (p_\text{clean} - c)$, and the gap.

# %% tags=["hide-input", "full-width"]
scores = rs_table(main, chance, **boot)
work.save_table("scores", scores)
logit = gaps[gaps.scale == "logit"].set_index("config")
percent = [
    ("Clean, %", "clean"),
    ("Corrupted, %", "corrupted"),
    ("RS, %", "rs"),
    ("Drop, points", "accuracy_drop"),
    ("Retention, %", "retention"),
]
shown = pd.DataFrame({"Configuration": [look(c).label for c in scores.config]})
for title, score in percent:
    shown[title] = [with_interval(*v) for v in scores[[score, f"{score}_low", f"{score}_high"]].itertuples(index=False)]
gap_cells = [
    with_interval(*logit.loc[c, ["effect", "low", "high"]], scale=1, digits=2) if c in logit.index else "reference"
    for c in scores.config
]
shown["Gap, log odds"] = gap_cells
caption = "Simulated scores with bootstrap intervals over images. RS and drop are EdgeVLM-Bench's; retention and gap account for guessing."
display(Markdown(myst_table(shown, caption, "tab-scores", {c: str for c in shown.columns[1:]})))

# %% mystnb={"figure": {"caption": "The same question on six scales: raw accuracy, retention, log odds with and without the floor, and two against a calculated reference of equal clean accuracy. Where signs differ between panels, the verdict depends on the scale. Bars: paired bootstrap intervals.", "name": "fig-scales"}, "image": {"alt": "Six small forest plots, one per scale, each with an effect and interval per configuration."}}
names = {
    "logit": "log odds above chance",
    "logit, no floor": "plain log odds",
    "accuracy": "accuracy",
    "retention": "retention",
    "matched accuracy": "matched accuracy",
    "matched logit": "matched log odds",
}
figure, axes = plt.subplots(2, 3, figsize=(6.8, 1.6 + 0.5 * len(P.configs)), sharey=True)
for ax, (scale, title) in zip(axes.flat, names.items(), strict=True):
    forest(gaps[gaps.scale == scale], ax, "")
    ax.set_title(title, fontsize=9)
figure.supxlabel("Gap (right: quantization makes corruption cost more)", fontsize=9)
plt.show()

# %% [markdown]
# The *matched* panels compare each configuration with a calculated model: the reference with a share of its answers replaced by
# guesses, so that its clean accuracy is the same. At zero, the damage of quantization strikes images at random, whatever
# their difficulty. It is one way of being a weaker model, not the only one.
#
# ## A cause with a dose: outlier twins
#
# Large networks carry outlier channels; small ones do not. The twins compute the same function with outliers of a chosen
# strength in the weights or in the activations. If outliers drive the damage, it grows with the dose, and only in
# the configurations whose format they hit. The sentences below the figure count over all twins.

# %% tags=["hide-input"]
same = main[main.config.isin(P.twin_configs) & main.severity.isin([0, *P.twin_severities])].assign(twin="plain:1")
planted = rows[(rows.model == subject) & (rows.twin != PLAIN)]
anchor = main[(main.config == reference) & main.severity.isin([0, *P.twin_severities])]
dosed = pd.concat([same, planted])
dosed = dosed.assign(config=dosed.twin + "|" + dosed.config)
twin_gaps = gap_table(pd.concat([anchor, dosed]), reference, chance, **boot)
twin_scores = rs_table(dosed, chance, **boot)
for frame in (twin_gaps, twin_scores):
    frame[["twin", "config"]] = frame.config.str.split("|", expand=True)
    frame[["kind", "dose"]] = frame.twin.str.split(":", expand=True)
    frame["dose"] = frame.dose.astype(float)
work.save_table("twin_gaps", twin_gaps)
work.save_table("twin_scores", twin_scores)
shown = twin_scores[["twin", "config"]].assign(config=[look(c).label for c in twin_scores.config])
for title, score in percent[:3]:
    values = twin_scores[[score, f"{score}_low", f"{score}_high"]].itertuples(index=False)
    shown[title] = [with_interval(*v) for v in values]
caption = (
    "Simulated scores of the plain model (plain:1) and its twins, kind:strength, with bootstrap intervals over images."
)
display(Markdown(myst_table(shown, caption, "tab-twin-scores", {c: str for c in shown.columns[2:]})))

# %% mystnb={"figure": {"caption": "Dose and damage: simulated clean accuracy (top) and robustness gap (bottom) against the strength of planted outliers in weights (left) or activations (right). Strength 1 is the plain model; a gap that cannot be estimated, because the model guesses, is left out. Bars: bootstrap intervals over images.", "name": "fig-dose"}, "image": {"alt": "Four line charts: accuracy and gap against outlier strength for weight and activation twins."}}
kinds = [k for k in dict.fromkeys(twin_gaps.kind) if k != "plain"]
if kinds:
    figure, axes = plt.subplots(2, len(kinds), figsize=(6.8, 5.2), sharey="row", squeeze=False)
    accuracy = twin_scores.assign(
        effect=100 * twin_scores.clean, low=100 * twin_scores.clean_low, high=100 * twin_scores.clean_high
    )
    for column, kind in enumerate(kinds):
        for ax, frame, label in (
            (axes[0, column], accuracy, "Clean accuracy (%)"),
            (axes[1, column], twin_gaps[twin_gaps.scale == "logit"], "Gap (log odds)"),
        ):
            dose_response(frame[frame.kind.isin(["plain", kind])], ax, label if column == 0 else "")
        axes[0, column].set(title=f"outliers in {kind}s", ylim=(0, 100))
    axes[0, 0].legend(fontsize=8)
    figure.supxlabel("Outlier strength (times the usual size; 1: plain model)", fontsize=10)
    plt.show()
else:
    display(Markdown("The parameter `twins` is empty, so there is no dose to show."))

# %% [markdown]
# ### What the twins say

# %% tags=["hide-input"]
dosed_tests = {
    f"{look(c).label} on {t}": robustness_gap(pd.concat([anchor, own]), own.config.iloc[0], reference, chance, **boot)
    for (t, c), own in (
        (name.split("|"), frame) for name, frame in dosed[dosed.twin != "plain:1"].groupby("config", sort=False)
    )
}
if dosed_tests:
    display(Markdown(bullets([gap_summary(dosed_tests), matched_claim(dosed_tests)])))

# %% [markdown]
# ## A supervised baseline
#
# Is this about zero-shot models? The same grid on a supervised image classifier of the same classes.

# %% mystnb={"figure": {"caption": "Robustness gap of the zero-shot model and of the supervised baseline, each against its own reference. Bars: paired bootstrap intervals over images.", "name": "fig-supervised"}, "image": {"alt": "Forest plot of robustness gaps for the zero-shot model and the supervised baseline."}}
others = rows[rows.model != subject]
both = gaps.assign(model=subject)
if len(others):
    supervised = gap_table(others, reference, chance, **boot).assign(model=others.model.iloc[0])
    both = pd.concat([both, supervised], ignore_index=True)
work.save_table("supervised", both)
both = both[both.scale == "logit"].assign(
    name=lambda t: [f"{m}: {look(c).label}" for m, c in zip(t.model, t.config, strict=True)]
)
_, ax = plt.subplots(figsize=(6.4, 0.9 + 0.32 * len(both)))
forest(both, ax, "Robustness gap (log odds)")
plt.show()

# %% [markdown]
# ## Sanity
#
# What must hold in every run: the reference does not drift from itself, and every configuration saw every image in every
# condition.

# %%
assert (main[main.config == reference].drift < 1e-6).all()
assert rows.groupby(["model", "twin", "config", "corruption", "severity"]).item.nunique().eq(len(grid.data)).all()
drift = main.groupby("config", sort=False).drift.describe()[["mean", "max"]]
drift.rename(index=lambda c: look(c).label).map("{:.2g}".format)

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input"]
named = {look(c).label: gap for c, gap in tests.items()}
ranked = scores.set_index("config")
lowest = ranked.clean.idxmin()
points = [gap_summary(named), matched_claim(named)]
if dosed_tests:
    points.append(f"on the twins, {gap_summary(dosed_tests)}; {matched_claim(dosed_tests)}")
if lowest in claims:
    points.append(f"lowest clean accuracy: {claims[lowest]}")
display(Markdown(bullets(points)))
answer = f"On {subject} and {len(grid.data):,} images, {gap_summary(named)}; {matched_claim(named)}."
glue("answer", Sentence(answer), display=False)

# %% [markdown]
# **What this does not show.** The embedded model and scenes are small and synthetic: the verdict is about them. Other models,
# data sets and calibration draws need their own run. Simulated accuracy says nothing about speed.
#
# **Rerun it.**
#
# ```console
# papermill notebooks/robustness_gap.ipynb out.ipynb -f params/robustness_gap.yaml
# papermill notebooks/robustness_gap.ipynb out.ipynb -y "{model: ./my-clip, dataset: ./my-images, baseline_model: null}"
# ```
