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
# # What do GGUF names cost?
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
# Accuracies on this page are *simulated*; where llama.cpp itself ran, the page says *measured*. It takes about two minutes on two CPU
# cores. {doc}`vlm_accuracy` introduces the comparison of answers that it builds on.
# :::
#
# ## Why it matters
#
# On phones, small boards and laptops a quantized vision-language model is two GGUF files that llama.cpp runs: a decoder, often called
# Q4_K_M, and a vision half, the `mmproj`, in F16 or Q8_0. Leaderboards score the model in sixteen bits, and hardly anybody publishes
# what the quantized vision half costs. Three things make such a name hard to judge. It names a recipe and not a format: which type a
# tensor gets depends on its role and on the width of its rows. The two halves are rounded apart, and an error of the vision half reaches every
# answer about the picture. And the engine has arithmetic of its own, so a loss seen on a device may be none of the format's.
#
# This page takes them one at a time. What does a name hold? What does each pair of files cost, on clean and on corrupted
# pictures? Does the engine compute what was simulated? How fast is it, and would fewer image tokens have been the better saving?

# %% tags=["remove-cell"]
from typing import Optional

from edgelib.chapters.edge_engines import EdgeEngines, pair_config
from edgelib.chapters.params import begin, validate

begin(globals())

# %% tags=["parameters"]
model: str = "scenes-vlm"  # a model that writes: embedded name, local folder or hub id
questions: str = "scenes-vqa"  # in the columns of a benchmark
split: str = "test"
columns: dict[str, str] = {}  # column names, such as {"question": "q"}
images: Optional[str] = None  # folder of the image files, where it lies apart
n_images: int = 12  # quick run; params/edge_engines.yaml sets the published size
decoders: list[str] = ["f16", "q8_0", "q4_k_m"]  # names of the decoder's files, the reference first
visions: list[str] = ["f16", "q8_0", "q4_k_m"]  # of the vision tower's, the mmproj
conditions: list[str] = ["gaussian_noise:3", "fog:3"]
table: Optional[str] = None  # severity constants: "imagenet-c" or "cifar-c"; None chooses by image size
instruction: Optional[str] = None  # a line after each question; None takes the benchmark's own
max_new_tokens: int = 8
calibration: str = "balanced"  # what the importance of the last decoder is taken from
other_calibrations: list[str] = ["text-only"]  # and what it is taken from beside that
calibration_source: Optional[str] = None  # questions that it is taken from; None: those that are asked
n_calibration: int = 32
image_tokens: list[int] = [4, 9, 16]  # tokens that an image becomes; [] leaves the section empty
n_agreement: int = 4  # prompts on which the engine meets its simulation
engine_times: Optional[str] = None  # folder with llama_cpp.csv; None: the published machine; "here": measure now
margin: float = 0.01  # accuracy that a pair of files may lose
seed: int = 0  # the only source of randomness
batch_size: int = 128
device: str = "cpu"
executor: str = "serial"  # or "process"
workers: int = 2
local_files_only: bool = False
n_bootstrap: int = 1000
level: float = 0.95  # confidence level of every interval
results: str = "results"

# %% tags=["remove-cell"]
P = validate(globals(), EdgeEngines)

# %% tags=["hide-input"]
from edgelib.report.notebook import conclude, facts, foot, say, setup, show
from edgelib.report.tables import cross, escaped, interval, moved_answers, named, number, verdicts

work = setup("edge_engines", P.results)
boot = {"n_boot": P.n_bootstrap, "level": P.level, "seed": P.seed}
options = {"level": P.level, "seed": P.seed}

# %% tags=["hide-input"]
import matplotlib.pyplot as plt

