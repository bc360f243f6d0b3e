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
# # Does a quantized model still answer the same?
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
# Accuracies on this page are *simulated*. The page takes about five minutes on two CPU cores; {doc}`robustness_gap` introduces
# the comparison of configurations that it builds on.
# :::
#
# ## Why it matters
#
# A vision-language model writes, so one wrong token is a wrong answer, and a format that shifts the odds of "yes" by a little
# moves a whole benchmark. Reports compare a few hundred questions of one run and read differences of one or two points
# {cite:p}`goyal2017,li2023pope,fu2023mme`. Questions share images and configurations share questions, so the quantity to
# estimate is the paired difference
#
# $$
# \delta(q) = \frac{1}{n} \sum_{k=1}^{K} \sum_{i \in k} \bigl( s_i(q) - s_i(f) \bigr),
# $$
#
# where $s_i$ is the score of answer $i$, $q$ the configuration, $f$ the reference, and the $K$ images $k$ are what is redrawn for
# its interval. F1 and the MME total are no such means; they are computed anew on every redraw.

# %% tags=["remove-cell"]

from typing import Optional

from edgelib.chapters.params import begin, validate
from edgelib.chapters.vlm_accuracy import TRANSLATION, VlmAccuracy, draw_name

begin(globals())

# %% tags=["parameters"]
model: str = "scenes-vlm"  # a model that writes: embedded name, local folder or hub id
vqa: str = "scenes-vqa"  # questions in the columns of lmms-lab/VQAv2
vqa_split: str = "test"
n_vqa: int = 12  # images of a quick run; params/vlm_accuracy.yaml sets the published sizes
pope: str = "scenes-pope"  # questions in the columns of lmms-lab/POPE
pope_split: str = "test"
n_pope: int = 8
mme: str = "scenes-mme"  # questions in the columns of lmms-lab/MME
mme_split: str = "test"
n_mme: int = 28
more: dict[str, str] = {}  # further benchmarks, such as {"textvqa": "lmms-lab/textvqa"}
more_split: str = "validation"
n_more: int = 24
columns: dict[str, dict[str, str]] = {}  # column names of a benchmark, such as {"vqa": {"question": "q"}}
images: dict[str, str] = {}  # folder of a benchmark's image files, such as {"pope": "./val2014"}
configs: list[str] = [
    "bf16",
    "w8a16",
    "w4a16",
    "w4a16-awq",
    "nvfp4",
]  # the first is the reference
vision_configs: list[str] = ["w8a8-smoothquant-vision"]  # round the vision tower too
twins: list[str] = ["weight:16"]  # planted outliers
twin_configs: list[str] = ["w4a16", "w4a16-awq"]
calibration: str = "balanced"  # calibration mix
calibration_source: str = "vqa"  # whose questions calibrate
n_calibration: int = 32
translation_config: str = "w4a16-awq"  # of the language experiment
translation_mixes: list[str] = ["english", "balanced"]  # one language, and both
translation_draws: int = 1
n_translation: int = 8
conditions: list[str] = ["fog:3"]  # of the images of one benchmark
corrupted_task: str = "pope"
table: Optional[str] = None  # severity constants: "imagenet-c" or "cifar-c"; None chooses by image size
instruction: Optional[str] = None  # a line after each question; None takes the benchmark's own
max_new_tokens: int = 8
real_decoder: Optional[str] = None  # differences.csv of a model with a real decoder: what loses there is not advised
seed: int = 0  # the only source of randomness beside the calibration draws
batch_size: int = 128
device: str = "cpu"
executor: str = "serial"  # or "process"
workers: int = 2
local_files_only: bool = False
n_bootstrap: int = 1000
level: float = 0.95  # confidence level of every interval
results: str = "results"

# %% tags=["remove-cell"]
P = validate(globals(), VlmAccuracy)

# %% tags=["hide-input"]
from edgelib.report.notebook import conclude, foot, say, setup, show

work = setup("vlm_accuracy", P.results)
boot = {"n_boot": P.n_bootstrap, "level": P.level, "seed": P.seed}
reference, others = P.configs[0], [*P.configs[1:], *P.vision_configs]

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import pandas as pd

