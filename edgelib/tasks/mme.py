"""MME: two yes/no questions per image in 14 sub-tasks, 2,374 questions, at most 2,800 points (Fu et al., 2023).

The peer is `calculation.py` of the official evaluation tool (BradyFU/Awesome-Multimodal-Large-Language-Models).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError, choose, did_you_mean
from edgelib.stats.paired import REPLICATES, PairedDifference, rng_for, sign_flip_p
from edgelib.tasks.base import Task
from edgelib.tasks.references import yes_or_no
from edgelib.tasks.scores import bootstrap_means, difference, interval_table
from edgelib.tasks.yes_no import answer_texts, yes_labels

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUB_TASKS = PERCEPTION + COGNITION
MAXIMUM = 200  # points of an image with both answers right, and so of a task
_GROUPS = dict(perception=PERCEPTION, cognition=COGNITION, total=SUB_TASKS)
COLUMNS = ("task", "image", "answer", "prediction")
TRANSLATION = "text_translation"  # the sub-task that shows a second language
_POINT = 0.01  # of a score, in the rows of a benchmark


def read_answer(text: str) -> str:
    """The official reading: "yes", else "no", anywhere in the first four characters, else "other"."""
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def _check_frame(frame) -> None:
    if not isinstance(frame, pd.DataFrame):
        raise EdgelibError(f"MME answers must be a table with columns {', '.join(COLUMNS)}, got {type(frame).__name__}")
    for column in COLUMNS:
        if column not in frame.columns:
            hint = did_you_mean(column, frame.columns)
            raise EdgelibError(f"MME answers lack the column {column!r}{hint}; they need {', '.join(COLUMNS)}")
    if len(frame) == 0:
        raise EdgelibError("there are no MME answers; give at least one image with its two questions")
    for column in ("task", "image"):
        if frame[column].isna().any():
            raise EdgelibError(f"column {column!r} has missing values; every answer needs its {column}")
    spelt = {task.lower(): task for task in SUB_TASKS}
    for task in frame["task"].unique().tolist():
        if not isinstance(task, str) or task in _GROUPS:
            raise EdgelibError(f"column 'task' must hold names of tasks, such as 'existence'; got {task!r}")
        known = spelt.get(task.strip().lower().replace(" ", "_").replace("-", "_"))
        if known not in (None, task):
            raise EdgelibError(f"unknown MME task {task!r} (did you mean {known!r}?): it would be missing in the total")


def _images(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per task and image: hits (right answers, 0 to 2), both (1 if 2), unparsed (0 to 2)."""
    _check_frame(frame)
    yes = yes_labels(frame["answer"], "column 'answer'")
    said = np.array([read_answer(text) for text in answer_texts(frame["prediction"], "column 'prediction'")])
    marks = pd.DataFrame(
        dict(
            task=frame["task"].to_numpy(),
            image=frame["image"].to_numpy(),
            questions=1,
            hits=said == np.where(yes, "yes", "no"),
            unparsed=said == "other",
        )
    )
    try:
        images = marks.groupby(["task", "image"], sort=False).sum().reset_index()
    except TypeError as error:
        raise EdgelibError(f"column 'image' must hold names or numbers, got {frame['image'].iloc[0]!r}") from error
    wrong = images[images["questions"] != 2]
    if len(wrong):
        first = wrong.iloc[0]
        raise EdgelibError(
            f"every MME image has two questions, but image '{first.image}' of task {first.task!r} has {first.questions}"
            f" ({len(wrong)} such images); complete or drop them"
        )
    return images.assign(both=images["hits"] == 2)


def _totals(score: dict, zero=0.0) -> dict:
    """{perception, cognition, total} from {task: score}, over the official tasks that are there."""
    return {name: sum((score[task] for task in tasks if task in score), zero) for name, tasks in _GROUPS.items()}


