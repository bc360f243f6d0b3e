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
# # Can these numbers be trusted?
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
# This page trains nothing and evaluates no model: it reads the tables that the other chapters published, compares this library with
# what other tools computed, and simulates experiments whose truth is known. It takes about two minutes on two CPU cores.
# :::
#
# ## Why it matters
#
# Two public benchmarks asked the questions of this book before: EdgeVLM-Bench {cite:p}`edgevlmbench` for classifiers on edge devices, and
# Swift-VLM-Flow {cite:p}`swiftvlmflow` for a model that writes, in one runtime on one card. Both print numbers from a single run, without
# intervals, and draw conclusions that others repeat. A tool that contradicts them has to show first that its own numbers are right.
# There are five ways to be wrong, and each has a section here.
#
# 1. A corruption, a metric or a number format is *not what its name says*. Other tools computed the same thing; we compare number by number.
# 2. A simulated format is *not what a kernel computes*. Files are written, read back and run.
# 3. A projection is *not what a device does*. Published measurements are projected by a fit that has not seen their device.
# 4. A test *claims what is not there*, or an interval misses what is. Only a simulation knows the truth, so we simulate.
# 5. A conclusion *does not follow*. Every published claim is asked again, row by row, and the answer may be that we cannot tell.

# %% tags=["remove-cell"]
from typing import Optional

from edgelib.chapters.params import begin, validate
from edgelib.chapters.validation import Validation

begin(globals())

# %% tags=["parameters"]
tables: Optional[str] = None  # folder of the chapters' published tables; None: book/data
vectors: Optional[str] = None  # folder of other tools' vectors; None: tests/reference of a checkout
n_simulations: int = 200  # quick run; params/validation.yaml sets the published size
n_families: int = 20  # simulated families of comparisons
n_gaps: int = 30  # simulated robustness gaps of each kind
n_images: int = 240  # images of a simulated comparison
questions: int = 4  # questions about an image, where there are several
family: int = 8  # comparisons of a family
margin: float = 3.0  # points of the planted differences and of the margin
projection_level: float = 0.9  # level of the intervals of projections
seed: int = 0  # the only source of randomness
batch_size: int = 128
device: str = "cpu"
local_files_only: bool = False
level: float = 0.95  # confidence level of every interval
results: str = "results"

# %% tags=["remove-cell"]
P = validate(globals(), Validation)

# %% tags=["hide-input"]
from edgelib.devices.projection import published_points
from edgelib.devices.table import devices
from edgelib.devices.validation import validate as validate_projections
from edgelib.report import validation as shown_as
from edgelib.report.claims import validation as say_of
from edgelib.report.notebook import conclude, facts, foot, say, setup, show
from edgelib.report.replication.table import claim_table
from edgelib.report.tables import interval, number
from edgelib.study.validation import simulated as known
from edgelib.study.validation.peers import agreements, vectors_folder

work = setup("validation", P.results)
published = shown_as.published_folder(work.root, P.tables)

# %% [markdown]
# ## What was claimed, and what came of it
#
# {numref}`tab-claims` has a row for every claim of the two benchmarks. The fourth column says what the claim was tested on, because a
# verdict means different things: *models of this book* are small, so a loss that is contradicted there may still be met on a large model;
# *their own figures* and *dimensions* leave no such way out. "Holds here" and "contradicted" need an interval on the right side and,
# where many tests were made, a corrected p. "Open" says that the images are too few to tell, never that there is no effect. What nothing
# in this book speaks to is "not tested here", and says why.

# %% tags=["hide-input", "full-width"]
claims = work.save("claims", claim_table(published))
caption = "Claims of EdgeVLM-Bench and Swift-VLM-Flow, each with what it was tested by in this book and the verdict."
show(claims, caption, "tab-claims", shown_as.claim_columns())

# %% tags=["hide-input"]
counts = work.save("verdicts", shown_as.verdict_counts(claims))
show(counts, "Verdicts by what the claim was tested on.", "tab-verdicts")

# %% [markdown]
# Read the rows that are contradicted by their own figures first, since they need no run of ours. The column that one benchmark calls
# mean corruption error is a mean drop in accuracy, which rewards a model that starts low {cite:p}`hendrycks2019`; a model called FP16 has
# the bytes of FP32; and a speed-up over another runtime is mostly that runtime's. Rows on models of this book are about the direction
# of an effect. They cannot reproduce the size of a loss that another model had, and they can show that it is no law.
#
# ## Other tools, number by number
#
# The checkout holds vectors that other tools made of small inputs: corrupted images, scores, rounded weights, blocks of GGUF files. Each is
# computed here anew and compared. We expect equal codes; where tools break a tie in different ways, or a resize rounds in another order,
# we expect one step and no more. The last column says how much the conventions explain. Random corruptions are compared with the peer's
# own draw where it has one; their distributions are a matter of the test suite.

# %% tags=["hide-input", "full-width"]
folder = vectors_folder(P.vectors)
agreed = None if folder is None else work.save("agreement", agreements(folder))
if agreed is not None:
    show(agreed, "This library against other tools' vectors.", "tab-agreement", shown_as.agreement_columns())
missing = "Not compared: the vectors lie in tests/reference of a checkout, which an installed package does not have"
say([] if agreed is None else [say_of.agreement_claim(agreed)], otherwise=missing)

