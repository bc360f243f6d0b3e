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
# {glue:text}`answer`
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
from edgelib.report.notebook import setup

work = setup("embedded_world", P.results)

# %% tags=["hide-input"]
import copy

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from edgelib.report.claims.base import Sentence, bullets
from IPython.display import Markdown, display
from myst_nb import glue

from edgelib.data.datasets import dataset
from edgelib.data.scenes.captions import TEMPLATES, captions
from edgelib.infer.evaluate import evaluate
from edgelib.models.load import EMBEDDED, embedded_models, load
from edgelib.models.twins import outlier_ratios, planted
from edgelib.report.figures.base import GREY, image_grid
from edgelib.report.tables import myst_table, with_interval
from edgelib.stats.paired import wilson
from edgelib.tasks.benchmarks import TASKS, benchmark_scores

# %% [markdown]
# ## Scenes
#
# A scene holds a subject, the largest object, and up to two smaller distractors before a textured background, sometimes
# behind a bar, always with a little sensor noise. Scene $i$ of a split depends on the seed, the split and $i$, and on nothing else.

# %% mystnb={"figure": {"caption": "Held-out scenes, one column per class. The label is the shape of the largest object.", "name": "fig-scenes"}, "image": {"alt": "Grid of small drawn scenes: ten columns, one per shape, in several colours, sizes and textures."}}
data = dataset("scenes", n=P.n_images, seed=P.seed)
rows = data.rows
picks = np.stack([np.resize(np.flatnonzero(rows.label == c), 4) for c in range(len(data.class_names))], axis=1)
tiles = data.images[torch.from_numpy(picks.ravel())].view(*picks.shape, *data.images.shape[1:])
image_grid(tiles.permute(0, 1, 3, 4, 2).numpy(), [""] * len(tiles), data.class_names)
plt.show()

# %% [markdown]
# Image, label, captions and the answers of later chapters all derive from the same record. Here are four records with a
# caption of each.

# %% tags=["hide-input"]
said = captions(rows, np.arange(len(rows)) % len(TEMPLATES), 4)
shown = rows.head(4)[["item", "shape", "colour", "size", "texture", "others"]].assign(caption=said.text)
display(
    Markdown(myst_table(shown, "Records of the first held-out scenes, each with one of its captions.", "tab-records"))
)

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
work.save_table("training", logs)
_, ax = plt.subplots()
for (name, log), mark in zip(logs.groupby("model"), "os", strict=False):
    ax.plot(log.scenes_seen / 1000, 100 * log.accuracy, marker=mark, markersize=4, label=name)
ax.axhline(100 / len(data.class_names), color=GREY, linestyle=":", linewidth=1.2, label="guessing")
ax.set(ylim=(0, 100), xlabel="Scenes seen (thousands)", ylabel="Accuracy (%)")
ax.legend()
plt.show()

# %% [markdown]
# ## Held-out scores
#
# On scenes that no training step, and no choice of the recipe, has seen.

# %% tags=["hide-input"]
base = load(P.model, device=P.device, offline=P.local_files_only)
scored = {name: evaluate(load(name, device=P.device), data, batch_size=P.batch_size) for name in embedded_models()}
scored |= {} if base.name in scored else {base.name: evaluate(base, data, batch_size=P.batch_size)}
scores = pd.DataFrame({"model": list(scored), "accuracy": [o.correct.mean() for o in scored.values()]})
scores["low"], scores["high"] = wilson(scores.accuracy, len(data), P.level)
work.save_table("scores", scores)
shown = pd.DataFrame(
    {
        "Model": scores.model,
        "Accuracy, %": [with_interval(*v) for v in scores[["accuracy", "low", "high"]].itertuples(index=False)],
    }
)
caption = f"Accuracy on {len(data):,} held-out scenes with {100 * P.level:g} % Wilson intervals."
display(Markdown(myst_table(shown, caption, "tab-held-out", {"Accuracy, %": str})))

# %% [markdown]
# ### A model that writes
#
# {doc}`vlm_accuracy` and {doc}`fp8_kv_ablation` ask questions about the same scenes. Their model has a vision tower that starts as that of
# the CLIP and a small decoder, which learned to answer in English and German; `edgelib train scenes-vlm` repeats it.

