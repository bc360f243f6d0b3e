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
# # Can a small drawn world stand in for a large one?
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
# This page takes about half a minute on two CPU cores. It has no prerequisite; {doc}`robustness_gap` builds on it.
# :::
#
# ## Why it matters
#
# No weights and no data set can be downloaded on an offline laptop or in a test. The book therefore ships a world of its own:
# scenes drawn from a record of what is where, and models trained on them from scratch. They are ordinary Hugging Face and timm
# folders, loaded by the same code as a real model. They are synthetic stand-ins: no number here says anything about
# photographs.
#
# A small network also lacks what makes large ones hard to quantize, *outlier channels*: a few channels with values many
# times the usual size. The *twins* at the end of this page add them, with a known strength, without changing what the model
# computes.

# %% tags=["remove-cell"]
from edgelib.chapters.embedded_world import EmbeddedWorld
from edgelib.chapters.params import begin, validate

begin(globals())

# %% tags=["parameters"]
model: str = "scenes-clip"  # an embedded model, a local folder or a hub id
n_images: int = 300  # held-out scenes; params/embedded_world.yaml sets the published number
twins: list[str] = ["weight:10", "activation:100", "key:30", "value:30"]  # planted outliers, kind:strength
seed: int = 0  # the only source of randomness
batch_size: int = 128
device: str = "cpu"
local_files_only: bool = False
level: float = 0.95  # confidence level of every interval
results: str = "results"

# %% tags=["remove-cell"]
P = validate(globals(), EmbeddedWorld)

# %% tags=["hide-input"]
from edgelib.report.notebook import conclude, facts, foot, say, setup, show

work = setup("embedded_world", P.results)

# %% tags=["hide-input"]
import copy

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from edgelib.data.datasets import dataset
from edgelib.data.scenes.captions import TEMPLATES, captions
from edgelib.infer.evaluate import evaluate
from edgelib.models.load import EMBEDDED, embedded_models, load
from edgelib.models.twins import outlier_ratios, planted
from edgelib.report.claims.openings import scope_claim, world_claim, world_opening
from edgelib.report.figures.world import accuracy_bars, class_gallery, training_curves
from edgelib.report.tables import interval, number, with_interval
from edgelib.stats.outcomes import attribute_table
from edgelib.stats.paired import wilson
from edgelib.tasks.benchmarks import TASKS, benchmark_scores

# %% [markdown]
# ## Scenes
#
# A scene holds a subject, the largest object, and up to two smaller distractors before a textured background, sometimes
# behind a bar, always with a little sensor noise. Scene $i$ of a split depends on the seed, the split and $i$, and on nothing else.

# %% mystnb={"figure": {"caption": "Held-out scenes, one column per class. The label is the shape of the largest object.", "name": "fig-scenes"}, "image": {"classes": "photo", "alt": "Grid of small drawn scenes: ten columns, one per shape, in several colours, sizes and textures."}}
data = dataset("scenes", n=P.n_images, seed=P.seed)
class_gallery(data)
plt.show()

# %% [markdown]
# Colour, size, texture and place vary on purpose within a column of {numref}`fig-scenes`: a model that reads the shape off any of
# them fails. Image, label, captions and the answers of later chapters all derive from the same record. Here are four records with
# a caption of each.

# %% tags=["hide-input"]
texts = captions(data.rows, np.arange(len(data)) % len(TEMPLATES), 4).text
records = data.rows.head(4)[["item", "shape", "colour", "size", "texture", "others"]].assign(caption=texts)
show(records, "Records of the first held-out scenes, each with one of its captions.", "tab-records")

# %% [markdown]
# ## How the models were trained
#
# Each training scene is seen once. The vision tower first learns to read the record: the subject's shape, colour, size and
# texture, and what covers each patch. Half way, captions join in, and a text tower learns to place each caption near the
# scenes it is true of. Contrastive learning alone stays at chance for long on a model this small. The recipe is part of each
# model's card, and one command repeats it:
#
# ```console
# edgelib train scenes-clip --out my-scenes-clip
# ```

# %% mystnb={"figure": {"caption": "Accuracy on 1,000 validation scenes while training, from the log shipped with each model. For the CLIP it is zero-shot accuracy, which stays at guessing until captions join in.", "name": "fig-training"}, "image": {"alt": "Line chart of validation accuracy against scenes seen, one line per embedded model."}}
logs = pd.concat([pd.read_csv(EMBEDDED / name / "training_log.csv").assign(model=name) for name in embedded_models()])
training_curves(work.save("training", logs), plt.subplots()[1], 1 / len(data.class_names))
plt.show()

# %% [markdown]
# A curve that still rises at its right end belongs to a model that is not fully trained. That is no fault here: later chapters need
# models that have learned enough to lose something, not the best ones that these scenes allow.
#
# ## Held-out scores
#
# On scenes that no training step, and no choice of the recipe, has seen. The supervised classifier is the baseline of the next
# chapter; it should be ahead of the zero-shot model, which never saw a label as a class.

# %% tags=["hide-input"]
base = P.load_model()
models = {name: load(name, device=P.device) for name in embedded_models()}
models.setdefault(base.name, base)
outcomes = {name: evaluate(model, data, batch_size=P.batch_size) for name, model in models.items()}
scores = pd.DataFrame({"model": list(models), "accuracy": [rows.correct.mean() for rows in outcomes.values()]})
scores["low"], scores["high"] = wilson(scores.accuracy, len(data), P.level)