def mme_scores(frame: pd.DataFrame) -> dict:
    """Return dict(perception, cognition, total, per_task={task: dict(acc, acc_plus, score)}, n, unparsed, missing).

    acc: share of right answers; acc_plus: share of images with both answers right; score = 100 * (acc + acc_plus), at
    most 200. perception and cognition sum the scores of the 10 and 4 official tasks, at most 2,000 and 800. `missing`
    lists the official tasks without answers: with any, the totals are partial. Other tasks are scored, not summed.
    frame: columns task, image, answer ("yes" / "no" or booleans), prediction (text), in any order; two rows per task
    and image. A prediction is yes if its first four characters hold "yes", else no if they hold "no", in any case
    ("know" is no), else it is unparsed and wrong.
    Raises EdgelibError for missing columns or values, an image without exactly two questions (the official tool pairs
    adjacent lines and would mix up images), values of a wrong kind, and an official task in another spelling.
    """
    images = _images(frame)
    grouped = images.groupby("task", sort=False)[["hits", "both"]].mean()
    per_task = {
        task: dict(acc=float(row.hits / 2), acc_plus=float(row.both), score=float(100 * (row.hits / 2 + row.both)))
        for task, row in grouped.iterrows()
    }
    return _totals({task: values["score"] for task, values in per_task.items()}) | dict(
        per_task=per_task,
        n=len(frame),
        unparsed=int(images["unparsed"].sum()),
        missing=[task for task in SUB_TASKS if task not in per_task],
    )


def _points(images: pd.DataFrame) -> np.ndarray:
    """Points of each image, 0, 50 or 200: the score of a task is their mean."""
    return (50 * images["hits"] + 100 * images["both"]).to_numpy(float)


def _draws(images: pd.DataFrame, points: np.ndarray, pseudo, n_boot: int, seed: int) -> dict[str, np.ndarray]:
    """{score: draws [1 + n_boot]} of the totals and of each task, from the points [images] whose means they are.

    Images are drawn within their task, because the number of images of a task is part of the benchmark. pseudo: points
    of images that join the pool of each task. They pull a task's draws to the middle, and would pull a total's fourteen
    times; hence a total has its draws back around its value. They are widened by n / (n - 1) in variance, which a total
    of small tasks would lack and `percentile_interval` does for one task.
    """
    tasks, centred = {}, {}
    for task, rows in images.groupby("task", sort=False).indices.items():
        terms, extra = points[rows, None], np.reshape(pseudo, (-1, 1))
        draws = bootstrap_means(terms, None, extra, n_boot, rng_for(seed, "mme", task))[0][:, 0]
        pool = len(terms) + len(extra)
        spread = draws - (terms.sum() + extra.sum()) / pool
        widened = spread * np.sqrt(pool / (pool - 1)) if pool > 1 else np.full_like(spread, np.nan)
        tasks[task], centred[task] = draws, np.append(draws[0], draws[0] + widened[1:])
    return _totals(centred, np.zeros(1 + n_boot)) | tasks


def _part(images: pd.DataFrame, score: str) -> pd.DataFrame:
    """The images that enter a score, a total's or a task's."""
    return images[images["task"].isin(_GROUPS.get(score, (score,)))]


def mme_interval(frame: pd.DataFrame, *, level: float = 0.95, n_boot: int = REPLICATES, seed: int = 0) -> pd.DataFrame:
    """Return a row for perception, cognition, total and each task: score, value, low, high, n_clusters, n, unparsed.

    value: points as in `mme_scores`; n: questions; n_clusters: images. Percentile bootstrap over images, drawn within
    their task, both questions of an image together; an image of 0 and one of 200 points join the pool of each task.
    Totals without any task are left out. Raises EdgelibError as `mme_scores`.
    """
    images = _images(frame)
    tables = []
    for name, draws in _draws(images, _points(images), [0, MAXIMUM], n_boot, seed).items():
        part = _part(images, name)
        if len(part):
            draws = draws.clip(0, MAXIMUM * part["task"].nunique())
            table = interval_table({name: draws}, len(part), level)
            tables.append(table.assign(n=2 * len(part), unparsed=int(part["unparsed"].sum())))
    return pd.concat(tables, ignore_index=True)