# %% [markdown]
# A peer can be wrong too. Where two of them disagree, the README beside the vectors says who does what, and the comparison leaves out
# what a peer treats in a way of its own, such as ranges that need not hold zero.
#
# ## Simulation against what runs
#
# Accuracy in this book is simulated: values are rounded and computed with in floating point. That is only worth something if a real
# file holds the same values and a real engine computes the same answers. {numref}`tab-runs` collects both: a packed file that is read back
# must give the same logits, and llama.cpp, where it was installed, must choose the same tokens as the simulation of its file. Its integer
# kernels round inputs as well, so some distance remains; the bound is the most by which the mean probability of any answer can differ.

# %% tags=["hide-input", "full-width"]
runs = shown_as.run_rows(published)
if len(runs):
    show(work.save("runs", runs), "Simulated models against files and engines that run.", "tab-runs")
say([], otherwise="" if len(runs) else "Not compared: no chapter has published what it ran")

# %% [markdown]
# ## Projections against published points
#
# The times of devices that nobody here owns are projected from a roofline and other people's measurements ({doc}`efficiency`). The only
# honest test is a device that the fit has not seen. {numref}`tab-coverage` counts how many published points fell inside the interval that
# was given for them. Points of one device share its error, so the interval of the share is drawn over devices; with so few of them it
# is wide, and a share above the level means that the intervals are wider than they would have to be.

# %% tags=["hide-input"]
projections = validate_projections(published_points(devices()), P.projection_level)
covered = work.save("coverage", shown_as.coverage_rows(projections, P.level, P.seed))
columns = {"Step": "step", "Points": "points", "Devices": "n", "Inside, %": interval("accuracy", digits=0)}
columns |= {"Median error, %": number("median_error", "{:.0f}", 100), "Factor either way": number("factor", "{:.1f}")}
caption = f"Published points inside the {100 * P.projection_level:g} % intervals of projections that had not seen their device."
show(covered, caption, "tab-coverage", columns)
say([say_of.coverage_claim(covered, P.projection_level)])

# %% [markdown]
# ## Tests whose truth is known
#
# Here the answer is planted. Two configurations answer the same questions about the same images; whether an answer is right depends on
# the image, on the question and on chance, in shares that make outcomes as paired as real ones are. Where both have the same
# accuracy, every claim of a difference is false, and there may be at most one in twenty. Where they differ by a known number of points,
# the interval must hold that number as often as it says. Families are corrected by Holm's method, so that *any* false claim among them
# counts; the margin case plants a loss of exactly the margin, where every "loses less" is false. The gap is the one of
# {doc}`robustness_gap`.

# %% tags=["hide-input"]
equal = known.Truth("equal, a question an image", 0.9, 0.9, P.n_images)
several = known.Truth("equal, several questions an image", 0.8, 0.8, P.n_images, P.questions)
apart = known.Truth(f"{P.margin:g} points apart", 0.9, 0.9 - P.margin / 100, P.n_images)
ways = {"level": P.level, "seed": P.seed}
parts = [known.difference_study([equal, several, apart], P.n_simulations, **ways)]
parts += [known.family_study(equal, P.family, P.n_families, **ways)]
parts += [known.equivalence_study(equal, P.margin / 100, P.n_simulations, **ways)]
parts += [known.gap_study(P.n_images, size, P.n_gaps, **ways) for size in (0.0, 0.5)]
studies = work.save("simulated", shown_as.judged(parts))

# %% tags=["hide-input", "full-width"]
caption = (
    f"Simulated experiments whose truth is known: shares with {100 * P.level:g} % Wilson intervals over simulations."
)
show(studies, caption, "tab-simulated", shown_as.study_columns())
say([say_of.study_claim(studies)])

# %% [markdown]
# "Holds" needs the whole interval of the share on the right side; "not excluded" says that more simulations would tell. "Wider" intervals
# are those of small samples in which few answers differ: they are widened on purpose, so that twenty images on which two models agree
# are not taken for proof that they always will. That costs power and no validity. "Exceeded" or "narrower" would be faults of this
# library.
#
# ## Sanity
#
# What must hold in every run: every claim of both benchmarks has a row and a verdict, what is not tested says why, and no comparison
# with a peer is empty.

# %%
assert claims.verdict.isin(shown_as.VERDICTS).all() and claims.tested.str.len().gt(0).all()
assert agreed is None or agreed.n.gt(0).all()
assert (
    studies.share.between(0, 1).all() and studies.low.le(studies.share).all() and studies.share.le(studies.high).all()
)
facts("compared", claims=len(claims), tested=int((claims.verdict != shown_as.VERDICTS[-1]).sum()), studies=len(studies))

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input"]
points = [f"{name}: {say_of.counts_text(own.verdict)}" for name, own in claims.groupby("source", sort=False)]
points += [] if agreed is None else [say_of.agreement_claim(agreed)]
say([*points, say_of.coverage_claim(covered, P.projection_level), say_of.study_claim(studies)])
conclude(say_of.validation_opening(claims, studies, agreed), shown_as.read_scope(published))

# %% [markdown]
# **What this does not show.** Both benchmarks used models and images that this package does not hold, so nothing here says that their
# scores were measured wrongly. A simulated truth is as good as its model of how answers go together. And a device that nobody has
# published numbers of is not among the points.
#
# **Rerun it.**
#
# ```console
# papermill notebooks/validation.ipynb out.ipynb -f params/validation.yaml
# papermill notebooks/validation.ipynb out.ipynb -y "{tables: my-book/data, n_simulations: 1000}"
# ```

# %% tags=["remove-input"]
foot(P.provenance())