# %% tags=["hide-input"]
caption = f"Accuracy on {len(data):,} held-out scenes with {100 * P.level:g} % Wilson intervals."
show(work.save("scores", scores), caption, "tab-held-out", {"Model": "model", "Accuracy, %": interval("accuracy")})

# %% [markdown]
# ### A model that writes
#
# {doc}`vlm_accuracy` and {doc}`fp8_kv_ablation` ask questions about the same scenes. Their model has a vision tower that starts as that of
# the CLIP and a small decoder, which learned to answer in English and German; `edgelib train scenes-vlm` repeats it.

# %% tags=["hide-input"]
asked = dataset("scenes-vqa", n=min(48, P.n_images), seed=P.seed)
written = {name: evaluate(load(name, device=P.device), asked) for name in embedded_models(writes=True)}
written = {n: benchmark_scores("vqa", rows, level=P.level, seed=P.seed) for n, rows in written.items()}
primary = {n: table.set_index("score").loc[TASKS["vqa"].primary] for n, table in written.items()}
over = f"{len(asked):,} held-out questions about {len(asked.images):,} scenes ({100 * P.level:g} % bootstrap interval over scenes)"
say(f"{n} reaches {with_interval(s.value, s.low, s.high)} % VQA accuracy on {over}" for n, s in primary.items())

# %% [markdown]
# ### What is hard
#
# Some classes are harder than others: a bar across a small subject can hide what tells two shapes apart. {numref}`fig-hard` splits
# the accuracy of the model in three ways. The bars of one way add up to the same scenes; small groups have wide intervals, and two
# bars whose intervals overlap are not ranked by this figure.

# %% mystnb={"figure": {"caption": "Held-out accuracy of the model by shape, by size and by whether a bar crosses the subject. Bars: Wilson intervals.", "name": "fig-hard"}, "image": {"alt": "Bar chart of accuracy by shape, size and occlusion with intervals."}}
bar = np.where(data.rows.occluded, "bar", "no bar")
outcome = data.rows.assign(correct=outcomes[base.name].correct, bar=bar)
split = work.save("by_attribute", attribute_table(outcome, ["shape", "size", "bar"], P.level))
accuracy_bars(split, plt.subplots(figsize=(6.4, 3.8))[1])
plt.show()

# %% [markdown]
# ## Twins: planted outliers
#
# A LayerNorm channel multiplied by $s$ and the next layer's weight column divided by $s$ cancel exactly, and likewise a channel
# of K against Q, or of V against the output projection. A twin does this to one channel in twenty of every layer. Its
# function is unchanged; what a quantizer has to represent is not. {numref}`tab-twins` measures both: the largest change of
# any class score (a cosine similarity) in float64, and how far the largest channel stands out. Other chapters plant the same in a
# decoder, and in its keys and values: `key` and `value` scale channels of the cache, `key-offset` adds a constant to keys.

# %% tags=["hide-input"]
probe = data.subset(np.arange(min(64, len(data))))
double = base.with_module(copy.deepcopy(base.module).double())


def class_scores(twin):
    model = planted(double, twin)
    return model.image_features(model.pixels(probe.images)) @ model.class_vectors(data.class_names, ["a {}."]).T


exact = class_scores("activation:1")  # strength 1 is a copy of the plain model
change = {"plain": 0.0} | {twin: float((class_scores(twin) - exact).abs().max()) for twin in P.twins}

# %% tags=["hide-input"]
ratios = [outlier_ratios(planted(base, twin), probe) for twin in change]
twins = pd.DataFrame({"twin": list(change), "change": list(change.values())}).join(pd.DataFrame(ratios))
caption = "Twins: largest change of any class score in float64, and ratios of the largest to the median channel peak (median over layers)."
columns = {"twin": "twin"} | {column: number(column, "{:.2g}") for column in twins.columns[1:]}
show(work.save("twins", twins), caption, "tab-twins", columns)

# %% [markdown]
# Each row should stand out in the column of what was planted and nowhere else: `weight` in weights, `activation` in activations,
# `key` and `value` in the cache.
#
# ## Sanity
#
# What must hold in every run: a twin computes the same function up to rounding in float64, and no scene is counted twice.

# %%
assert (twins.change < 1e-9).all()
assert scores.accuracy.between(0, 1).all() and data.rows.item.is_unique
facts("this run", scenes=len(data), classes=len(data.class_names), seed=P.seed)

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input"]
held_out = scores.set_index("model").loc[base.name]
hardest = split[split.by == "shape"].sort_values("mean").iloc[0]
least = f"{twins.change.max():.1g}"
points = [world_claim(base.name, held_out, len(data), 1 / len(data.class_names))]
points += [f"The hardest shape is the {hardest.value}, at {100 * hardest['mean']:.1f} % of {hardest['size']} scenes"]
say([*points, f"No twin changes a class score by more than {least} in float64"])
conclude(world_opening(base.name, held_out, len(data), least), scope_claim(P.model, "scenes"))

# %% [markdown]
# **What this does not show.** A stand-in keeps the code honest and the experiments controlled. It does not tell what a
# format costs a model of photographs: rerun the next chapter with a model of your own.
#
# **Rerun it.**
#
# ```console
# papermill notebooks/embedded_world.ipynb out.ipynb -f params/embedded_world.yaml
# ```
#
# Next: {doc}`robustness_gap`.

# %% tags=["remove-input"]
foot(P.provenance())