from edgelib.models.twins import PLAIN
from edgelib.report.claims.answers import condition_claim, margin_claim, nothing_settled_claim
from edgelib.report.claims.differences import difference_claims, difference_summary
from edgelib.report.claims.openings import answers_opening, scope_claim
from edgelib.report.figures.base import forest, long_axis, panels
from edgelib.report.figures.palette import label, readable
from edgelib.report.figures.vlm import disagreements, question_samples, share_dots, sub_task_panels
from edgelib.report.tables import escaped, interval, moved_answers, named, number, verdicts
from edgelib.stats.family import Family, compare
from edgelib.stats.gap import gap_table, robustness_gaps
from edgelib.stats.outcomes import accuracy_table, changed_answers
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep
from edgelib.tasks.benchmarks import TASKS, benchmark_difference, benchmark_scores

NAMES = {task: TASKS[task].label for task in P.asked}

# %% [markdown]
# ## What is asked
#
# Three benchmarks ask about the same kind of pictures, and the parameter `more` adds others: open questions scored by the agreement of ten annotators (VQA),
# whether an object is there (POPE), and pairs of one true and one false statement in fourteen sub-tasks (MME). Read a few of
# {numref}`fig-questions` yourself first: a benchmark is as good as its questions, and some of these are easy to guess without the
# picture.

# %% mystnb={"figure": {"caption": "Questions of the benchmarks with their reference answers.", "name": "fig-questions"}, "image": {"classes": "photo", "alt": "Pictures of scenes, each with a question and its reference answer below."}}
study = P.study()
question_samples({task: study.sets[task] for task in P.asked})
plt.show()

# %% [markdown]
# ## The grid
#
# Every configuration answers the same questions by greedy decoding. Each image is corrupted once, encoded once for all
# configurations that share a vision tower, and read once by each decoder for all questions about it. Configurations round the Linear layers of the decoder only, as deployments do, but
# for those that say "vision tower too". Everything below is computed from the stored answers.
#
# The table counts them. An answer is *unparsed* if a yes-or-no question got neither, and *cut short* if the model was still writing
# when it had to stop. Both should be near zero: where they are not, a score measures the prompt rather than the format.

# %%
rows = study.score(sweep(study, CellStore(work.results), executor=P.executor, workers=P.workers))
plain = rows[(rows.twin == PLAIN) & (rows.severity == 0)]
sizes = {task: [len(asked.images), len(asked)] for task, asked in study.sets.items()}
counts = rows.assign(answers=1, unparsed=~rows.parsed, cut=~rows.ended).groupby("task")
counts = counts[["answers", "unparsed", "cut"]].sum().rename(columns={"cut": "cut short"})
pd.DataFrame.from_dict(sizes, "index", columns=["images", "questions"]).join(counts).astype(int).sort_index()

# %% [markdown]
# ## Every benchmark, every configuration
#
# Scores first, then differences. The intervals of {numref}`tab-benchmarks` are those of one score, over images, and they are wide,
# because some images are harder than others; that part is shared by all rows of the table.

# %% tags=["hide-input", "full-width"]
asked = plain[plain.config.isin([reference, *others]) & (plain.task != TRANSLATION)]
scores = asked.groupby(["task", "config"], sort=False)
scores = [benchmark_scores(t, part, **boot).assign(task=t, config=c) for (t, c), part in scores]
scores = work.save("scores", pd.concat(scores, ignore_index=True))
primary = scores[scores.score == scores.task.map({task: TASKS[task].primary for task in P.asked})]

# %% tags=["hide-input", "full-width"]
wide = primary.pivot(index="config", columns="task").loc[[reference, *others]]
ends = {"value": "", "low": "_low", "high": "_high"}
shown = pd.DataFrame({task + end: wide[column, task] for task in P.asked for column, end in ends.items()})
shown = shown.assign(unparsed=wide["unparsed"].sum(axis=1).astype(int)).reset_index()
columns = {"Configuration": named()} | {f"{name}, {TASKS[t].unit}": interval(t) for t, name in NAMES.items()}
caption = f"Simulated scores of {escaped(study.model.name)} with {100 * P.level:g} % bootstrap intervals over images. The MME total is at most 2,800."
show(shown, caption, "tab-benchmarks", columns | {"Unparsed": "unparsed"})