def _pseudo_difference(terms: np.ndarray, sizes: np.ndarray, n_boot: int, rng: np.random.Generator) -> np.ndarray:
    """Draws [1 + n_boot] of what a pair of pseudo-images adds, one for each model; terms [images] sum to the effect.

    In a large pool an image is drawn about Poisson(1) times. Its size is that of a typical image on which the models
    differ, or of one answer lost, 150 points, if there is none.
    """
    terms = terms[terms != 0] if terms.any() else 0.75 * MAXIMUM / sizes
    draws = np.sqrt((terms**2).mean()) * np.subtract(*rng.poisson(1.0, size=(2, 1 + n_boot)))
    draws[0] = 0
    return draws


def mme_difference(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    score: str = "total",
    level: float = 0.95,
    n_boot: int = REPLICATES,
    seed: int = 0,
) -> PairedDifference:
    """Return score(a) - score(b) in points, for two models' answers to the same questions, with interval, p, n and mde.

    score: "perception", "cognition", "total" or a task.
    - interval: each draw takes the same images for both, within their task; a pair of pseudo-images that tell the two
      apart, one each way, joins them.
    - p: sign-flip test over images (`sign_flip_p`).
    Raises EdgelibError as `mme_scores`, for an unknown score, and naming an image that only one of the two has.
    """
    first, second = (_images(frame).set_index(["task", "image"]) for frame in (a, b))
    lone = first.index.symmetric_difference(second.index, sort=False)
    if len(lone):
        task, image = lone[0]
        raise EdgelibError(f"a and b must answer the same questions: only one of them has image '{image}' of {task!r}")
    points = _points(first) - _points(second.loc[first.index])
    images = first.reset_index()
    part = _part(images, score)
    if not len(part):  # an unknown name, or a total none of whose tasks is there
        choose(dict.fromkeys(images["task"]), score, "score of these MME answers")
    sizes = part.groupby("task")["hits"].transform("size").to_numpy()
    terms = points[part.index] / sizes
    draws = _draws(images, points, [], n_boot, seed)[score]
    draws = draws + _pseudo_difference(terms, sizes, n_boot, rng_for(seed, "mme pseudo-images"))
    return difference(draws, sign_flip_p(terms, seed), 2 * len(part), len(part), level)


def _judge(predictions: list[str], references: list) -> dict:
    said = [read_answer(text) for text in predictions]
    right = [s == ("yes" if yes else "no") for s, yes in zip(said, yes_labels(references), strict=True)]
    return dict(score=right, said=said, parsed=[s != "other" for s in said])


def _frame(rows: pd.DataFrame) -> pd.DataFrame:
    columns = {"category": "task", "image_id": "image", "reference": "answer"}
    return rows[[*columns, "prediction"]].rename(columns=columns)


def _interval(rows: pd.DataFrame, **boot) -> pd.DataFrame:
    table = mme_interval(_frame(rows), **boot)
    return table.assign(**{column: _POINT * table[column] for column in ("value", "low", "high")})


def _paired(a: pd.DataFrame, b: pd.DataFrame, score: str, **boot) -> PairedDifference:
    a, b = (own[own["category"] == score] if score in set(own["category"]) else own for own in (a, b))
    test = mme_difference(_frame(a), _frame(b), score=score, **boot)
    low, high = test.interval
    return replace(test, effect=_POINT * test.effect, interval=(_POINT * low, _POINT * high), mde=_POINT * test.mde)


MME = Task(
    name="mme",
    title="MME",
    label="MME total",
    image_id="question_id",  # shared by the two questions of an image
    columns=("category", "answer"),
    reference="answer",
    read=yes_or_no,
    judge=_judge,
    category="category",
    strata=("category",),
    image_strata="category",
    second_language=("category", TRANSLATION),
    fewest_images=2 * len(SUB_TASKS),
    yes_no=True,
    primary="total",
    unit="points",
    interval=_interval,
    paired=_paired,
)
