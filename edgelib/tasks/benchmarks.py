"""The benchmarks that the library knows, how a table says of which it is, and what a model scores on one.

One point of a score is 0.01, in MME too, where 28 is the maximum of the total.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from edgelib.errors import EdgelibError, choose
from edgelib.stats.paired import PairedDifference, paired_difference
from edgelib.tasks.base import QUESTION, Task
from edgelib.tasks.exact import ANSWERS, EXACT
from edgelib.tasks.llava_bench import LLAVA_BENCH
from edgelib.tasks.mme import MME
from edgelib.tasks.pope import POPE
from edgelib.tasks.reading.chartqa import CHARTQA
from edgelib.tasks.reading.docvqa import DOCVQA
from edgelib.tasks.scores import mean_interval
from edgelib.tasks.textvqa import TEXTVQA
from edgelib.tasks.vqa import VQA

_ALL = (VQA, POPE, MME, TEXTVQA, DOCVQA, CHARTQA, LLAVA_BENCH, EXACT)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def task_named(task: str | Task) -> Task:
    """Return a benchmark by its name, or one as it is. Raises EdgelibError naming those that there are."""
    return task if isinstance(task, Task) else choose(TASKS, task, "benchmark")


def task_of(names: Iterable[str], where: str) -> Task:
    """Return the benchmark whose columns a table has: of those whose columns are all there, the one with most.

    TextVQA's columns are among those of VQAv2, and MME's among those of POPE, hence the last rule. Questions and
    answers without the marks of any benchmark are `exact`, and need no ids.
    Raises EdgelibError naming what is missing and what is there, for a table of no benchmark, of two that do not
    contain one another, and for one with some, but not all, of the columns that tell a benchmark from a smaller one.
    """
    names = list(names)
    present, wanted = set(names), {task: _told_by(task) for task in TASKS.values() if task is not EXACT}
    complete = [task for task in wanted if wanted[task] <= present]
    if not complete and _own_questions(names):
        return EXACT
    if not complete:
        raise _of_none(names, where)
    largest = [task for task in complete if not any(wanted[task] < wanted[other] for other in complete)]
    if len(largest) > 1:
        raise EdgelibError(
            f"{where} has all columns of {' and of '.join(task.name for task in largest)}, so it does not say which "
            f"benchmark it is; drop a column of the other: {'; '.join(_own(task, largest) for task in largest)}"
        )
    [task] = largest
    for other in (other for other in wanted if wanted[task] < wanted[other]):
        half = [column for column in other.wanted if column in present - wanted[task]]
        if half:
            missing = ", ".join(column for column in other.wanted if column not in present)
            raise EdgelibError(
                f"{where} could be questions of {other.name}, but has no column {missing}, or of {task.name}, which "
                f"has no {', '.join(half)}; add the one to be read as {other.name}, or drop the other to be read as "
                f"{task.name}; present: {', '.join(names)}"
            )
    return task


def _told_by(task: Task) -> set[str]:
    """The columns that tell a benchmark from others: all that it wants, without ids where it may do without them."""
    return set(task.wanted) - ({task.image_id, *task.item} if task.numbered else set())


def _own_questions(names: list[str]) -> bool:
    """Whether a table has questions and answers, and no column that tells a benchmark from others."""
    marks = {c for task in TASKS.values() if task is not EXACT for c in task.wanted if c != QUESTION}
    if QUESTION not in names or (marks - {*EXACT.wanted, ANSWERS}) & set(names):
        return False
    ids = {EXACT.image_id, *EXACT.item}
    return EXACT.reference in names or (ANSWERS in names and not ids <= set(names))


def _of_none(names: list[str], where: str) -> EdgelibError:
    missing = {task.name: [column for column in task.wanted if column not in names] for task in TASKS.values()}
    fewest = min(map(len, missing.values()))
    closest = "; ".join(f"{name} lacks {', '.join(lost)}" for name, lost in missing.items() if len(lost) == fewest)
    return EdgelibError(
        f"{where} asks questions, but in the columns of no benchmark ({', '.join(TASKS)}). Closest: {closest}; "
        f"present: {', '.join(names)}. Add or rename columns"
    )


def _own(task: Task, among: list[Task]) -> str:
    others = {column for other in among if other is not task for column in other.wanted}
    return f"{', '.join(column for column in task.wanted if column not in others)} ({task.name})"


def benchmark_scores(task: str | Task, rows: pd.DataFrame, **boot) -> pd.DataFrame:
    """Return one row per score of a benchmark: score, value, low, high, n_clusters, n, unparsed; bounds by images.

    rows: image_id, category, prediction and reference of every answer. boot: level, n_boot and seed.
    Raises EdgelibError for a benchmark that there is not, and as the benchmark's own functions.
    """
    task = task_named(task)
    if task.interval is not None:
        return task.interval(rows, **boot)
    worth = task.answer_scores(rows["prediction"], rows["reference"])
    return mean_interval(worth, rows["image_id"], task.name, task.primary, **boot)


def benchmark_difference(
    task: str | Task, a: pd.DataFrame, b: pd.DataFrame, score: str | None = None, **boot
) -> PairedDifference:
    """Return score(a) - score(b) with interval, p and mde, from answers to the same questions, row by row.

    a, b: rows as `benchmark_scores` takes them; where the score is a mean of single answers, image_id and score are
    enough. score: None for the primary one. boot: level, n_boot and seed; for such a mean n_boot changes nothing, as in
    `paired_difference`. Raises EdgelibError for a benchmark or a score that there is not.
    """
    task = task_named(task)
    score = task.primary if score is None else score
    if task.paired is not None:
        return task.paired(a, b, score, **boot)
    choose({task.primary: None}, score, f"{task.title} score")
    scores, drawn = (a["score"].to_numpy(), b["score"].to_numpy()), {k: v for k, v in boot.items() if k != "n_boot"}
    return paired_difference(*scores, cluster=a["image_id"].to_numpy(), **drawn)