# %% [markdown]
# ### Differences to the reference
#
# The same questions and images for both, so most of the spread in {numref}`tab-benchmarks` cancels. One family of tests, corrected by Holm's
# method over all of them. Where nothing is found, the sentence says how large a difference one such test finds. We expect sixteen-bit
# activations to be safe and four-bit weights to cost something; how much, a few hundred questions may not be able to tell.


# %% tags=["hide-input"]
def answers(task, config, rows=plain):
    return rows[(rows.task == task) & (rows.config == config)].reset_index(drop=True)


def versus_reference(task, config, rows=plain, score=None):
    return benchmark_difference(task, answers(task, config, rows), answers(task, reference, rows), score, **boot)


tests = Family({(task, c): versus_reference(task, c) for task in NAMES for c in others}, ("task", "config"))
effects = work.save("differences", tests.table("effect", "low", "high", "p", "p_holm", "mde", "n", "images"))

# %% mystnb={"figure": {"caption": "Simulated score of each configuration minus that of the reference, in points, on the plain model. Right of zero: better. Bars: paired bootstrap intervals over images.", "name": "fig-differences"}, "image": {"alt": "Forest plots, one per benchmark: difference of each configuration to the reference with intervals."}}
by_benchmark = {name: effects[effects.task == task] for task, name in NAMES.items()}
versus = f"Score minus that of {label(reference)} (points)"
panels(by_benchmark, forest, (7.2, 1.2 + 0.34 * len(others)), label=versus, scale=100)
plt.show()

# %% [markdown]
# A point of MME is one of 2,800, a point of the others one of a hundred: compare signs across panels, not lengths. A configuration
# that rounds eight bits should sit at zero everywhere; one that loses on a single benchmark asks for a look at its questions.
# {numref}`tab-differences` has the verdicts.

# %% tags=["hide-input", "full-width"]
table, columns = verdicts(tests, {"Benchmark": named("task", NAMES), "Configuration": named()})
caption = f"Simulated score minus that of {label(reference)}, {100 * P.level:g} % paired bootstrap intervals over images, in points."
show(table, caption, "tab-differences", columns)

# %% [markdown]
# ## Outliers, planted
#
# What breaks low-bit formats in large models {cite:p}`xiao2023` are outlier channels, which a small one may lack. The twins compute the same
# function as the plain model and carry outliers of a known size ({doc}`embedded_world`). Each difference is taken to the reference on
# the same twin, so that what planting itself does to the answers cancels. We expect formats that share a scale between
# channels to lose here, and methods that look for outliers to win some of it back.

# %% mystnb={"figure": {"caption": "VQA accuracy of each configuration on twins with planted outliers, minus that of the reference on the same twin. Bars: paired bootstrap intervals over images.", "name": "fig-twins"}, "image": {"alt": "Forest plot of differences to the reference on each twin."}}
twins = rows[(rows.twin != PLAIN) & (rows.task == "vqa")].groupby("twin", sort=False)
doses = {(t, c): versus_reference("vqa", c, part) for t, part in twins for c in P.twin_configs}
doses = Family(doses, ("twin", "config"))
dosed = doses.table()
dosed.insert(2, "name", dosed.twin + ": " + dosed.config.map(label))
forest(work.save("twins", dosed), long_axis(len(dosed)), "VQA accuracy minus that of the reference (points)", scale=100)
plt.show()

# %% tags=["hide-input", "full-width"]
table, columns = verdicts(doses, {"Twin": "twin", "Configuration": named()})
caption = (
    f"VQA accuracy minus that of {label(reference)} on the same twin, {100 * P.level:g} % paired bootstrap intervals."
)
show(table, caption, "tab-twins-answers", columns)

# %% [markdown]
# ## Where MME loses
#
# MME reports fourteen sub-tasks, some of them with few images: in the real benchmark two of them have twenty. {numref}`fig-sub-tasks` shows
# each with its number of images, at most 200 points apiece {cite:p}`fu2023mme`; the correction is over all of its cells.

# %% mystnb={"figure": {"caption": "MME score of each configuration minus that of the reference, by sub-task with its number of images, in points of MME. Bars: paired bootstrap intervals over images.", "name": "fig-sub-tasks"}, "image": {"alt": "A forest plot per configuration with one line per MME sub-task."}}
names = answers("mme", reference).category.unique()
parts = {(c, name): versus_reference("mme", c, score=name) for c in others for name in names}
parts = Family(parts, ("config", "task"))
sub_tasks = parts.table("images", "effect", "low", "high", "p", "p_holm", "mde", scale=100)
sub_tasks = work.save("sub_tasks", sub_tasks.rename(columns={"images": "n"}))
sub_task_panels(sub_tasks).supxlabel("MME points minus those of the reference", fontsize=9)
plt.show()