# %% tags=["hide-input"]
asked = dataset("scenes-vqa", n=min(48, P.n_images), seed=P.seed)
written = []
for name in embedded_models(writes=True):
    found = benchmark_scores("vqa", evaluate(load(name, device=P.device), asked), level=P.level, seed=P.seed)
    own = found.set_index("score").loc[TASKS["vqa"].primary]
    written.append(
        f"{name} reaches {with_interval(own.value, own.low, own.high)} % VQA accuracy on {len(asked):,} held-out questions about "
        f"{len(asked.images):,} scenes ({100 * P.level:g} % bootstrap interval over scenes)"
    )
display(Markdown(bullets(written)))

# %% [markdown]
# Some classes are harder than others: a bar across a small subject can hide what tells two shapes apart.

# %% mystnb={"figure": {"caption": "Held-out accuracy of the model by shape, by size and by whether a bar crosses the subject. Bars: Wilson intervals.", "name": "fig-hard"}, "image": {"alt": "Bar chart of accuracy by shape, size and occlusion with intervals."}}
outcome = rows.assign(correct=scored[base.name].correct, bar=np.where(rows.occluded, "bar", "no bar"))
parts = [outcome.groupby(by).correct.agg(["mean", "size"]) for by in ("shape", "size", "bar")]
split = pd.concat(parts, keys=["shape", "size", "bar"], names=["by", "value"]).reset_index()
low, high = wilson(split["mean"], split["size"], P.level)
work.save_table("by_attribute", split.assign(low=low, high=high))
_, ax = plt.subplots(figsize=(6.4, 3.8))
place = np.arange(len(split)) + (split.by != "shape") * 0.6 + (split.by == "bar") * 0.6
ax.bar(place, 100 * split["mean"], color="#56B4E9", yerr=100 * np.abs([split["mean"] - low, high - split["mean"]]))
ax.set_xticks(place, split.value, rotation=40, ha="right")
ax.set(ylim=(0, 100), ylabel="Accuracy (%)")
plt.show()

# %% [markdown]
# ## Twins: planted outliers
#
# A LayerNorm channel multiplied by $s$ and the next layer's weight column divided by $s$ cancel exactly, and likewise a channel
# of K against Q, or of V against the output projection. A twin does this to 5 % of the channels of every layer. Its
# function is unchanged; what a quantizer has to represent is not. {numref}`tab-twins` measures both: the largest change of
# any class score (a cosine similarity) in float64, and how far the largest channel stands out. Other chapters plant the same in a
# decoder, and in its keys and values: `key` and `value` scale channels of the cache, `key-offset` adds a constant to keys.

# %% tags=["hide-input"]
probe = data.subset(np.arange(min(64, len(data))))


double = base.with_module(copy.deepcopy(base.module).double())


def scores64(twin):
    planted_in = planted(double, twin)
    return planted_in.image_features(planted_in.pixels(probe.images)) @ planted_in.class_vectors(names, ["a {}."]).T


names = data.class_names
exact, table = scores64("activation:1"), []  # strength 1 is a copy of the plain model
for twin in P.twins:
    change = float((scores64(twin) - exact).abs().max())
    table.append({"twin": twin, "change": change, **outlier_ratios(planted(base, twin), probe)})
table.insert(0, {"twin": "plain", "change": 0.0, **outlier_ratios(base, probe)})
twin_table = pd.DataFrame(table)
work.save_table("twins", twin_table)
caption = "Twins: largest change of any class score in float64, and ratios of the largest to the median channel peak (median over layers)."
formats = {c: "{:.2g}".format for c in twin_table.columns[1:]}
display(Markdown(myst_table(twin_table, caption, "tab-twins", formats)))

# %% [markdown]
# ## Sanity

# %%
assert (twin_table.change < 1e-9).all()
assert scores.accuracy.between(0, 1).all() and rows.item.is_unique
pd.Series({"scenes": len(data), "classes": len(data.class_names), "seed": P.seed}).to_frame("this run")

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input"]
own = scores.set_index("model").loc[base.name]
hardest = split[split.by == "shape"].sort_values("mean").iloc[0]
display(
    Markdown(
        "\n".join(
            [
                f"- {base.name} names the shape in {with_interval(own.accuracy, own.low, own.high)} % of {len(data):,} held-out scenes: enough to have something to lose.",
                f"- The hardest shape is the {hardest.value}, at {100 * hardest['mean']:.1f} % of {hardest['size']} scenes.",
                f"- No twin changes a class score by more than {twin_table.change.max():.1g} in float64.",
            ]
        )
    )
)
text = f"A model of this world names the shape in {with_interval(own.accuracy, own.low, own.high)} % of {len(data):,} scenes it never saw, and its twins with planted outliers compute the same function to within {twin_table.change.max():.1g}."
glue("answer", Sentence(text), display=False)

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