from edgelib.models.token_budget import image_tokens as tokens_of
from edgelib.report import engines as tables
from edgelib.report.claims import engines as say_of
from edgelib.report.claims.answers import condition_claim
from edgelib.report.claims.differences import difference_summary
from edgelib.report.claims.openings import scope_claim
from edgelib.report.claims.runs import recommendation_claim
from edgelib.report.claims.text import points_text
from edgelib.report.figures.base import forest, panels
from edgelib.report.figures.palette import readable
from edgelib.stats.family import compare
from edgelib.stats.gap import robustness_gaps
from edgelib.stats.outcomes import accuracy_table
from edgelib.stats.recommend import recommend
from edgelib.study.answer_grid import NO_MIX

# %% tags=["hide-input"]
from edgelib.study.engine import pairs as pair_up
from edgelib.study.engine.agreement import engine_ladders
from edgelib.study.engine.measure import times_of
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep

pairs = {config: tables.pair_name(*pair) for config, pair in P.pairs.items()}
reference, *others = P.pairs

# %% [markdown]
# ## What a name really holds
#
# A file called Q4_K_M is not a file of Q4_K. Blocks of 256 values need rows that 256 divides; narrower ones fall back to blocks of 32 with more
# bits, and rows that 32 does not divide stay in sixteen bits. Some roles are lifted on purpose: values of the attention and the second
# matrix of the MLP in some layers, the output in all of them. {numref}`tab-types` applies llama.cpp's rules to this model, without
# rounding anything. We expect a small model with narrow rows to hold little of what its name says.

# %% tags=["hide-input"]
study = P.study()
held = work.save("types", tables.held_types(study.model, dict.fromkeys([*P.decoders, *P.visions])))
caption = f"What files of {escaped(study.model.name)} hold under each name. Bits of one value, scales included."
show(held, caption, "tab-types", tables.type_columns())

# %% [markdown]
# Compare the column of bits with the name before trusting it. Two models with files of one name can hold different types, so a loss reported for
# a wide model says little about a narrow one, and the other way round. {numref}`tab-file-bytes` has the sizes that follow.

# %% tags=["hide-input"]
sizes = work.save("sizes", tables.file_bytes(study.model, P.pairs))
kind = "bytes of both files" if sizes.exact.all() else "bytes of the weights"
columns = {"Decoder + vision": named("config", pairs)}
parts = {"Decoder": "decoder_bytes", "Vision": "vision_bytes", "Both": "bytes"}
columns |= {f"{title}, kB": number(column, "{:,.1f}", 1e-3) for title, column in parts.items()}
show(sizes, f"Predicted {kind}; the reference first.", "tab-file-bytes", columns)

# %% [markdown]
# ## Every pair of files
#
# Each pair answers the same questions about the same pictures, clean and in each condition. Weights are those of the files, byte
# for byte; arithmetic is in floating point with inputs of sixteen bits. A corrupted picture is made once and shown to all pairs, so every
# difference below is paired and its interval is narrower than those of two separate scores.

# %% tags=["hide-input", "full-width"]
rows = pair_up.placed(study.score(sweep(study, CellStore(work.results), executor=P.executor, workers=P.workers)))
plain, weighed = rows[rows.config.isin(P.pairs)], rows[rows.mix != NO_MIX]
scores = accuracy_table(plain, ["config", "place"], cluster="image_id", **boot)
scores = work.save("accuracy", scores.assign(config=scores.config.map(pairs)))
words = {place: readable(place) for place in scores.place.unique()}
shown = cross(scores.assign(place=scores.place.map(words)), "config", "place", interval("accuracy"), "Decoder + vision")
caption = (
    f"Simulated accuracy (%) of {escaped(study.model.name)} with {100 * P.level:g} % bootstrap intervals over images."
)
show(shown, caption, "tab-pairs", numeric=list(words.values()))

# %% [markdown]
# A row reads across the conditions and a column down the pairs. What a condition costs is shared by all pairs; what a pair costs is
# the step down its column, which {numref}`fig-pairs` isolates. We expect eight bits to be safe in either half, and a four-bit
# vision half to cost no less than a four-bit decoder, because its errors are made before the first token.