# %% [markdown]
# With so many cells a few bars leave zero by luck alone. Only what the correction leaves counts, and a report that picks its
# examples from such a figure proves nothing.

# %% tags=["hide-input"]
words = {name: readable(name) for name in names}
told = difference_claims(parts, label(reference), "MME score", where="in {task}, ", keys=parts.settled(), words=words)
say(told, otherwise=nothing_settled_claim(parts))

# %% [markdown]
# ## Who says yes
#
# POPE asks as often about what is there as about what is not. A model that leans to "yes" gains recall and loses precision, and
# its F1 can rise while it sees less. Left of the line in {numref}`fig-yes` a model says yes too rarely, right of it too
# often.

# %% mystnb={"figure": {"caption": "Share of the questions answered with yes, by configuration; the dotted line is the share for which yes is right. Bars: bootstrap intervals over images.", "name": "fig-yes"}, "image": {"alt": "Dots with intervals: the share of yes answers per configuration, and a line at the true share."}}
leaning = scores[(scores.task == "pope") & (scores.score == "yes_ratio")]
true_yes = (answers("pope", reference).reference.str.lower() == "yes").mean()
share_dots(leaning, long_axis(len(leaning), 0.3), "Share of yes answers (%)", float(true_yes), "yes is right")
plt.show()

# %% tags=["hide-input"]
lean = Family({c: versus_reference("pope", c, score="yes_ratio") for c in others})
table, columns = verdicts(lean, {"Configuration": named()})
show(table, f"Share of yes answers minus that of {label(reference)}, paired.", "tab-lean", columns)

# %% [markdown]
# ## How many answers change
#
# Equal scores do not mean equal answers: a model may lose some and win others. The share of changed answers and the divergence of
# the first token's distribution see what scores do not. A user who compares two versions of a product sees the changed answers, not
# the score.

# %% tags=["hide-input"]
flips = changed_answers(asked, reference)
changed = work.save("changed", accuracy_table(flips, ["config"], cluster="image_id", **boot))
means = asked.groupby("config", sort=False)[["kl", "logprob", "margin"]].mean()
columns = {"Configuration": named(), "Changed answers, %": interval("accuracy")}
columns |= {"Divergence, millinats": number("kl", "{:.3g}", 1000), "Log-probability": number("logprob", "{:.3f}")}
caption = "Answers that differ from the reference's over all benchmarks, with bootstrap intervals over images; mean divergence of the first token, mean log-probability of the answer and mean margin of its first token over the second best."
show(changed.join(means, on="config"), caption, "tab-changed", columns | {"Margin": number("margin", "{:.2f}")})
say(margin_claim(flips, reference))

# %% [markdown]
# {numref}`fig-disagree` shows the questions with the most different answers. They are picked for being so, hence no sample of what
# usually happens; they show which kind of question is close to a coin toss for this model.

# %% mystnb={"figure": {"caption": "Questions that configurations answer differently, with what each says; the star marks the reference answer.", "name": "fig-disagree"}, "image": {"classes": "photo", "alt": "Pictures with a question and the answers of several configurations."}}
disagreements(asked[asked.task == "vqa"], study.sets["vqa"])
plt.show()

# %% [markdown]
# ## Which language to calibrate in
#
# A report on a Chinese model found that calibrating AWQ on English alone hurt its Chinese, and that mixing in the second
# language mended it. The effect is plausible: the scales of AWQ follow the channels that the calibration text excites. The translation
# sub-task of MME shows a second language. The same configuration is calibrated on
# questions without it and on all sub-tasks, as often as `translation_draws` says. A negative difference agrees with the report.

