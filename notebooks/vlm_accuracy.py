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
# {glue:text}`answer`
#
# :::{note}
# Accuracies on this page are *simulated*. The questions are synthetic stand-ins in the columns of VQAv2, POPE and MME: no score
# here is a score on those benchmarks. The page takes about five minutes on two CPU cores; {doc}`robustness_gap` introduces
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
from edgelib.chapters.vlm_accuracy import ASKED, TRANSLATION, VlmAccuracy, draw_name

begin(globals())

# %% tags=["parameters"]
model: str = "scenes-vlm"  # a model that writes: embedded name, local folder or hub id
vqa: str = "scenes-vqa"  # questions in the columns of lmms-lab/VQAv2
vqa_split: str = "test"
n_vqa: int = 24  # images of a quick run; params/vlm_accuracy.yaml sets the published sizes
pope: str = "scenes-pope"  # questions in the columns of lmms-lab/POPE
pope_split: str = "test"
n_pope: int = 8
mme: str = "scenes-mme"  # questions in the columns of lmms-lab/MME
mme_split: str = "test"
n_mme: int = 42
configs: list[str] = [
    "bf16",
    "w8a16",
    "w4a16",
    "w8a8-smoothquant",
    "fp8",
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
conditions: list[str] = ["gaussian_noise:3", "fog:3"]  # of the images of one benchmark
corrupted_task: str = "pope"
table: Optional[str] = None  # severity constants: "imagenet-c" or "cifar-c"; None chooses by image size
instruction: str = ""  # a line after each question, as real models want to be asked
max_new_tokens: int = 8
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
from edgelib.report.notebook import setup

work = setup("vlm_accuracy", P.results)
boot = {"n_boot": P.n_bootstrap, "level": P.level, "seed": P.seed}
reference, others = P.configs[0], [*P.configs[1:], *P.vision_configs]

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import pandas as pd
from edgelib.report.claims.base import Sentence, bullets, difference_claim, difference_summary, gap_claim, settled
from IPython.display import Markdown, display
from myst_nb import glue

from edgelib.models.twins import PLAIN
from edgelib.report.figures.base import forest, look, readable
from edgelib.report.figures.vlm import question_gallery, share_dots, sub_task_panels
from edgelib.report.tables import escaped, myst_table, with_interval
from edgelib.stats.gap import gap_table, robustness_gap
from edgelib.stats.outcomes import accuracy_table
from edgelib.stats.paired import holm, paired_difference
from edgelib.study.store import CellStore
from edgelib.study.sweep import sweep
from edgelib.tasks.benchmarks import TASKS, benchmark_difference, benchmark_scores

NAMES = {task: TASKS[task].label for task in ASKED}

# %% [markdown]
# ## What is asked
#
# Three benchmarks ask about the same kind of pictures: open questions scored by the agreement of ten annotators (VQA),
# whether an object is there (POPE), and pairs of one true and one false statement in fourteen sub-tasks (MME).

# %% mystnb={"figure": {"caption": "Questions of the three benchmarks with their reference answers.", "name": "fig-questions"}, "image": {"alt": "Pictures of scenes, each with a question and its reference answer below."}}
grid = P.study()
samples = [
    (task, i) for task in ASKED for i in range(0, 4 * len(grid.sets[task]) // 5, len(grid.sets[task]) // 4 or 1)
]
tiles, texts = [], []
for task, i in samples:
    asked = grid.sets[task]
    row = asked.rows.iloc[i]
    tiles.append(asked.images[[row["image"]]][0].permute(1, 2, 0).numpy())
    texts.append(f"{asked.task.title}: {row['question']}\n-> {asked.references([i])[0]}")
question_gallery(tiles, texts)
plt.show()

# %% [markdown]
# ## The grid
#
# Every configuration answers the same questions by greedy decoding. Each image is corrupted once, encoded once for all
# configurations that share a vision tower, and read once by each decoder for all questions about it. Configurations round the Linear layers of the decoder only, as deployments do, but
# for those that say "vision tower too". Everything below is computed from the stored answers.

# %%
rows = grid.score(sweep(grid, CellStore(work.results), executor=P.executor, workers=P.workers))
plain = rows[(rows.twin == PLAIN) & (rows.severity == 0)]
counts = pd.DataFrame(
    {
        "images": {task: len(asked.images) for task, asked in grid.sets.items()},
        "questions": {task: len(asked) for task, asked in grid.sets.items()},
        "answers": rows.groupby("task").size(),
        "unparsed": rows.groupby("task").parsed.agg(lambda read: int((~read).sum())),
        "cut short": rows.groupby("task").ended.agg(lambda ended: int((~ended).sum())),
    }
)
counts.astype(int)

# %% [markdown]
# ## Three benchmarks, every configuration

# %% tags=["hide-input", "full-width"]
scores = pd.concat(
    [
        benchmark_scores(task, own, **boot).assign(task=task, config=config)
        for (task, config), own in plain[plain.task != TRANSLATION].groupby(["task", "config"], sort=False)
    ],
    ignore_index=True,
)
work.save_table("scores", scores)
primary = scores[scores.score == scores.task.map({task: TASKS[task].primary for task in ASKED})].set_index(["config", "task"])
shown = pd.DataFrame({"Configuration": [look(c).label for c in (reference, *others)]})
for task, name in NAMES.items():
    own = primary.xs(task, level="task").loc[[reference, *others]]
    title = f"{name}, {TASKS[task].unit}"
    shown[title] = [with_interval(*v) for v in own[["value", "low", "high"]].itertuples(index=False)]
shown["Unparsed"] = [int(primary.loc[c].unparsed.sum()) for c in (reference, *others)]
caption = f"Simulated scores of {escaped(grid.model.name)} with {100 * P.level:g} % bootstrap intervals over images. The MME total is at most 2,800."
display(Markdown(myst_table(shown, caption, "tab-benchmarks", {c: str for c in shown.columns[1:4]})))

# %% [markdown]
# ### Differences to the reference
#
# The same questions and images for both, so most of the spread in {numref}`tab-benchmarks` cancels. One family of tests, corrected by Holm's
# method over all of them. Where nothing is found, the sentence says how large a difference one such test finds.


# %% tags=["hide-input"]
def answers_of(task, config, frame=None):
    frame = plain if frame is None else frame
    return frame[(frame.task == task) & (frame.config == config)].reset_index(drop=True)


tests = {
    (task, c): benchmark_difference(task, answers_of(task, c), answers_of(task, reference), **boot)
    for task in NAMES
    for c in others
}
adjusted = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
effects = pd.DataFrame(
    [
        {
            "task": t,
            "config": c,
            "effect": x.effect,
            "low": x.interval[0],
            "high": x.interval[1],
            "p": x.p,
            "p_holm": adjusted[t, c],
            "mde": x.mde,
            "n": x.n,
            "images": x.n_clusters,
        }
        for (t, c), x in tests.items()
    ]
)
_ = work.save_table("differences", effects)

# %% mystnb={"figure": {"caption": "Simulated score of each configuration minus that of the reference, in points, on the plain model. Right of zero: better. Bars: paired bootstrap intervals over images.", "name": "fig-differences"}, "image": {"alt": "Three forest plots, one per benchmark: difference of each configuration to the reference with intervals."}}
figure, axes = plt.subplots(1, 3, figsize=(7.2, 1.2 + 0.34 * len(others)), sharey=True)
for ax, (task, name) in zip(axes, NAMES.items(), strict=True):
    forest(effects[effects.task == task], ax, "", scale=100)
    ax.set_title(name, fontsize=10)
figure.supxlabel(f"Score minus that of {look(reference).label} (points)", fontsize=10)
plt.show()

# %% tags=["hide-input"]
claims = {
    (t, c): difference_claim(x, look(c).label, look(reference).label, NAMES[t], adjusted[t, c])
    for (t, c), x in tests.items()
}
display(Markdown(bullets(claims[t, c] for c in others for t in NAMES)))

# %% [markdown]
# ## Outliers, planted
#
# A small model has no outlier channels, which are what breaks low-bit formats in large ones. The twins compute the same
# function as the plain model and carry outliers of a known size ({doc}`embedded_world`).

# %% mystnb={"figure": {"caption": "VQA accuracy of each configuration on twins with planted outliers, minus that of the reference on the same twin. Bars: paired bootstrap intervals over images.", "name": "fig-twins"}, "image": {"alt": "Forest plot of differences to the reference on each twin."}}
planted = rows[(rows.twin != PLAIN) & (rows.task == "vqa")]
twin_tests = {
    (twin, c): benchmark_difference("vqa", answers_of("vqa", c, own), answers_of("vqa", reference, own), **boot)
    for twin, own in planted.groupby("twin", sort=False)
    for c in P.twin_configs
}
twin_p = dict(zip(twin_tests, holm([x.p for x in twin_tests.values()]), strict=True)) if twin_tests else {}
dosed = pd.DataFrame(
    [
        {
            "twin": t,
            "config": c,
            "name": f"{t}: {look(c).label}",
            "effect": x.effect,
            "low": x.interval[0],
            "high": x.interval[1],
            "p": x.p,
            "p_holm": twin_p[t, c],
            "mde": x.mde,
        }
        for (t, c), x in twin_tests.items()
    ],
    columns=["twin", "config", "name", "effect", "low", "high", "p", "p_holm", "mde"],
)
work.save_table("twins", dosed)
_, ax = plt.subplots(figsize=(6.4, 1.0 + 0.3 * len(dosed)))
forest(dosed, ax, "VQA accuracy minus that of the reference (points)", scale=100)
plt.show()

# %% tags=["hide-input"]
display(
    Markdown(
        bullets(
            f"on {t}, {difference_claim(x, look(c).label, look(reference).label, NAMES['vqa'], twin_p[t, c])}"
            for (t, c), x in twin_tests.items()
        )
    )
)

# %% [markdown]
# ## Where MME loses
#
# MME reports fourteen sub-tasks, some of them with few images: in the real benchmark two of them have twenty. {numref}`fig-sub-tasks` shows
# each with its number of images, at most 200 points apiece; the correction is over all of its cells.

# %% mystnb={"figure": {"caption": "MME score of each configuration minus that of the reference, by sub-task with its number of images, in points of MME. Bars: paired bootstrap intervals over images.", "name": "fig-sub-tasks"}, "image": {"alt": "A forest plot per configuration with one line per MME sub-task."}}
names = list(dict.fromkeys(answers_of("mme", reference).category))
sub = {
    (c, name): benchmark_difference("mme", answers_of("mme", c), answers_of("mme", reference), score=name, **boot)
    for c in others
    for name in names
}
sub_p = dict(zip(sub, holm([x.p for x in sub.values()]), strict=True))
sub_tasks = pd.DataFrame(
    [
        {
            "config": c,
            "task": t,
            "n": x.n_clusters,
            "effect": 100 * x.effect,
            "low": 100 * x.interval[0],
            "high": 100 * x.interval[1],
            "p": x.p,
            "p_holm": sub_p[c, t],
            "mde": 100 * x.mde,
        }
        for (c, t), x in sub.items()
    ]
)
work.save_table("sub_tasks", sub_tasks)
sub_task_panels(sub_tasks).supxlabel("MME points minus those of the reference", fontsize=9)
plt.show()

# %% tags=["hide-input"]
found = [
    f"in {readable(t)}, {difference_claim(x, look(c).label, look(reference).label, 'MME score', sub_p[c, t])}"
    for (c, t), x in sub.items()
    if settled(x, sub_p[c, t])
]
largest = max(x.mde for x in sub.values())
nothing = (
    f"- No sub-task of any configuration differs beyond doubt (Holm-corrected over {len(sub)} tests). One such test, not "
    f"corrected, finds a difference of {100 * largest:.0f} points of MME four times in five, in every one of them."
)
display(Markdown(bullets(found) if found else nothing))

# %% [markdown]
# ## Who says yes
#
# POPE asks as often about what is there as about what is not. A model that leans to "yes" gains recall and loses precision, and
# its F1 can rise while it sees less.

# %% mystnb={"figure": {"caption": "Share of the questions answered with yes, by configuration; the dotted line is the share for which yes is right. Bars: bootstrap intervals over images.", "name": "fig-yes"}, "image": {"alt": "Dots with intervals: the share of yes answers per configuration, and a line at the true share."}}
leaning = scores[(scores.task == "pope") & (scores.score == "yes_ratio")]
true_yes = (answers_of("pope", reference).reference.str.lower() == "yes").mean()
_, ax = plt.subplots(figsize=(6.4, 1.0 + 0.3 * len(leaning)))
share_dots(leaning, ax, "Share of yes answers (%)", float(true_yes), "yes is right")
plt.show()

# %% tags=["hide-input"]
lean = {
    c: benchmark_difference("pope", answers_of("pope", c), answers_of("pope", reference), score="yes_ratio", **boot)
    for c in others
}
lean_p = dict(zip(lean, holm([x.p for x in lean.values()]), strict=True))
display(
    Markdown(
        bullets(
            difference_claim(x, look(c).label, look(reference).label, "yes answers", lean_p[c]) for c, x in lean.items()
        )
    )
)

# %% [markdown]
# ## How many answers change
#
# Equal scores do not mean equal answers: a model may lose some and win others. The share of changed answers and the divergence of
# the first token's distribution see what scores do not.

# %% tags=["hide-input"]
base = plain[plain.config == reference].set_index(["task", "item"]).prediction
asked = plain[plain.config.isin([reference, *others]) & (plain.task != TRANSLATION)]
said = base.loc[pd.MultiIndex.from_frame(asked[["task", "item"]])].to_numpy()
flips = asked.assign(correct=(asked.prediction.to_numpy() != said).astype(float))
changed = accuracy_table(flips, ["config"], cluster="image_id", **boot).set_index("config")
by_config = asked.groupby("config", sort=False)
shown = pd.DataFrame(
    {
        "Configuration": [look(c).label for c in changed.index],
        "Changed answers, %": [with_interval(*v) for v in changed[["accuracy", "low", "high"]].itertuples(index=False)],
        "Divergence, millinats": (1000 * by_config.kl.mean()[changed.index]).map("{:.3g}".format).to_numpy(),
        "Log-probability": by_config.logprob.mean()[changed.index].map("{:.3f}".format).to_numpy(),
        "Margin": by_config.margin.mean()[changed.index].map("{:.2f}".format).to_numpy(),
    }
)
work.save_table("changed", changed.reset_index())
caption = "Answers that differ from the reference's over all three benchmarks, with bootstrap intervals over images; mean divergence of the first token, mean log-probability of the answer and mean margin of its first token over the second best."
display(Markdown(myst_table(shown, caption, "tab-changed", {c: str for c in shown.columns[1:]})))
margins = asked[asked.config == reference].set_index(["task", "item"]).margin
moved = flips[flips.correct > 0][["task", "item"]].drop_duplicates()
if len(moved):
    hesitant = margins.loc[pd.MultiIndex.from_frame(moved)].median()
    display(
        Markdown(
            f"The reference's margin has a median of {hesitant:.2f} nats on the {len(moved):,} answers that some configuration changes and of "
            f"{margins.median():.2f} on all {len(margins):,}. Where margins are near zero, a small shift in one direction changes many answers "
            "while the mean divergence stays small."
        )
    )

# %% mystnb={"figure": {"caption": "Questions that configurations answer differently, with what each says; the star marks the reference answer.", "name": "fig-disagree"}, "image": {"alt": "Pictures with a question and the answers of several configurations."}}
open_asked = asked[asked.task == "vqa"]
wide = open_asked.pivot_table("prediction", "item", "config", aggfunc="first", sort=False)
split_items = wide[wide.nunique(axis=1) > 1]
split_items = (
    split_items.assign(n=split_items.nunique(axis=1)).sort_values("n", ascending=False, kind="stable").index[:8]
)
place = grid.sets["vqa"].rows.set_index("item")
tiles, texts = [], []
for item in split_items if len(split_items) else wide.index[:1]:
    truth = grid.sets["vqa"].references([grid.sets["vqa"].rows.index[grid.sets["vqa"].rows["item"] == item][0]])[0]
    answers = wide.loc[item].groupby(wide.loc[item], sort=False).groups
    lines = [f"{'*' if text == truth else ''}{text}: {', '.join(who)}" for text, who in answers.items()]
    tiles.append(grid.sets["vqa"].images[[place.image[item]]][0].permute(1, 2, 0).numpy())
    texts.append("\n".join([place.question[item], *lines]))
question_gallery(tiles, texts, columns=3)
plt.show()

# %% [markdown]
# ## Which language to calibrate in
#
# A report on a Chinese model found that calibrating AWQ on English alone hurt its Chinese, and that mixing in the second
# language mended it. The translation sub-task of MME shows a second language. The same configuration is calibrated on
# questions without it and on all sub-tasks, as often as `translation_draws` says.

# %% tags=["hide-input"]
translated = rows[rows.task == TRANSLATION]
per_draw = {mix: [draw_name(mix, k) for k in range(P.translation_draws)] for mix in P.translation_mixes}


def mean_score(twin, mix):
    own = translated[(translated.twin == twin) & translated.mix.isin(per_draw[mix])]
    return own.groupby(["item", "image_id"], sort=False).score.mean()


language = {}
for twin in (PLAIN, *P.twins):
    one, both = (mean_score(twin, mix) for mix in P.translation_mixes)
    images = one.index.get_level_values("image_id")
    language[twin] = paired_difference(one, both.loc[one.index], cluster=images, level=P.level, seed=P.seed)
language_p = dict(zip(language, holm([x.p for x in language.values()]), strict=True))
one, both = (f"{look(P.translation_config).label} calibrated on {mix} questions" for mix in P.translation_mixes)
work.save_table(
    "language",
    pd.DataFrame(
        [
            {
                "twin": t,
                "effect": x.effect,
                "low": x.interval[0],
                "high": x.interval[1],
                "p": x.p,
                "mde": x.mde,
                "n": x.n,
            }
            for t, x in language.items()
        ]
    ),
)
display(
    Markdown(
        bullets(
            f"on {t}, {difference_claim(x, one, both, 'accuracy in translation', language_p[t])}"
            for t, x in language.items()
        )
    )
)

# %% [markdown]
# ## Worse pictures
#
# The robustness gap of {doc}`robustness_gap`, for answers: does corruption cost a quantized model more than it costs the reference, in log
# odds above guessing?

# %% mystnb={"figure": {"caption": "Robustness gap of each configuration against the reference in log odds. Right of zero: quantization makes corruption cost more. Bars: paired bootstrap intervals over images.", "name": "fig-vlm-gap"}, "image": {"alt": "Forest plot of the robustness gap by configuration."}}
chance = 0.5 if TASKS[P.corrupted_task].yes_no else 0.0
seen = rows[(rows.twin == PLAIN) & (rows.task == P.corrupted_task)].assign(correct=lambda t: t.score)
gaps = gap_table(seen, reference, chance, cluster="image_id", **boot)
work.save_table("gaps", gaps)
_, ax = plt.subplots(figsize=(6.4, 0.9 + 0.34 * len(others)))
forest(gaps[gaps.scale == "logit"], ax, "Robustness gap (log odds; right: corruption costs more)")
plt.show()

# %% tags=["hide-input"]
gap_tests = {c: robustness_gap(seen, c, reference, chance, cluster="image_id", **boot) for c in others}
gap_p = holm([gap.p for gap in gap_tests.values()])
by_condition = seen.groupby(["corruption", "severity"], sort=False).score.mean()
condition_text = ", ".join(f"{readable(c)} {s} {100 * v:.1f} %" for (c, s), v in by_condition.items())
display(
    Markdown(
        f"Mean simulated accuracy over configurations: {condition_text}.\n\n"
        + bullets(gap_claim(gap, look(c).label, p) for (c, gap), p in zip(gap_tests.items(), gap_p, strict=True))
    )
)

# %% [markdown]
# ## Sanity
#
# What must hold in every run: the reference does not diverge from itself, and every configuration answered every question once.

# %%
assert (plain[plain.config == reference].kl < 1e-5).all()
assert (
    rows.groupby(["twin", "config", "mix", "task", "corruption", "severity"])
    .item.nunique()
    .eq(rows.groupby(["twin", "config", "mix", "task", "corruption", "severity"]).size())
    .all()
)
for task, own in rows.groupby("task"):
    assert own.groupby(["twin", "config", "mix", "corruption", "severity"]).size().eq(len(grid.sets[task])).all()
rows.groupby("task", sort=False)[["tokens", "logprob", "margin"]].mean().round(3)

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input"]
summary = difference_summary({f"{look(c).label} on {NAMES[t]}": x for (t, c), x in tests.items()})
points = [summary, *(claims[key] for key in tests if settled(tests[key], adjusted[key]))][:4]
points += [
    f"on {t}, {difference_claim(x, one, both, 'accuracy in translation', language_p[t])}" for t, x in language.items()
][:1]
display(Markdown(bullets(points)))
total = sum(len(grid.sets[task]) for task in NAMES)
answer = f"On {grid.model.name} and {total:,} questions of three benchmarks, {summary}."
glue("answer", Sentence(answer), display=False)

# %% [markdown]
# **What this does not show.** The model, its pictures and its questions are small and synthetic, and the twins' outliers are planted. A
# verdict about them is not one about VQAv2, POPE or MME. Simulated accuracy says nothing about speed.
#
# **Rerun it.**
#
# ```console
# papermill notebooks/vlm_accuracy.ipynb out.ipynb -f params/vlm_accuracy.yaml
# edgelib publish vlm_accuracy --params-dir params/qwen2-vl-2b
# ```