# %% tags=["hide-input"]
sides = pair_up.by_place(plain, others, reference)
tests = compare(sides, ["place", "config"], **options)
effects = tests.table("effect", "low", "high", "p", "p_holm", "mde", "n", "images")
effects = work.save("differences", effects.assign(name=effects.config.map(pairs)))

# %% mystnb={"figure": {"caption": "Simulated accuracy of each pair of files minus that of the reference, in points, by condition. Right of zero: better. Bars: paired bootstrap intervals over images.", "name": "fig-pairs"}, "image": {"alt": "Forest plots, one per condition: difference of each pair of files to the reference with intervals."}}
versus = f"Accuracy minus that of {pairs[reference]} (points)"
panels(effects.groupby("place", sort=False), forest, (7.2, 1.2 + 0.3 * len(others)), label=versus, scale=100)
plt.show()

# %% [markdown]
# {numref}`tab-pair-verdicts` has the verdicts, corrected by Holm's method over all pairs and conditions; it is folded where no row is
# settled. "Open" is no proof of safety: the last column says how large a loss one such test would have found.

# %% tags=["hide-input", "full-width"]
table, columns = verdicts(
    tests, {"Condition": named("place", words), "Decoder + vision": named("config", pairs)}, pairs=sides
)
caption = f"Simulated accuracy minus that of {pairs[reference]}, {100 * P.level:g} % paired bootstrap intervals over images, in points."
fold = f"All {len(tests)} comparisons, none of them settled" if not tests.settled() else ""
say([difference_summary(tests.named(lambda place, config: f"{pairs[config]} ({words[place]})"))])
show(table, caption, "tab-pair-verdicts", columns, fold=fold)
say(condition_claim(plain))

# %% [markdown]
# ### Does corruption make it worse?
#
# The robustness gap of {doc}`robustness_gap`: what corruption costs a pair beyond what it costs the reference, in log odds above guessing. A gap
# would mean that a test on clean pictures flatters a pair of files.

# %% tags=["hide-input"]
chance = 0.5 if next(iter(study.sets.values())).task.yes_no else 0.0
gaps = robustness_gaps(plain, others, reference, chance, cluster="image_id", **boot)
ways = {"unit": "log odds", "scale": 1, "digits": 2, "less": "narrows", "more": "widens"}
ways["counts"] = moved_answers(plain, reference)
table, columns = verdicts(gaps, {"Decoder + vision": named("config", pairs)}, **ways)
show(table, f"Robustness gap against {pairs[reference]}, paired bootstrap over images.", "tab-pair-gaps", columns)

# %% [markdown]
# ## What importance buys
#
# `llama-imatrix` weighs the error of a weight by the mean square of its input, and is usually fed with text alone. A decoder that reads
# pictures sees other inputs: text without pictures (`text-only`), pictures without a question (`vision-only`), or questions in another language
# (`second-language`) weigh other channels. {numref}`tab-importance` compares the last decoder with importance from each calibration mix with the same decoder without
# any, beside the vision half as it is and over all conditions. Types of 32 values, which narrow models fall back to, gain less from it than those of 256.

# %% tags=["hide-input"]
bare = rows[rows.config == P.unweighed]
mixed = {mix: pair_up.matched(part, bare) for mix, part in weighed.groupby("mix", sort=False)}
table, columns = verdicts(compare(mixed, ["mix"], **options), {"Importance from": "mix"})
caption = f"Accuracy of {P.decoders[-1].upper()} with importance minus without, over all conditions, paired."
show(work.save("importance", table), caption, "tab-importance", columns)

# %% [markdown]
# ## The engine against the simulation
#
# Everything above is simulated. Here llama.cpp reads the written files, and both are asked for the next token after the same
# prompts. {numref}`tab-engine-ladder` switches one thing at a time, so that a gap has a place: who resizes the picture, the activation function of
# the vision half, the engine's own arithmetic on unrounded numbers, its cache, the rounded weights, and the rounding of inputs that its
# integer kernels do and our simulation does not. A step far above that of the unrounded engine would be a fault of one of the two.