# %% tags=["hide-input"]
mix_of = {draw_name(mix, k): mix for mix in P.translation_mixes for k in range(P.translation_draws)}
translated = rows[rows.task == TRANSLATION].assign(mix=lambda t: t.mix.map(mix_of)).dropna(subset="mix")
means = translated.groupby(["twin", "mix", "item", "image_id"], sort=False).score.mean()
pairs = {t: [means[t, mix] for mix in P.translation_mixes] for t in (PLAIN, *P.twins)}
pairs = {t: (a, b.loc[a.index], a.index.get_level_values("image_id")) for t, (a, b) in pairs.items()}
language = compare(pairs, ["twin"], level=P.level, seed=P.seed)
_ = work.save("language", language.table("effect", "low", "high", "p", "mde", "n"))

# %% tags=["hide-input"]
one, both = (f"{label(P.translation_config)} calibrated on {mix} questions" for mix in P.translation_mixes)
spoken = difference_claims(language, both, "accuracy in translation", first=one, where="on {twin}, ")
table, columns = verdicts(language, {"Twin": "twin"})
caption = f"Accuracy in translation, {escaped(one)} minus {escaped(both)}, paired by image."
show(table, caption, "tab-language", columns)

# %% [markdown]
# ## Worse pictures
#
# The robustness gap of {doc}`robustness_gap`, for answers: does corruption cost a quantized model more than it costs the reference, in log
# odds above guessing? The decoder is quantized and the vision tower mostly is not, so we expect less of a gap than for classifiers:
# what the corruption destroys is lost before the quantized layers see it.

# %% mystnb={"figure": {"caption": "Robustness gap of each configuration against the reference in log odds. Right of zero: quantization makes corruption cost more. Bars: paired bootstrap intervals over images.", "name": "fig-vlm-gap"}, "image": {"alt": "Forest plot of the robustness gap by configuration."}}
chance = 0.5 if TASKS[P.corrupted_task].yes_no else 0.0
worse = rows[(rows.twin == PLAIN) & (rows.task == P.corrupted_task)].assign(correct=lambda t: t.score)
gaps = work.save("gaps", gap_table(worse, reference, chance, cluster="image_id", **boot))
logit = gaps[gaps.scale == "logit"]
forest(logit, long_axis(len(others), 0.34), "Robustness gap (log odds; right: corruption costs more)")
plt.show()

# %% tags=["hide-input"]
say(condition_claim(worse))
widened = robustness_gaps(worse, others, reference, chance, cluster="image_id", **boot)
ways = {"unit": "log odds", "scale": 1, "digits": 2, "less": "narrows", "more": "widens"}
table, columns = verdicts(widened, {"Configuration": named()}, counts=moved_answers(worse, reference), **ways)
show(table, f"Robustness gap against {label(reference)}, paired bootstrap over images.", "tab-answer-gaps", columns)

# %% [markdown]
# ## Sanity
#
# What must hold in every run: the reference does not diverge from itself, and every configuration answered every question once. The
# table has the mean length of an answer in tokens, its log-probability and the margin of its first token.

# %%
assert (plain[plain.config == reference].kl < 1e-5).all()
answered = rows.groupby(["task", "twin", "config", "mix", "corruption", "severity"]).item.agg(["nunique", "size"])
assert answered["nunique"].eq(answered["size"]).all()
assert all(len(study.sets[task]) == n for task, n in answered["size"].groupby("task").unique().explode().items())
rows.groupby("task", sort=False)[["tokens", "logprob", "margin"]].mean().round(3)

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input"]
points = {task: name for task, name in NAMES.items() if TASKS[task].unit == "%"}
alike = [f"{label(config)} on {points[task]}" for task, config in tests if task in points]
summary = difference_summary(tests.named(lambda task, config: f"{label(config)} on {NAMES[task]}"), alike)
shown = difference_claims(tests, label(reference), "{task}", words=NAMES, keys=tests.settled())
say([*[summary, *shown][:4], *spoken[:1]])
opening = answers_opening(tests, doses, points, reference, P.real_differences())
conclude(opening, scope_claim(P.model, P.vqa, "answers"))

# %% [markdown]
# **What this does not show.** The twins' outliers are planted, and questions, where they are drawn, are stand-ins in the columns of VQAv2, POPE and
# MME, whose names a score has only with the data set itself. Simulated accuracy says nothing about speed.
#
# **Rerun it.**
#
# ```console
# papermill notebooks/vlm_accuracy.ipynb out.ipynb -f params/vlm_accuracy.yaml
# edgelib publish vlm_accuracy --params-dir params/qwen2-vl-2b
# ```

# %% tags=["remove-input"]
foot(P.provenance())