# %% tags=["hide-input"]
asked = next(iter(study.sets.values()))
ladders, reason = engine_ladders(study.model, asked, P.decoders, P.visions[0], P.n_agreement, P.level)
caption = "Measured: llama.cpp on the written files against torch. Bound: the most by which the mean probability of any answer can differ (Pinsker)."
if not reason:
    show(tables.ladder_table(work.save("ladders", ladders)), caption, "tab-engine-ladder", tables.ladder_columns())
say(say_of.ladder_claims(ladders) if not reason else f"Not run: {escaped(reason)}.")

# %% [markdown]
# The bound is what can be defended: half the root of the divergence limits the change of the probability of every answer, whatever the answer is. Agreement on
# the likeliest token is a share of a few prompts, so its lower end stands beside it.
#
# ## Speed and size
#
# *Measured* by the engine itself on the machine that is named, not on this page's model but on a decoder of the dimensions of
# Qwen2.5-0.5B with random weights: decoding reads every weight for each token, and a toy fits into the processor's own memory. The
# table was taken once, by `edgelib measure FOLDER --llama-cpp`, and is read here. Prompts are bound by arithmetic, decoding by bytes, so we expect fewer bits to help decoding most; a
# narrower cache matters only once a context is long.

# %% tags=["hide-input", "full-width"]
times, waits = times_of(P.engine_times, work.folder / "measured")
work.save("times", times)
if len(times):
    show(times, tables.times_caption(times), "tab-engine-times", tables.times_columns())
say(
    say_of.speed_claims(times),
    otherwise="Not measured: the table has no times of F16 with a cache of 16 bits",
)

# %% [markdown]
# ## Tokens before bits
#
# Bits are one saving and image tokens another: fewer tokens shorten the prompt, which is most of the wait on a phone. The processor is told
# to resize every picture to so many tokens, and nothing else changes. {numref}`tab-image-tokens` lays both axes side by side. A model that was
# trained at one size, as the embedded one was, pays for any other; a model trained on many sizes need not.

# %% tags=["hide-input", "full-width"]
store, seen = CellStore(work.results), {}
for grid in P.budgets(study).values():
    tokens = tokens_of(grid.model, asked.images[[0]][0])
    seen[tokens] = grid.score(sweep(grid, store, executor=P.executor, workers=P.workers))
budget = pair_up.with_tokens(seen)

# %% tags=["hide-input", "full-width"]
if seen:
    means = accuracy_table(budget, ["tokens", "config", "place"], cluster="image_id", **boot)
    means["row"] = means.tokens.astype(str) + " tokens, " + means.config.map(pairs)
    means = work.save("tokens", means).assign(place=means.place.map(words))
    shown = cross(means, "row", "place", interval("accuracy"), "Image, decoder + vision")
    caption = "Simulated accuracy (%) by tokens of an image and files of the model."
    show(shown, caption, "tab-image-tokens", numeric=list(means.place.unique()))
say("" if seen else "No number of image tokens was asked for.")

# %% [markdown]
# What tokens save is time before the first word. {numref}`tab-token-waits` sets accuracy over all conditions against that wait, *measured* in
# llama.cpp on the machine named above, by the clock: it prepares the picture, runs the vision half and reads the prompt. A setting is not beaten
# if none is at least as accurate and as quick. Small models wait mostly for overhead, so read the order and not the ratios.

# %% tags=["hide-input"]
if seen:
    means = accuracy_table(budget, ["tokens", "config"], cluster="image_id", **boot)
    means["decoder"] = [P.pairs[config][0] for config in means.config]
    settings = work.save("waits", tables.budget_table(means, waits, P.visions[0], study.model.name))
    caption = "Simulated accuracy over all conditions beside the measured wait for a first token, median with the quickest and the slowest."
    show(settings, caption, "tab-token-waits", tables.budget_columns())
    say(say_of.budget_claims(settings), otherwise="Waits were not measured for this model at these numbers of tokens")

# %% [markdown]
# The question of a deployment is which saving costs less. Below, the second decoder with fewer tokens meets the last decoder at each
# larger number; a positive difference says that fewer tokens at more bits are better.

# %% tags=["hide-input"]
wide, narrow = (pair_config(decoder, P.visions[0]) for decoder in (P.decoders[1], P.decoders[-1]))
trades = pair_up.trades(budget, wide, narrow)
if trades:
    columns = {f"Fewer tokens, {pairs[wide]}": "fewer", f"More tokens, {pairs[narrow]}": "more"}
    table, columns = verdicts(compare(trades, ["fewer", "more"], **options), columns)
    show(work.save("trades", table), "Accuracy of fewer tokens minus that of more, paired.", "tab-trades", columns)

# %% [markdown]
# ## What to ship
#
# The smallest pair of files that is shown to lose less than the margin against every other pair, over all conditions together, with the
# commands that make and run it from the files in F16 that the converter writes. Where none is shown, that is said: more images decide it.

# %% tags=["hide-input", "full-width"]
weights = dict(zip(sizes.config, sizes.bytes, strict=True))
entries = plain.assign(bytes=plain.config.map(weights), question=plain.place + "|" + plain.item.astype(str))
ways = {"margin": P.margin, "response": "score", "item": "question", "cluster": "image_id", "run": None}
choice = recommend(entries, {"bytes": None}, also="config", **ways)
say([recommendation_claim(choice, lambda setting: pairs[setting["config"]])])

# %% tags=["hide-input", "full-width"]
columns = {"Decoder + vision": named("config", pairs), "Both, kB": number("bytes", "{:,.1f}", 1e-3)}
columns |= {"Accuracy, %": number("mean", "{:.1f}", 100), "Holm p": number("p_holm", "{:.3f}")}
columns |= {"Within the margin": "verdict", "Make it": "make"}
caption = f"Every pair against its strongest rival, margin {points_text(P.margin)}, smallest first, and the commands that make it."
show(work.save("choice", tables.choice_table(choice.table, P.pairs)), caption, "tab-choice", columns)

# %% [markdown]
# `edgelib.save_gguf(model, "model.gguf", "q4_k_m")` writes the same files here, and `part="vision"` the vision half; {doc}`../reference/your_own_model` says how
# this page runs on a model of your own.
#
# ## Sanity
#
# What must hold in every run: the reference does not diverge from itself, every pair answered every question once in every condition, and the
# types of each part add up to all of it.

# %%
assert (plain[plain.config == reference].kl < 1e-5).all()
assert plain.groupby(["config", "place"]).item.agg(["nunique", "size"]).eq(len(asked)).all(axis=None)
assert held.groupby(["mix", "part"]).share.sum().sub(1).abs().max() < 1e-9
facts("compared", pairs=len(pairs), questions=len(asked), images=len(asked.images))

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input"]
over_all = pair_up.by_config(plain, others, reference)
whole = compare({P.pairs[config]: pair for config, pair in over_all.items()}, ["decoder", "vision"], **options)
say([difference_summary(tests.named(lambda place, config: f"{pairs[config]} ({words[place]})"))])
conclude(say_of.engines_opening(whole, choice, P.pairs, sizes), scope_claim(P.model, P.questions, "answers"))

# %% [markdown]
# **What this does not show.** In a narrow model most rows fall back to wider types than the name says; {numref}`tab-types` counts those of this one, and a wide
# model may lose more under the same name. No outliers were planted here; {doc}`vlm_accuracy` asks what they cost. Engine agreement is about the next token after a prompt, not about long answers. Times are those of one machine.
#
# **Rerun it.**
#
# ```console
# papermill notebooks/edge_engines.ipynb out.ipynb -f params/edge_engines.yaml
# edgelib sweep params/edge_engines.yaml
# ```

# %% tags=["remove-input"]
foot(P.provenance())
